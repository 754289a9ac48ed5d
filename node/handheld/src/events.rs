//! The cloudlet's stream of events: server-sent events with one JSON [`Event`] each.

use crate::Error;
use crate::api::Event;

/// Longest event that is read, bytes. An event of an instance has about 500.
const MAX_EVENT_BYTES: usize = 64 * 1024;

/// Events as they come; dropped, it ends the stream.
#[derive(Debug)]
pub struct Events {
    cloudlet: String,
    response: reqwest::Response,
    parser: Parser,
    waiting: std::collections::VecDeque<Event>,
}

impl Events {
    pub(crate) fn new(cloudlet: String, response: reqwest::Response) -> Self {
        Self { cloudlet, response, parser: Parser::default(), waiting: Default::default() }
    }

    /// The next event; `None` at the end of the stream. Kinds of events that this release does not know are skipped.
    /// Dropping the future loses nothing.
    pub async fn next(&mut self) -> Result<Option<Event>, Error> {
        const DOING: &str = "stream its events";
        loop {
            if let Some(event) = self.waiting.pop_front() {
                return Ok(Some(event));
            }
            let chunk = self.response.chunk().await;
            let chunk = chunk.map_err(|source| Error::Vanished {
                cloudlet: self.cloudlet.clone(),
                doing: DOING,
                source,
            })?;
            let Some(chunk) = chunk else { return Ok(None) };
            let texts = self.parser.feed(&chunk).map_err(|TooLong| Error::Protocol {
                cloudlet: self.cloudlet.clone(),
                doing: DOING,
                what: format!("an event of more than {MAX_EVENT_BYTES} bytes"),
            })?;
            for text in texts {
                match serde_json::from_str(&text) {
                    Ok(event) => self.waiting.push_back(event),
                    Err(error) => tracing::debug!(%error, "an event of an unknown kind"),
                }
            }
        }
    }
}

/// Splits a stream into the data of its events (WHATWG HTML, section 9.2), whatever the chunks are.
#[derive(Debug, Default)]
struct Parser {
    line: Vec<u8>,
    data: String,
    has_data: bool,
    /// The last byte was a carriage return, so a line feed that follows ends no further line.
    after_return: bool,
}

#[derive(Debug, PartialEq, Eq)]
struct TooLong;

impl Parser {
    fn feed(&mut self, chunk: &[u8]) -> Result<Vec<String>, TooLong> {
        let mut events = Vec::new();
        for &byte in chunk {
            let after_return = std::mem::take(&mut self.after_return);
            match byte {
                b'\n' if after_return => {}
                b'\n' | b'\r' => {
                    self.after_return = byte == b'\r';
                    events.extend(self.end_of_line());
                }
                _ => self.line.push(byte),
            }
            if self.line.len() + self.data.len() > MAX_EVENT_BYTES {
                return Err(TooLong);
            }
        }
        Ok(events)
    }

    fn end_of_line(&mut self) -> Option<String> {
        let line = std::mem::take(&mut self.line);
        if line.is_empty() {
            let data = std::mem::take(&mut self.data);
            return std::mem::take(&mut self.has_data).then_some(data);
        }
        let line = String::from_utf8_lossy(&line);
        let (field, value) = line.split_once(':').unwrap_or((&line, ""));
        if field == "data" {
            if self.has_data {
                self.data.push('\n');
            }
            self.data.push_str(value.strip_prefix(' ').unwrap_or(value));
            self.has_data = true;
        }
        None
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    const STREAM: &str =
        ": keep-alive\n\ndata: {\"a\":1}\n\nevent: instance\r\ndata:x\r\ndata: y\r\n\r\nid: 7\n\ndata\n\n";

    #[test]
    fn events_are_found_however_the_stream_is_cut() {
        let whole = Parser::default().feed(STREAM.as_bytes()).unwrap();
        assert_eq!(whole, ["{\"a\":1}", "x\ny", ""]);
        for cut in 1..8 {
            let mut parser = Parser::default();
            let pieces: Vec<String> =
                STREAM.as_bytes().chunks(cut).flat_map(|piece| parser.feed(piece).unwrap()).collect();
            assert_eq!(pieces, whole, "pieces of {cut} bytes");
        }
    }

    #[test]
    fn an_event_without_end_is_an_error_and_not_a_full_memory() {
        let mut parser = Parser::default();
        let piece = [b'x'; 4096];
        assert!((0..17).any(|_| parser.feed(&piece) == Err(TooLong)));
        let mut parser = Parser::default();
        assert!((0..40_000).any(|_| parser.feed(b"data:x\n") == Err(TooLong)), "many short lines");
    }
}
