//! The stream of events.

use std::time::Duration;

use axum::extract::{ConnectInfo, State};
use axum::response::sse::{self, KeepAlive, Sse};
use futures_util::stream::{self, Stream, StreamExt};
use handheld::api::{Event, Problem};
use tokio_stream::wrappers::BroadcastStream;
use tokio_stream::wrappers::errors::BroadcastStreamRecvError;
use tokio_util::sync::CancellationToken;

use super::gate::Standing;
use super::problem::Failure;
use super::{Api, Arrival};
use crate::instances::Subscription;
use crate::lifecycle::Instance;

/// How often a comment is sent on a quiet stream: it shows a dead connection, and keeps a live one from being closed for
/// its silence ([`super::SILENCE_LIMIT`]).
const KEEP_ALIVE: Duration = Duration::from_secs(10);

/// The present state of every instance, then each change, as server-sent events; images that are fetched and instances that
/// move as well.
///
/// The data of each event is one `Event` in JSON. A listener that was too slow gets `missed` and should ask for the
/// list again. The last event is `goodbye`, or `not-allowed` if the listener was revoked or its certificate has expired.
#[utoipa::path(get, path = "/events", tag = "instances", responses(
    (status = 200, description = "Server-sent events whose data is an `Event`", content_type = "text/event-stream",
        body = Event),
    (status = 503, description = "The cloudlet is shutting down (`shutting-down`)", body = Problem),
))]
pub(super) async fn events(
    State(api): State<Api>,
    ConnectInfo(arrival): ConnectInfo<Arrival>,
    ConnectInfo(standing): ConnectInfo<Standing>,
) -> Result<Sse<impl Stream<Item = Result<sse::Event, axum::Error>>>, Failure> {
    let subscription = api.instances.subscribe().await?;
    let others = stream::select(api.fetch_events(), api.handoff_events());
    let goodbye = api.goodbye.clone();
    let show = move |instance: &Instance| Event::Instance(api.instance_view(instance, arrival));
    let frames = stream(subscription, others, show, standing, goodbye)
        .map(|event| sse::Event::default().json_data(event));
    Ok(Sse::new(frames).keep_alive(KeepAlive::new().interval(KEEP_ALIVE)))
}

fn stream(
    subscription: Subscription,
    others: impl Stream<Item = Event>,
    show: impl Fn(&Instance) -> Event + Clone,
    standing: Standing,
    goodbye: CancellationToken,
) -> impl Stream<Item = Event> {
    let show_change = show.clone();
    let present = stream::iter(subscription.present).map(move |instance| show(&instance));
    let changes = BroadcastStream::new(subscription.changes).map(move |change| match change {
        Ok(instance) => show_change(&instance),
        Err(BroadcastStreamRecvError::Lagged(events)) => Event::Missed { events },
    });
    let (at_each, meanwhile) = (standing.clone(), standing.clone());
    let end = async move {
        tokio::select! {
            () = goodbye.cancelled() => {}
            () = meanwhile.lost() => {}
        }
    };
    present
        .chain(stream::select(changes, others))
        // Not one event to somebody who was revoked since it was last looked.
        .take_while(move |_| std::future::ready(at_each.holds()))
        .take_until(end)
        .chain(stream::once(async move { last(&standing) }))
}

/// Why the stream ends.
fn last(standing: &Standing) -> Event {
    match standing.refusal() {
        Some(refusal) => Event::NotAllowed { reason: refusal.to_string() },
        None => Event::Goodbye,
    }
}

#[cfg(test)]
mod tests {
    use std::sync::Arc;

    use tokio::sync::broadcast;

    use super::super::view;
    use super::*;

    #[tokio::test]
    async fn a_listener_that_is_too_slow_is_told_how_many_it_missed() {
        let (sender, changes) = broadcast::channel(2);
        let instance = Arc::new(crate::lifecycle::tests::instance());
        for _ in 0..5 {
            sender.send(instance.clone()).unwrap();
        }
        let goodbye = CancellationToken::new();
        let mut events = Box::pin(stream(
            Subscription { present: Vec::new(), changes },
            stream::empty(),
            |instance| Event::Instance(view::instance(instance, Arrival(None), None)),
            Standing(None),
            goodbye.clone(),
        ));
        assert_eq!(events.next().await, Some(Event::Missed { events: 3 }));
        assert!(matches!(events.next().await, Some(Event::Instance(_))));
        assert!(matches!(events.next().await, Some(Event::Instance(_))));
        goodbye.cancel();
        assert_eq!(events.next().await, Some(Event::Goodbye));
        assert_eq!(events.next().await, None);
    }
}
