//! The destination's end of a stream of pages: a task that reads, and a thread that keeps what comes, rebuilds the VM and loads
//! it without running it.

use std::fs::{self, File};
use std::io;
use std::net::{IpAddr, SocketAddr};
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::thread::ScopedJoinHandle;
use std::time::Duration;

use migration::VmId;
use migration::handoff::{Grant, Input};
use migration::hypervisor::{CloneSpec, MEMORY_BLOCK, Moving};
use migration::reduce::{self, Arrived, PageHash, Sink};
use tokio::sync::{mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use vm_images::{Digest, ImageId, Role, qcow2};

use super::journal::Journal;
use super::papers;
use super::stock::Stock;
use super::wire::{self, Frame, MAX_HASHES};
use crate::causes::chain;
use crate::exchange::{ByteStream, frames};
use crate::instances::clock::Clock;
use crate::instances::{record, tasks};
use crate::lifecycle::{Saved, SavedPhase, Service, standing_still};

/// How often the core is told that the source lives. Far less than a lease.
const PROGRESS_EVERY: Duration = Duration::from_secs(1);
/// Frames between task and thread. One that is read, one that is ready.
const WAITING: usize = 2;

/// How the words begin that the source is told of what went wrong here.
pub(super) const AT_DESTINATION: &str = "at the destination: ";
/// How the words begin that blame the link.
pub(super) const STREAM_ENDED: &str = "the stream of the source ended";

/// Where the VM is to be, and with what it is made.
pub(super) struct Berth {
    pub vm: VmId,
    pub grant: Grant,
    pub image: ImageId,
    pub service: Arc<Service>,
    /// Most that may arrive, pages.
    pub most_pages: u32,
    /// The instances' directory.
    pub all: PathBuf,
    /// File of the pages that arrived.
    pub arrived: PathBuf,
    pub bind: IpAddr,
    pub hypervisor: Arc<dyn Moving>,
    pub stock: Arc<Stock>,
    pub journal: Journal,
    pub clock: Clock,
}

/// A VM that is loaded and waits.
#[derive(Debug, Clone)]
pub(super) struct Loaded {
    pub saved: Saved,
    pub service: Arc<Service>,
    pub address: SocketAddr,
}

/// A receiving that is under way.
pub(super) struct Receiving {
    pub grant: Grant,
    cancel: CancellationToken,
    verify: Option<oneshot::Sender<Digest>>,
    task: JoinHandle<Option<Loaded>>,
}

impl Receiving {
    /// Begins. Answers [`Receiving::verify`] in `answers`.
    pub fn start(berth: Berth, stream: ByteStream, answers: mpsc::Sender<Input>) -> Self {
        let cancel = CancellationToken::new();
        let (verify, verified) = oneshot::channel();
        let grant = berth.grant;
        let token = cancel.clone();
        let task = tokio::spawn(async move {
            let (vm, stop) = (berth.vm, token.clone());
            match receive(berth, stream, &answers, verified, token).await {
                Ok(loaded) => {
                    tokio::select! {
                        // The actor that asked has ended.
                        _ = answers.send(Input::Verified { grant }) => {}
                        // It waits for this task, and not for its answer.
                        () = stop.cancelled() => {}
                    }
                    Some(loaded)
                }
                Err(why) => {
                    if !stop.is_cancelled() {
                        tracing::warn!(%vm, why, "a VM that was to come has not come");
                    }
                    // Before it was asked to verify anything the core does not care; the source notices by itself.
                    tokio::select! {
                        _ = answers.send(Input::NotVerified { grant, why }) => {}
                        () = stop.cancelled() => {}
                    }
                    None
                }
            }
        });
        Self { grant, cancel, verify: Some(verify), task }
    }

    /// All has come, says the source, and this must come out.
    pub fn verify(&mut self, digest: Digest) {
        if let Some(verify) = self.verify.take() {
            // It has failed, and says so by itself.
            let _ = verify.send(digest);
        }
    }

    /// Ends it, or takes what it has loaded.
    pub async fn end(self, keep: bool) -> Option<Loaded> {
        if !keep {
            self.cancel.cancel();
        }
        drop(self.verify);
        self.task.await.unwrap_or_else(|error| {
            tracing::error!(%error, "receiving a VM ended in a panic");
            None
        })
    }
}

async fn receive(
    berth: Berth,
    stream: ByteStream,
    answers: &mpsc::Sender<Input>,
    verify: oneshot::Receiver<Digest>,
    cancel: CancellationToken,
) -> Result<Loaded, String> {
    let (mut reader, mut writer) = tokio::io::split(stream);
    let (frames_in, frames_out) = mpsc::channel(WAITING);
    let (have, had) = oneshot::channel();
    let stop = cancel.clone();
    let thread = tokio::task::spawn_blocking(move || rebuild(&berth, have, frames_out, verify, &stop));
    let reading = async {
        let have: Vec<PageHash> = had.await.map_err(|_| io::Error::other("it could not be begun"))?;
        for some in have.chunks(MAX_HASHES) {
            frames::write(&mut writer, &Frame::Have(some.to_vec()).encode()).await?;
        }
        frames::write(&mut writer, &Frame::Have(Vec::new()).encode()).await?;
        let mut taken = 0;
        let mut tick = tokio::time::interval(PROGRESS_EVERY);
        loop {
            let reading = wire::read(&mut reader);
            tokio::pin!(reading);
            let frame = loop {
                tokio::select! {
                    frame = &mut reading => break frame?,
                    // A long frame on a slow link.
                    _ = tick.tick() => {}
                }
            };
            // If there is no room, there is news enough.
            let _ = answers.try_send(Input::Progress);
            let is_last = matches!(frame, Frame::All(_));
            if frames_in.send(frame).await.is_err() {
                // The thread has failed and says why below.
                return Ok(());
            }
            taken += 1;
            frames::write(&mut writer, &Frame::Taken(taken).encode()).await?;
            if is_last {
                frames::write(&mut writer, &Frame::Stored.encode()).await?;
                return Ok::<_, io::Error>(());
            }
        }
    };
    let read = tokio::select! {
        read = reading => read,
        () = cancel.cancelled() => Err(io::Error::other("it was given up")),
    };
    drop(frames_in);
    let rebuilt = thread.await.map_err(|error| format!("internal error: {error}"))?;
    match (rebuilt, read) {
        (Ok(loaded), _) => Ok(loaded),
        (Err(Failure::Stream), Err(error)) => Err(format!("{STREAM_ENDED}: {error}")),
        (Err(Failure::Stream), Ok(())) => Err(STREAM_ENDED.to_owned()),
        (Err(Failure::Here(why)), _) => {
            let why = format!("{AT_DESTINATION}{why}");
            // Told at once: the source need not wait for its own patience.
            let refused = Frame::Refused(why.clone()).encode();
            let _ = tokio::time::timeout(PROGRESS_EVERY, frames::write(&mut writer, &refused)).await;
            Err(why)
        }
    }
}

/// Why a VM was not loaded.
enum Failure {
    /// The source said no more.
    Stream,
    /// Something here.
    Here(String),
}

impl From<reduce::Error> for Failure {
    fn from(error: reduce::Error) -> Self {
        Self::Here(chain(&error))
    }
}

/// The thread.
fn rebuild(
    berth: &Berth,
    have: oneshot::Sender<Vec<PageHash>>,
    mut frames: mpsc::Receiver<Frame>,
    verify: oneshot::Receiver<Digest>,
    cancel: &CancellationToken,
) -> Result<Loaded, Failure> {
    let here = |error: &(dyn std::error::Error + 'static)| Failure::Here(chain(error));
    let opened = berth.stock.open_plain(berth.image).map_err(|error| here(&error))?;
    let spec = spec(berth, &opened);
    let backing = opened.image.path(Role::Disk).map_err(|error| here(&error))?;
    let mut sink = Sink::new(&opened.images, Arrived::open(&berth.arrived, berth.most_pages)?)?;
    let _ = have.send(sink.have().to_vec());
    // Beside what comes: the VM stands still by the end of that.
    let record = std::thread::scope(|scope| {
        gather(&mut sink, &mut frames, scope.spawn(|| prepare(berth, &spec, &backing)))
    })?;
    let all_came = berth.clock.now();
    let (home, record) = papers::decode(&record);
    let saved = record::decode(record).map_err(|error| here(&error))?;
    if saved.vm != berth.vm || saved.service.image != berth.image {
        return Err(Failure::Here("the source sent the record of another instance".to_owned()));
    }
    // While the source's word that it was all is on its way; nothing runs before it has come and fits.
    let digest = restore(&mut sink, &spec, &backing)?;
    if cancel.is_cancelled() {
        return Err(Failure::Stream);
    }
    let restored = berth.clock.now();
    let address = load(berth, &spec).map_err(Failure::Here)?;
    let loaded = berth.clock.now();
    let wanted = verify.blocking_recv().map_err(|_| Failure::Stream)?;
    if digest != wanted {
        return Err(Failure::Here(
            "what was rebuilt is not what the source has; it runs on there. Verify the images here"
                .to_owned(),
        ));
    }
    // What its service is and needs, the image here says.
    let saved = Saved {
        address: Some(address),
        service: (*berth.service).clone(),
        phase: SavedPhase::Ready,
        ..saved
    };
    let told = berth.clock.now();
    let kept = record::encode(&standing_still(Duration::ZERO, &saved)).map_err(|error| here(&error))?;
    if let Some(home) = home {
        berth.journal.put_home(berth.vm, home).map_err(|error| here(&error))?;
    }
    berth.journal.put_arrival(berth.vm, &kept).map_err(|error| here(&error))?;
    let ms = |from: Duration, to: Duration| to.saturating_sub(from).as_millis() as u64;
    tracing::info!(
        vm = %berth.vm,
        restore_ms = ms(all_came, restored),
        load_ms = ms(restored, loaded),
        wait_ms = ms(loaded, told),
        keep_ms = ms(told, berth.clock.now()),
        "a VM was received"
    );
    Ok(Loaded { saved, service: Arc::clone(&berth.service), address })
}

/// Takes what comes, until that is all; gives the record of the instance.
fn gather(
    sink: &mut Sink<'_>,
    frames: &mut mpsc::Receiver<Frame>,
    preparing: ScopedJoinHandle<'_, Result<(), String>>,
) -> Result<Vec<u8>, Failure> {
    let here = |error: &(dyn std::error::Error + 'static)| Failure::Here(chain(error));
    let mut preparing = Some(preparing);
    let record = loop {
        let frame = frames.blocking_recv();
        // If it cannot be here, the source learns that while it still runs there.
        preparing.take_if(|preparing| preparing.is_finished()).map_or(Ok(()), prepared)?;
        match frame {
            Some(Frame::Piece(bytes)) => {
                sink.take(reduce::Frame::decode(&bytes).map_err(|error| here(&error))?)?;
            }
            Some(Frame::Alive) => {}
            Some(Frame::All(record)) => break record,
            Some(_) => return Err(Failure::Here("the source sent something that makes no sense".to_owned())),
            None => {
                sink.arrived().sync()?;
                return Err(Failure::Stream);
            }
        }
    };
    preparing.map_or(Ok(()), prepared)?;
    Ok(record)
}

fn prepared(preparing: ScopedJoinHandle<'_, Result<(), String>>) -> Result<(), Failure> {
    let prepared =
        preparing.join().unwrap_or_else(|_| Err("internal error: preparing it panicked".to_owned()));
    prepared.map_err(Failure::Here)
}

fn spec(berth: &Berth, opened: &super::stock::Opened) -> CloneSpec {
    let directory = tasks::directory(&berth.all, berth.vm);
    let part = |role: Role| opened.image.path(role).unwrap_or_default();
    CloneSpec {
        vm: berth.vm,
        hardware: opened.image.manifest.hardware.clone(),
        disk: directory.join("disk.qcow2"),
        template: part(Role::MemoryTemplate),
        device_stream: directory.join("arrived.stream"),
        console: directory.join("console.log"),
    }
}

/// Starts a VM that waits for what comes, on a disk on which nothing is written yet.
fn prepare(berth: &Berth, spec: &CloneSpec, backing: &Path) -> Result<(), String> {
    let cannot = |path: &Path, error: &io::Error| format!("cannot write {}: {error}", path.display());
    if let Some(directory) = spec.disk.parent() {
        fs::create_dir_all(directory).map_err(|error| cannot(directory, &error))?;
        // Of a try that came to nothing.
        for old in [&spec.disk, &spec.device_stream] {
            match fs::remove_file(old) {
                Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(cannot(old, &error)),
                _ => {}
            }
        }
    }
    let virtual_bytes = qcow2::virtual_size(backing).map_err(|error| chain(&error))?;
    qcow2::create_overlay(&spec.disk, backing, virtual_bytes).map_err(|error| chain(&error))?;
    berth.hypervisor.prepare(spec).map_err(|error| chain(&error))
}

/// Writes disk and device stream, and says what they are.
fn restore(sink: &mut Sink<'_>, spec: &CloneSpec, backing: &Path) -> Result<Digest, Failure> {
    let mut stream = File::create_new(&spec.device_stream)
        .map_err(|error| Failure::Here(format!("cannot write {}: {error}", spec.device_stream.display())))?;
    let cannot = |error| {
        let path = spec.device_stream.display();
        Failure::Here(format!("cannot rebuild the memory in {path}: {}", chain(&error)))
    };
    let memory = sink.restore_memory(MEMORY_BLOCK, &mut stream).map_err(cannot)?;
    let disk = sink.overwrite_disk(&spec.disk, backing)?;
    Ok(reduce::digest(&memory.root, &disk.root, &sink.device_digest()))
}

/// Loads the VM without running it. On error nothing of it is left running.
fn load(berth: &Berth, spec: &CloneSpec) -> Result<SocketAddr, String> {
    let Berth { vm, bind, service, hypervisor, .. } = berth;
    hypervisor.load(spec).map_err(|error| chain(&error))?;
    hypervisor.forward_port(*vm, *bind, 0, service.guest_port).map_err(|error| {
        if let Err(error) = hypervisor.stop(*vm) {
            tracing::error!(%vm, %error, "a VM whose port cannot be forwarded cannot be stopped");
        }
        chain(&error)
    })
}
