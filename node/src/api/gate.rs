//! Who may do what. TLS has let members in and nobody else; here each request is checked against what the certificate
//! allows, and against what has become known since the connection was opened.
//!
//! | request | needs |
//! |---|---|
//! | `GET` anything, tunnels included, `POST /instances`, `DELETE /instances/{id}?client_token=…`, `POST /revocations` | `use-services` |
//! | `DELETE /instances/{id}?force=true`, `POST` and `DELETE /instances/{id}/handoff`, `POST /instances/{id}/handoff/force`, `POST` and `DELETE /evacuation`, `POST /reintegration`, `POST /images/fetches`, `DELETE /images/fetches/{id}`, `PUT` and `DELETE /place`, `PUT /drain` | `operate` |
//! | `POST /pairing` | this cloudlet's own key: the operator at its console |
//!
//! This cloudlet's own key may do everything.

use std::sync::Arc;
use std::time::Duration;

use axum::extract::{ConnectInfo, Query, Request, State};
use axum::http::Method;
use axum::middleware::Next;
use axum::response::Response;
use handheld::api::Code;
use mesh::trust::{Member, Permissions, Refusal};

use super::connection::Silence;
use super::images::FETCHES;
use super::placement::EVACUATION;
use super::problem::Failure;
use super::routes::PREFIX;
use super::{Api, Arrival};
use crate::trust::Membership;

/// Who is at the other end of a connection.
#[derive(Debug, Clone)]
pub(super) struct Peer {
    pub(super) arrival: Arrival,
    /// `None` on a plain connection.
    pub(super) member: Option<Arc<Member>>,
    pub(super) silence: Silence,
}

/// A member whose standing can be asked for at any time; `None` where there is no mission.
#[derive(Clone)]
pub(super) struct Standing(pub(super) Option<(Membership, Arc<Member>)>);

/// How often it is looked whether somebody who does nothing new may go on. Guess: a thief gains a second.
pub(super) const CHECK_INTERVAL: Duration = Duration::from_secs(1);

impl Standing {
    /// Whether it is still a member.
    pub(super) fn holds(&self) -> bool {
        self.refusal().is_none()
    }

    /// Why it is no longer a member.
    pub(super) fn refusal(&self) -> Option<Refusal> {
        let (membership, member) = self.0.as_ref()?;
        membership.still(member).err()
    }

    /// Waits until it is no longer a member.
    pub(super) async fn lost(self) {
        let mut looks = tokio::time::interval(CHECK_INTERVAL);
        while self.holds() {
            looks.tick().await;
        }
    }
}

pub(super) async fn check(
    State(api): State<Api>,
    ConnectInfo(peer): ConnectInfo<Peer>,
    mut request: Request,
    next: Next,
) -> Result<Response, Failure> {
    let standing = match (&api.membership, peer.member) {
        (None, _) => Standing(None),
        (Some(membership), Some(member)) => {
            allow(membership, &member, &request)?;
            Standing(Some((membership.clone(), member)))
        }
        // The listener lets nobody through without a certificate; if that ever changed, this would hold.
        (Some(_), None) => {
            return Err(Failure::new(Code::NotAllowed, "a certificate of the mission is needed"));
        }
    };
    request.extensions_mut().insert(ConnectInfo(peer.arrival));
    let _pressing =
        is_for_people(&standing, &request).then(|| api.exchange.as_ref().map(|it| it.throttle().press()));
    request.extensions_mut().insert(ConnectInfo(standing));
    Ok(next.run(request).await)
}

fn allow(membership: &Membership, member: &Member, request: &Request) -> Result<(), Failure> {
    let refused = |refusal: Refusal| Failure::new(Code::NotAllowed, refusal.to_string());
    membership.still(member).map_err(refused)?;
    if membership.is_own(member) {
        return Ok(());
    }
    match needs(request) {
        Some(permissions) => member.may(permissions).map_err(refused),
        None => Err(Failure::new(Code::NotAllowed, "only the operator at this cloudlet may do this")),
    }
}

/// What a request needs; `None` for what only the cloudlet's own operator may.
fn needs(request: &Request) -> Option<Permissions> {
    let path = request.uri().path().strip_prefix(PREFIX).unwrap_or_default();
    match *request.method() {
        Method::GET | Method::HEAD => Some(Permissions::USE_SERVICES),
        Method::POST if matches!(path, "/instances" | "/revocations") => Some(Permissions::USE_SERVICES),
        Method::POST if matches!(path, FETCHES | EVACUATION | "/reintegration") || is_handoff(path) => {
            Some(Permissions::OPERATE)
        }
        Method::DELETE if path.starts_with("/instances/") && !is_handoff(path) && is_own_use(request) => {
            Some(Permissions::USE_SERVICES)
        }
        Method::DELETE => Some(Permissions::OPERATE),
        Method::PUT if matches!(path, "/place" | "/drain") => Some(Permissions::OPERATE),
        _ => None,
    }
}

/// Whether a path is that of an instance's handoff.
fn is_handoff(path: &str) -> bool {
    path.starts_with("/instances/") && (path.ends_with("/handoff") || path.ends_with("/handoff/force"))
}

/// Whether images that are being exchanged give way while a request is answered: to members, not to this cloudlet's own
/// operator, who perhaps watches that very exchange.
fn is_for_people(standing: &Standing, request: &Request) -> bool {
    let is_own = standing.0.as_ref().is_none_or(|(membership, member)| membership.is_own(member));
    !is_own && !request.uri().path().strip_prefix(PREFIX).is_some_and(|path| path.starts_with(FETCHES))
}

/// Whether a request plainly ends the client's own use of an instance. Read with the handlers' own parser: a name that
/// is written in another way (`%66orce`) must not mean one thing here and another there.
fn is_own_use(request: &Request) -> bool {
    let Ok(Query(pairs)) = Query::<Vec<(String, String)>>::try_from_uri(request.uri()) else { return false };
    pairs.iter().any(|(key, _)| key == "client_token") && pairs.iter().all(|(key, _)| key != "force")
}

#[cfg(test)]
mod tests {
    use axum::body::Body;

    use super::*;

    #[test]
    fn every_request_needs_something() {
        let needs = |method: &str, uri: &str| {
            needs(
                &Request::builder().method(method).uri(format!("/api/v1{uri}")).body(Body::empty()).unwrap(),
            )
        };
        assert_eq!(needs("GET", "/instances"), Some(Permissions::USE_SERVICES));
        assert_eq!(needs("POST", "/instances"), Some(Permissions::USE_SERVICES));
        assert_eq!(needs("DELETE", "/instances/1?client_token=a"), Some(Permissions::USE_SERVICES));
        for forced in ["?force=true", "?client_token=a&force=true", "?client_token=a&%66orce=true", ""] {
            assert_eq!(
                needs("DELETE", &format!("/instances/1{forced}")),
                Some(Permissions::OPERATE),
                "{forced}"
            );
        }
        for (method, path) in [("PUT", "/place"), ("DELETE", "/place"), ("PUT", "/drain")] {
            assert_eq!(needs(method, path), Some(Permissions::OPERATE), "{method} {path}");
        }
        assert_eq!(needs("GET", "/images/fetches"), Some(Permissions::USE_SERVICES));
        assert_eq!(needs("POST", "/images/fetches"), Some(Permissions::OPERATE));
        for ending in ["/images/fetches/1", "/images/fetches/1?client_token=a"] {
            assert_eq!(needs("DELETE", ending), Some(Permissions::OPERATE), "{ending}");
        }
        for (method, query) in [("POST", ""), ("DELETE", ""), ("DELETE", "?client_token=a")] {
            let handoff = format!("/instances/1/handoff{query}");
            assert_eq!(needs(method, &handoff), Some(Permissions::OPERATE), "{method} {handoff}");
        }
        for path in ["/instances/1/handoff/force", "/evacuation", "/reintegration"] {
            assert_eq!(needs("POST", path), Some(Permissions::OPERATE), "{path}");
        }
        assert_eq!(needs("DELETE", "/evacuation?client_token=a"), Some(Permissions::OPERATE));
        for path in ["/instances/1/handoff", "/instances/1/handoff/plan?to=a", "/evacuation", "/placement"] {
            assert_eq!(needs("GET", path), Some(Permissions::USE_SERVICES), "{path}");
        }
        assert_eq!(needs("POST", "/pairing"), None);
        assert_eq!(needs("PUT", "/instances"), None);
    }
}
