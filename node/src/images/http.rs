//! Talks to the service in a guest under construction, through its forwarded port.

use std::net::SocketAddr;
use std::path::Path;
use std::time::Duration;

use tokio_util::sync::CancellationToken;
use vm_images::Service;

use super::Error;
use crate::instances::health;

/// How long a service may take to answer its health check after it was installed: it loads its model under TCG, in a minute
/// on a quiet machine and in more than three with eight compilers beside it (measured). A build that took minutes must not be thrown away
/// for being slow, only for hanging.
const HEALTH_LIMIT: Duration = Duration::from_secs(900);
/// Most of an unexpected answer that is shown.
const SHOWN_CHARS: usize = 300;

/// The service under construction.
pub(super) struct Http {
    runtime: tokio::runtime::Runtime,
    client: reqwest::Client,
    address: SocketAddr,
}

impl Http {
    pub(super) fn new(address: SocketAddr) -> Result<Self, Error> {
        let broken = |error: &dyn std::fmt::Display| Error::Service {
            wanted: "become reachable".to_owned(),
            found: error.to_string(),
        };
        let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
        // A connection that is kept open would be part of the suspended guest.
        let tls = mesh::trust::tls::nobody().map_err(|error| broken(&error))?;
        let builder = reqwest::Client::builder().tls_backend_preconfigured(tls);
        let client = builder.pool_max_idle_per_host(0).no_proxy().build();
        Ok(Self {
            runtime: runtime.map_err(|error| broken(&error))?,
            client: client.map_err(|error| broken(&error))?,
            address,
        })
    }

    /// Waits until the health check is answered with 200.
    pub(super) fn wait_healthy(&self, service: &Service) -> Result<(), Error> {
        let never = CancellationToken::new();
        self.runtime
            .block_on(health::until_ok(self.address, &service.health_path, HEALTH_LIMIT, &never))
            .map_err(|found| Error::Service { wanted: "become healthy".to_owned(), found })
    }

    /// Sends one request that the service must answer with success.
    pub(super) fn request(
        &self,
        method: &str,
        path: &str,
        body: Option<&Path>,
        content_type: Option<&str>,
        limit: Duration,
    ) -> Result<(), Error> {
        let failed = |found: String| Error::Service { wanted: format!("answer {method} {path}"), found };
        let method_name = method.parse::<reqwest::Method>().map_err(|error| failed(error.to_string()))?;
        let mut request =
            self.client.request(method_name, format!("http://{}{path}", self.address)).timeout(limit);
        if let Some(file) = body {
            let bytes =
                std::fs::read(file).map_err(|source| Error::File { path: file.to_owned(), source })?;
            request = request.body(bytes);
        }
        if let Some(kind) = content_type {
            request = request.header(reqwest::header::CONTENT_TYPE, kind);
        }
        let (status, text) = self
            .runtime
            .block_on(async {
                let answer = request.send().await?;
                Ok::<_, reqwest::Error>((answer.status(), answer.text().await?))
            })
            .map_err(|error| failed(error.to_string()))?;
        if status.is_success() {
            return Ok(());
        }
        Err(failed(format!("it said {status}: {}", text.chars().take(SHOWN_CHARS).collect::<String>())))
    }
}
