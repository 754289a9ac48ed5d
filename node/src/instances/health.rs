//! Whether a service answers its health check: one small GET at a time, without a client library's pool and
//! redirects, because the time from the guest's waking up to the first 200 is what a handheld waits for.

use std::net::SocketAddr;
use std::time::Duration;

use futures_util::StreamExt;
use futures_util::stream::FuturesUnordered;
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::TcpStream;
use tokio::time::{Instant, sleep_until, timeout};
use tokio_util::sync::CancellationToken;

/// Longest wait for one answer. A service that serves one request at a time may be busy. Guess.
pub const ONE_LIMIT: Duration = Duration::from_secs(5);
/// Pause after a check that was refused. A refusal over loopback takes under 1 ms, so this bounds what is lost.
const PAUSE: Duration = Duration::from_millis(10);
/// When a check has not been answered after this long, another one is begun beside it: one whose first packet fell
/// on a guest that was not awake yet would wait for a retransmission of a second.
const HEDGE_AFTER: Duration = Duration::from_millis(100);
/// Checks beside each other.
const AT_ONCE: usize = 3;
/// Longest answer that is read, bytes. More is of no interest, only the status is.
const ANSWER_BYTES: u64 = 64 * 1024;

/// Asks until the answer is 200; says why the last one was not when `limit` is over or `stop` is cancelled.
pub async fn until_ok(
    address: SocketAddr,
    path: &str,
    limit: Duration,
    stop: &CancellationToken,
) -> Result<(), String> {
    let give_up = sleep_until(Instant::now() + limit);
    tokio::pin!(give_up);
    let mut under_way = FuturesUnordered::new();
    let mut next = Instant::now();
    let mut last = "it did not answer at all".to_owned();
    loop {
        tokio::select! {
            () = stop.cancelled() => return Err("the check was given up".to_owned()),
            () = &mut give_up => {
                let seconds = limit.as_secs_f64();
                return Err(format!("its service did not pass its health check ({path}) within {seconds:.1} s: {last}"));
            }
            Some(result) = under_way.next(), if !under_way.is_empty() => match result {
                Ok(()) => return Ok(()),
                Err(why) => {
                    last = why;
                    next = next.min(Instant::now() + PAUSE);
                }
            },
            () = sleep_until(next), if under_way.len() < AT_ONCE => {
                under_way.push(once(address, path));
                next = Instant::now() + HEDGE_AFTER;
            }
        }
    }
}

/// Asks once.
pub async fn once(address: SocketAddr, path: &str) -> Result<(), String> {
    match timeout(ONE_LIMIT, ask(address, path)).await {
        Ok(result) => result,
        Err(_) => Err(format!("no answer within {} s", ONE_LIMIT.as_secs())),
    }
}

async fn ask(address: SocketAddr, path: &str) -> Result<(), String> {
    if !path.starts_with('/') || path.bytes().any(|b| b <= b' ' || b == 0x7f) {
        return Err(format!("'{}' is no path", path.escape_debug()));
    }
    let said = |error: std::io::Error| error.to_string();
    let mut stream = TcpStream::connect(address).await.map_err(said)?;
    let request = format!("GET {path} HTTP/1.1\r\nHost: {address}\r\nConnection: close\r\n\r\n");
    stream.write_all(request.as_bytes()).await.map_err(said)?;
    let mut answer = Vec::new();
    while !answer.contains(&b'\n') {
        let before = answer.len();
        (&mut stream).take(1024).read_buf(&mut answer).await.map_err(said)?;
        if answer.len() == before {
            return Err("the connection was closed without an answer".to_owned());
        }
        if answer.len() as u64 > ANSWER_BYTES {
            return Err("the answer is not HTTP".to_owned());
        }
    }
    let status = status(&answer);
    // Read to the end, or a server without protection from SIGPIPE would be killed by its own health check.
    let rest = async move { tokio::io::copy(&mut stream.take(ANSWER_BYTES), &mut tokio::io::sink()).await };
    tokio::spawn(timeout(ONE_LIMIT, rest));
    match status {
        Some(200) => Ok(()),
        Some(other) => Err(format!("it answered with status {other}")),
        None => Err("the answer is not HTTP".to_owned()),
    }
}

fn status(answer: &[u8]) -> Option<u16> {
    let line = answer.split(|&b| b == b'\n').next()?;
    let mut words = std::str::from_utf8(line).ok()?.split_ascii_whitespace();
    words.next().filter(|version| version.starts_with("HTTP/1."))?;
    words.next()?.parse().ok()
}

#[cfg(test)]
mod tests {
    use tokio::net::TcpListener;

    use super::*;

    /// Serves the given answers, one connection each, in turn; the last one again and again.
    async fn server(answers: Vec<&'static str>) -> SocketAddr {
        let listener = TcpListener::bind("127.0.0.1:0").await.unwrap();
        let address = listener.local_addr().unwrap();
        tokio::spawn(async move {
            let mut answers = answers.into_iter();
            let mut answer = answers.next().unwrap();
            while let Ok((mut stream, _)) = listener.accept().await {
                let mut request = [0; 512];
                let _ = stream.read(&mut request).await;
                let _ = stream.write_all(answer.as_bytes()).await;
                answer = answers.next().unwrap_or(answer);
            }
        });
        address
    }

    #[tokio::test]
    async fn asks_until_the_answer_is_200() {
        let busy = "HTTP/1.1 503 Busy\r\nContent-Length: 0\r\n\r\n";
        let address = server(vec!["", busy, "SSH-2.0-x\r\n", "HTTP/1.0 200 OK\r\n\r\nfine"]).await;
        until_ok(address, "/healthz", Duration::from_secs(20), &CancellationToken::new()).await.unwrap();
    }

    #[tokio::test]
    async fn says_why_it_gave_up() {
        let address = server(vec!["HTTP/1.1 500 Oops\r\n\r\n"]).await;
        let stop = CancellationToken::new();
        let why = until_ok(address, "/h", Duration::from_millis(60), &stop).await.unwrap_err();
        assert!(why.contains("/h") && why.contains("status 500"), "{why}");
        stop.cancel();
        assert!(
            until_ok(address, "/h", Duration::from_secs(60), &stop).await.unwrap_err().contains("given up")
        );
    }

    #[tokio::test]
    async fn a_path_that_would_smuggle_a_header_is_refused() {
        let address = server(vec!["HTTP/1.1 200 OK\r\n\r\n"]).await;
        assert!(once(address, "/x HTTP/1.1\r\nA: b").await.unwrap_err().contains("no path"));
        assert!(once(address, "/x").await.is_ok());
    }
}
