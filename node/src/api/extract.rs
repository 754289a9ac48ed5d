//! Reading requests; whatever is wrong with one becomes a problem that says so.

use axum::Json;
use axum::extract::rejection::{JsonRejection, QueryRejection};
use axum::extract::{FromRequest, FromRequestParts, Query, Request};
use axum::http::StatusCode;
use axum::http::request::Parts;
use handheld::api::{Code, MAX_REQUEST_BYTES};
use serde::de::DeserializeOwned;

use super::problem::Failure;
use crate::lifecycle::Token;

/// A JSON body.
pub(super) struct Body<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequest<S> for Body<T> {
    type Rejection = Failure;

    async fn from_request(request: Request, state: &S) -> Result<Self, Failure> {
        match Json::from_request(request, state).await {
            Ok(Json(value)) => Ok(Self(value)),
            Err(rejection) => Err(refused(&rejection)),
        }
    }
}

fn refused(rejection: &JsonRejection) -> Failure {
    let status = rejection.status();
    let message = match status {
        StatusCode::PAYLOAD_TOO_LARGE => format!("the request has more than {MAX_REQUEST_BYTES} bytes"),
        StatusCode::UNSUPPORTED_MEDIA_TYPE => "send JSON with 'Content-Type: application/json'".to_owned(),
        _ => rejection.body_text(),
    };
    // Well-formed JSON with wrong fields is as bad a request as JSON that is not well formed.
    let status = if status == StatusCode::UNPROCESSABLE_ENTITY { StatusCode::BAD_REQUEST } else { status };
    Failure::new(Code::BadRequest, message).with_status(status)
}

/// The query of a URL.
pub(super) struct Asked<T>(pub(super) T);

impl<T: DeserializeOwned, S: Send + Sync> FromRequestParts<S> for Asked<T> {
    type Rejection = Failure;

    async fn from_request_parts(parts: &mut Parts, state: &S) -> Result<Self, Failure> {
        let parsed: Result<Query<T>, QueryRejection> = Query::from_request_parts(parts, state).await;
        match parsed {
            Ok(Query(value)) => Ok(Self(value)),
            Err(rejection) => Err(Failure::new(Code::BadRequest, rejection.body_text())),
        }
    }
}

/// A client token.
pub(super) fn token(text: String) -> Result<Token, Failure> {
    Token::try_from(text).map_err(|error| Failure::new(Code::BadRequest, error.to_string()))
}
