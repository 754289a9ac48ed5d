//! The client library against a stand-in for a cloudlet.

#![allow(clippy::unwrap_used, reason = "a test stops at the first thing that goes wrong")]
#![allow(dead_code, reason = "the stand-in is shared with other tests, which use other parts of it")]

use std::sync::Mutex;
use std::sync::atomic::Ordering;
use std::time::Duration;

use axum::{Json, Router, routing::get};
use handheld::api::{Missing, Sharing, Start};
use handheld::{Client, Error, Options, RunError, Session, Step, run_service, speech};

mod stub;
use stub::{Behaviour, Ready, Stream, Stub, wav};

fn options(stub: &Stub) -> Options {
    Options { cloudlet: Some(stub.url()), ..Options::new("speech".parse().unwrap()) }
}

async fn open(stub: &Stub) -> Result<Session, Error> {
    Session::open(&options(stub), &|_| ()).await
}

#[tokio::test]
async fn the_whole_way_gives_the_result_and_leaves_nothing_behind() {
    let stub = Stub::start(Behaviour::default()).await;
    let steps = Mutex::new(Vec::new());
    let done = run_service(&options(&stub), &|step| steps.lock().unwrap().push(step), async |session| {
        assert_eq!(stub.users(), 1);
        speech::recognize(session.address(), wav(16_000)).await
    })
    .await
    .unwrap();
    assert_eq!(done.result.text, "heard 16000 samples");
    assert_eq!((done.result.audio_ms, done.cloudlet.as_str()), (1000, "alpha"));
    assert_eq!(done.timing.cloudlet_ready_after_ms, Some(30));
    assert!(done.timing.ready_ms > 0, "{:?}", done.timing);
    assert_eq!(stub.users(), 0);
    let all =
        [Step::Discovering, Step::Choosing, Step::Starting, Step::Waiting, Step::Using, Step::Releasing];
    assert_eq!(*steps.lock().unwrap(), all);
}

#[tokio::test]
async fn the_instance_is_released_also_when_its_use_fails() {
    let stub = Stub::start(Behaviour::default()).await;
    let failed = run_service(&options(&stub), &|_| (), async |session| {
        speech::recognize(session.address(), b"RIFFnonsense".to_vec()).await
    })
    .await
    .unwrap_err();
    assert!(matches!(failed, RunError::Use(speech::Error::Wav(_))), "{failed:?}");
    assert_eq!(stub.users(), 0);
    assert_eq!(stub.shared.recognitions.load(Ordering::SeqCst), 0, "nothing was sent");
}

#[tokio::test]
async fn a_refusal_says_what_is_missing() {
    let missing = Some(Missing { memory_bytes: 100 << 20, cpu_millis: 500 });
    let stub = Stub::start(Behaviour { missing, ..Behaviour::default() }).await;
    let error = open(&stub).await.unwrap_err();
    assert!(matches!(error, Error::AllRefused { .. }), "{error:?}");
    let text = error.to_string();
    assert!(text.contains("alpha: too busy (missing: 100 MiB of memory, 0.5 cores)"), "{text}");
}

#[tokio::test]
async fn an_instance_that_fails_tells_why() {
    let stub = Stub::start(Behaviour { ready: Ready::Fails, ..Behaviour::default() }).await;
    let error = open(&stub).await.unwrap_err();
    assert!(
        matches!(&error, Error::InstanceFailed { reason, .. } if reason.contains("health check")),
        "{error:?}"
    );
}

#[tokio::test]
async fn without_an_event_stream_it_is_asked_again_and_again() {
    for stream in [Stream::Drops, Stream::Missing] {
        let stub =
            Stub::start(Behaviour { stream, ready: Ready::AfterAsking(3), ..Behaviour::default() }).await;
        let session = open(&stub).await.unwrap();
        assert_eq!(session.address(), stub.address);
        assert_eq!(stub.shared.asked.load(Ordering::SeqCst), 3, "{stream:?}");
        assert_eq!(stub.shared.streams.load(Ordering::SeqCst), 1, "{stream:?}");
    }
}

#[tokio::test]
async fn a_stream_that_hangs_does_not_hide_a_ready_instance() {
    let stub = Stub::start(Behaviour { stream: Stream::Silent, ..Behaviour::default() }).await;
    open(&stub).await.unwrap();
    assert_eq!(stub.shared.asked.load(Ordering::SeqCst), 1);
}

#[tokio::test]
async fn a_goodbye_ends_the_wait() {
    let behaviour = Behaviour { stream: Stream::Goodbye, ready: Ready::Never, ..Behaviour::default() };
    let stub = Stub::start(behaviour).await;
    let error = open(&stub).await.unwrap_err();
    assert!(matches!(error, Error::Goodbye { .. }), "{error:?}");
}

#[tokio::test]
async fn an_instance_that_is_not_ready_in_time_is_given_back() {
    let stub = Stub::start(Behaviour { ready: Ready::Never, ..Behaviour::default() }).await;
    let options = Options { ready_limit: Duration::from_millis(200), ..options(&stub) };
    let error = Session::open(&options, &|_| ()).await.unwrap_err();
    assert!(matches!(error, Error::Timeout { step: Step::Waiting, .. }), "{error:?}");
    assert_eq!(error.to_string(), "timed out after 0.2 s while waiting until the service is ready");
    assert_eq!(stub.users(), 0);
}

#[tokio::test]
async fn a_service_that_nobody_offers_lists_what_there_is() {
    let services = vec!["face".to_owned(), "maps".to_owned()];
    let stub = Stub::start(Behaviour { services, ..Behaviour::default() }).await;
    let error = open(&stub).await.unwrap_err();
    assert_eq!(error.to_string(), "no cloudlet offers 'speech'; alpha offers face, maps");
}

#[tokio::test]
async fn a_cloudlet_that_vanishes_while_it_is_waited_for_is_reported() {
    let stub =
        Stub::start(Behaviour { ready: Ready::Never, stream: Stream::Drops, ..Behaviour::default() }).await;
    let client = Client::at(stub.address).unwrap();
    let start =
        Start { service: "speech".parse().unwrap(), client_token: "t".to_owned(), sharing: Sharing::Shared };
    let instance = client.start(&start).await.unwrap();
    // A client of its own: the kept connection of the first would outlive the server's listener.
    let client = Client::at(stub.address).unwrap();
    stub.vanish();
    let error = client.wait_ready(instance.id, Duration::from_secs(30)).await.unwrap_err();
    assert!(matches!(error, Error::Vanished { .. }), "{error:?}");
}

#[tokio::test]
async fn one_token_gets_one_instance() {
    let stub = Stub::start(Behaviour::default()).await;
    let options = options(&stub);
    let one = Session::open(&options, &|_| ()).await.unwrap();
    let two = Session::open(&options, &|_| ()).await.unwrap();
    assert_eq!(one.instance().id, two.instance().id);
    assert_ne!(options.client_token, self::options(&stub).client_token, "tokens are random");
}

#[tokio::test]
async fn an_unspecified_address_means_where_the_cloudlet_was_reached() {
    let stub = Stub::start(Behaviour { unspecified: true, ..Behaviour::default() }).await;
    let session = open(&stub).await.unwrap();
    assert_eq!(session.instance().address.unwrap().ip().to_string(), "0.0.0.0");
    assert_eq!(session.address(), stub.address);
}

#[tokio::test]
async fn what_is_no_cloudlet_is_told_apart_from_what_does_not_answer() {
    let listener = tokio::net::TcpListener::bind("127.0.0.1:0").await.unwrap();
    let address = listener.local_addr().unwrap();
    let long = "x".repeat(5 << 20);
    let app = Router::new()
        .route("/api/v1/cloudlet", get(|| async { Json("hello") }))
        .route("/api/v1/services", get(|| async { Json(long) }));
    let server = tokio::spawn(async { axum::serve(listener, app).await });
    let client = Client::at(address).unwrap();
    assert!(matches!(client.cloudlet().await, Err(Error::Protocol { .. })));
    let error = client.services().await.unwrap_err();
    assert!(error.to_string().contains("more than 4194304 bytes"), "{error}");
    let error = client.instances().await.unwrap_err();
    assert!(error.to_string().contains("HTTP status 404"), "{error}");
    server.abort();
    let _ = server.await;
    let error = Client::at(address).unwrap().cloudlet().await.unwrap_err();
    assert!(matches!(error, Error::Vanished { .. }), "{error:?}");
    assert!(error.next_step().is_some());
}
