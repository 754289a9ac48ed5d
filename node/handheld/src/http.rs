//! HTTP as this client speaks it: to the local link, without proxies or redirects, answers capped.

use std::net::SocketAddr;
use std::time::Duration;

use mesh::NodeId;

use crate::{Access, Error};

/// Longest wait for a connection. Guess: ten times a slow link's round trip, short enough to go on to another cloudlet.
const CONNECT_LIMIT: Duration = Duration::from_secs(3);

/// A client that goes straight to the local link, with the scheme that its URLs have. `pin` makes a host name stand for
/// an address; with `expected`, only the cloudlet of that id is spoken to.
pub fn client(
    access: &Access,
    pin: Option<(&str, SocketAddr)>,
    expected: Option<NodeId>,
) -> Result<reqwest::Client, Error> {
    let mut builder = reqwest::Client::builder()
        // A proxy of the enterprise cannot reach the link, and must not see what goes over it.
        .no_proxy()
        .redirect(reqwest::redirect::Policy::none())
        .connect_timeout(CONNECT_LIMIT)
        .user_agent(concat!("handheld/", env!("CARGO_PKG_VERSION")));
    if let Some((host, address)) = pin {
        builder = builder.resolve(host, address);
    }
    let config = match access {
        Access::Insecure => mesh::trust::tls::nobody(),
        Access::Member(trust) => mesh::trust::tls::client(trust, expected),
    };
    let secure = matches!(access, Access::Member(_));
    builder = builder.https_only(secure).tls_backend_preconfigured(config.map_err(Error::Trust)?);
    builder.build().map_err(Error::Http)
}

/// A client and the base URL for an address. A URL cannot say on which link an IPv6 link-local address is, so such an
/// address gets a host name that only this client knows.
pub fn endpoint(access: &Access, address: SocketAddr) -> Result<(reqwest::Client, String), Error> {
    let scheme = access.scheme();
    match address {
        SocketAddr::V6(v6) if v6.scope_id() != 0 => {
            let host = format!("link-{}.local", v6.scope_id());
            Ok((client(access, Some((&host, address)), None)?, format!("{scheme}://{host}:{}", v6.port())))
        }
        other => Ok((client(access, None, None)?, format!("{scheme}://{other}"))),
    }
}

/// Why a body was not read.
#[derive(Debug)]
pub enum BodyError {
    /// The connection failed.
    Cut(reqwest::Error),
    /// It is longer than the cap, bytes.
    TooLong(usize),
}

/// A whole body of at most `cap` bytes.
pub async fn body(mut response: reqwest::Response, cap: usize) -> Result<Vec<u8>, BodyError> {
    let mut bytes = Vec::new();
    while let Some(chunk) = response.chunk().await.map_err(BodyError::Cut)? {
        if bytes.len() + chunk.len() > cap {
            return Err(BodyError::TooLong(cap));
        }
        bytes.extend_from_slice(&chunk);
    }
    Ok(bytes)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn link_local_addresses_get_a_name_and_others_stay_as_they_are() {
        let url = |text: &str| endpoint(&Access::Insecure, text.parse().unwrap()).unwrap().1;
        assert_eq!(url("192.0.2.1:80"), "http://192.0.2.1:80");
        assert_eq!(url("[2001:db8::1]:80"), "http://[2001:db8::1]:80");
        assert_eq!(url("[fe80::1%3]:80"), "http://link-3.local:80");
    }
}
