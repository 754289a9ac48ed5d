//! Errors as clients see them.

use axum::Json;
use axum::http::StatusCode;
use axum::response::{IntoResponse, Response};
use handheld::api::{Code, Missing, Problem};

use crate::instances::Error;
use crate::lifecycle::Refused;

/// A problem and its HTTP status.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Failure {
    pub(super) status: StatusCode,
    pub(super) problem: Problem,
}

impl Failure {
    pub(super) fn new(code: Code, message: impl Into<String>) -> Self {
        let status = match code {
            Code::BadRequest => StatusCode::BAD_REQUEST,
            Code::UnknownService
            | Code::UnknownInstance
            | Code::UnknownImage
            | Code::UnknownPath
            | Code::UnknownPeer => StatusCode::NOT_FOUND,
            Code::NotAllowed => StatusCode::FORBIDDEN,
            Code::NoMission | Code::NotReady => StatusCode::CONFLICT,
            Code::TooManyTunnels => StatusCode::TOO_MANY_REQUESTS,
            Code::Unreachable => StatusCode::BAD_GATEWAY,
            Code::InsufficientResources | Code::ShuttingDown | Code::Draining => {
                StatusCode::SERVICE_UNAVAILABLE
            }
            Code::UnusableImage | Code::Internal => StatusCode::INTERNAL_SERVER_ERROR,
        };
        Self { status, problem: Problem { code, message: message.into(), missing: None } }
    }

    pub(super) fn with_status(mut self, status: StatusCode) -> Self {
        self.status = status;
        self
    }

    fn with_missing(mut self, missing: Missing) -> Self {
        self.problem.missing = Some(missing);
        self
    }

    pub(super) fn unknown_instance(id: &str) -> Self {
        let id: String = id.chars().take(80).collect();
        let message =
            format!("no instance '{id}' here; an instance that ended is forgotten after some minutes");
        Self::new(Code::UnknownInstance, message)
    }
}

impl IntoResponse for Failure {
    fn into_response(self) -> Response {
        (self.status, Json(self.problem)).into_response()
    }
}

impl From<Error> for Failure {
    fn from(error: Error) -> Self {
        let message = error.to_string();
        match error {
            Error::UnknownService { .. } => Self::new(Code::UnknownService, message),
            Error::Unusable(_) => Self::new(Code::UnusableImage, message),
            Error::Refused(Refused::Insufficient(missing)) => {
                Self::new(Code::InsufficientResources, message).with_missing(missing)
            }
            Error::Refused(Refused::TooMany { .. }) => Self::new(Code::InsufficientResources, message),
            Error::Refused(Refused::Draining) => Self::new(Code::Draining, message),
            Error::Refused(Refused::Closed(_)) | Error::Gone => Self::new(Code::ShuttingDown, message),
            Error::Catalogue(_) => {
                let error: &dyn std::error::Error = &error;
                tracing::error!(error, "a request failed");
                Self::new(Code::Internal, format!("{message}; the cloudlet's log says why"))
            }
        }
    }
}
