//! As much of HTTP/1.1 as a fake service needs: one request for each connection.

use std::collections::BTreeMap;
use std::io::{self, BufRead, BufReader, Read, Write};

/// Longest head that is read, bytes.
const MAX_HEAD_BYTES: u64 = 16 * 1024;
/// Longest body that is read, bytes.
const MAX_BODY_BYTES: u64 = 16 << 20;

/// A request that came through a forwarded port.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Request {
    /// Port of the guest that it came to.
    pub guest_port: u16,
    /// `GET`, `POST`, …
    pub method: String,
    /// Path and query.
    pub path: String,
    /// Headers, names in lower case.
    pub headers: BTreeMap<String, String>,
    /// The body.
    pub body: Vec<u8>,
}

/// What the service answers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Status code.
    pub status: u16,
    /// Content type of the body.
    pub content_type: &'static str,
    /// The body.
    pub body: Vec<u8>,
}

impl Answer {
    /// A short answer in plain text.
    pub fn text(status: u16, text: &str) -> Self {
        Self { status, content_type: "text/plain", body: text.as_bytes().to_vec() }
    }

    /// 200 with JSON.
    pub fn json(json: &serde_json::Value) -> Self {
        Self { status: 200, content_type: "application/json", body: json.to_string().into_bytes() }
    }

    pub(super) fn write(&self, mut to: impl Write) -> io::Result<()> {
        let Self { status, content_type, body } = self;
        let length = body.len();
        write!(
            to,
            "HTTP/1.1 {status} \r\ncontent-type: {content_type}\r\ncontent-length: {length}\r\nconnection: close\r\n\r\n"
        )?;
        to.write_all(body)
    }
}

impl Request {
    /// Reads a request; `None` if it is none.
    pub(super) fn read(from: impl Read, guest_port: u16) -> io::Result<Option<Self>> {
        let mut from = BufReader::new(from);
        let mut head = from.by_ref().take(MAX_HEAD_BYTES);
        let mut line = String::new();
        head.read_line(&mut line)?;
        let mut words = line.split_whitespace();
        let (Some(method), Some(path)) = (words.next(), words.next()) else { return Ok(None) };
        let (method, path) = (method.to_owned(), path.to_owned());
        let Some(headers) = headers(&mut head)? else { return Ok(None) };
        let length = headers.get("content-length");
        let body_bytes = length.map_or(0, |length| length.parse().unwrap_or(u64::MAX));
        if body_bytes > MAX_BODY_BYTES {
            return Ok(None);
        }
        let mut body = Vec::new();
        from.take(body_bytes).read_to_end(&mut body)?;
        Ok((body.len() as u64 == body_bytes).then_some(Self { guest_port, method, path, headers, body }))
    }
}

/// The rest of the head; `None` if it is cut.
fn headers(head: &mut impl BufRead) -> io::Result<Option<BTreeMap<String, String>>> {
    let mut headers = BTreeMap::new();
    loop {
        let mut line = String::new();
        if head.read_line(&mut line)? == 0 {
            return Ok(None);
        }
        let Some((name, value)) = line.split_once(':') else { return Ok(Some(headers)) };
        headers.insert(name.to_ascii_lowercase(), value.trim().to_owned());
    }
}
