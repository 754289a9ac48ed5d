//! The real `speech` image, if the image store that the environment names has one: from two stores over loopback TCP.

#![allow(
    clippy::unwrap_used,
    reason = "tests may panic; clippy recognises only the functions marked as tests"
)]

mod exchange_support;

use std::net::SocketAddr;
use std::os::unix::fs::MetadataExt as _;
use std::sync::Arc;

use exchange_support::*;
use node::exchange::{Config, Exchange, Phase};
use tokio::net::TcpListener;
use vm_images::{ImageId, Store};

/// A copy of the images with their holes, in a store of its own, so that nothing is written into the real one.
fn borrowed(from: &std::path::Path, root: &std::path::Path) -> Option<(Store, ImageId)> {
    let name = std::fs::read_to_string(from.join("names/speech")).ok()?;
    let speech: ImageId = name.trim().parse().unwrap();
    let images = root.join("images");
    std::fs::create_dir_all(&images).unwrap();
    let mut next = Some(speech);
    while let Some(id) = next {
        std::os::unix::fs::symlink(from.join("images").join(id.to_string()), images.join(id.to_string()))
            .unwrap();
        let manifest = std::fs::read(from.join("images").join(id.to_string()).join("manifest.json")).unwrap();
        next = vm_images::Manifest::parse(&manifest).unwrap().parent;
    }
    Some((open(root, 1), speech))
}

async fn serve(store: Store) -> SocketAddr {
    let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let nobody = Arc::new(Network::new(node(1)));
    let (exchange, _running) = Exchange::start(store, nobody, Config::default());
    tokio::spawn(async move {
        while let Ok((stream, _)) = listener.accept().await {
            let exchange = exchange.clone();
            tokio::spawn(async move { exchange.serve(node(9), Box::new(stream)).await });
        }
    });
    address
}

#[tokio::test(flavor = "multi_thread")]
async fn the_speech_image_over_loopback() {
    let Some(real) = std::env::var_os("CLOUDLET_NODE__IMAGE_STORE") else {
        return eprintln!("SKIPPED: CLOUDLET_NODE__IMAGE_STORE names no image store");
    };
    let dir = tempfile::tempdir().unwrap();
    let Some((store, speech)) = borrowed(real.as_ref(), &dir.path().join("a")) else {
        return eprintln!("SKIPPED: there is no image 'speech' in {}", real.display());
    };
    let address = serve(store.clone()).await;
    let to = open(&dir.path().join("b"), 2);
    let (_, signature) = store.signed(speech).unwrap();
    to.trust(vm_images::signature::Detached::parse(&signature).unwrap().signer).unwrap();
    let remote = Remote { address, holdings: holdings(&[("speech", speech)]) };
    let (exchange, running) = Exchange::start(to.clone(), Arc::new(remote), Config::default());
    for round in ["first (the holder measures its blocks)", "second"] {
        let clock = tokio::time::Instant::now();
        let done = ended(exchange.fetch(speech, None).await.unwrap()).await;
        let took = clock.elapsed();
        assert_eq!(done.phase, Phase::Done);
        let (mut length, mut allocated) = (0, 0);
        for image in to.chain(speech).unwrap() {
            for part in &image.manifest.parts {
                length += part.bytes;
                allocated += std::fs::metadata(image.path(part.role).unwrap()).unwrap().blocks() * 512;
            }
        }
        eprintln!(
            "{round}: {} MB long, {} MB on disk, {} MB on the wire, {} MB found here, {:.1} s, {:.0} MB/s of content",
            length / 1_000_000,
            allocated / 1_000_000,
            done.wire_bytes / 1_000_000,
            done.reused_bytes / 1_000_000,
            took.as_secs_f64(),
            allocated as f64 / 1e6 / took.as_secs_f64(),
        );
        assert!(done.wire_bytes < allocated, "nothing was saved");
        to.verify(speech).unwrap();
        for image in to.chain(speech).unwrap() {
            to.remove(image.id).unwrap();
        }
    }
    running.stop().await;
}
