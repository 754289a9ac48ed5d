//! The guest's clock, set through a port of its own.
//!
//! Every clone wakes up in the past, and whoever asked for it waits until its clock is right. The guest agent can set it, but
//! takes 0.25 s under TCG (measured); `clockd` in our base image takes 0.02 s. Guests without it are served by the agent.
//!
//! The port: the host writes nanoseconds since 1970 UTC, little endian, and the same eight bytes come back.

use std::io::{self, Read, Write};
use std::os::unix::net::UnixStream;
use std::path::Path;
use std::time::Duration;

use super::wait::Stopwatch;

/// How long the guest may take. A clone under TCG answers 0.1 s after it woke up; twenty at once on two cores take
/// seconds (measured). A guest that does not answer is no error, the agent is asked then.
const LIMIT: Duration = Duration::from_secs(5);

/// The guest's clock is as late as its answer took, at most. A guest that has just woken up takes 0.1 s for the first
/// message and milliseconds for the next, so one that answered later than this is told again.
const EXACT_ENOUGH: Duration = Duration::from_millis(20);
/// Messages until a slow guest's clock is taken as it is.
const MESSAGES: u32 = 3;

/// Sets the clock; `Ok(false)` if nobody in the guest answered.
pub(super) fn set(socket: &Path, since_epoch: Duration) -> io::Result<bool> {
    let watch = Stopwatch::start();
    let mut port = UnixStream::connect(socket)?;
    port.set_read_timeout(Some(LIMIT))?;
    port.set_write_timeout(Some(LIMIT))?;
    for _ in 0..MESSAGES {
        let sent = watch.elapsed();
        if !tell(&mut port, since_epoch + sent)? {
            return Ok(false);
        }
        if watch.elapsed() - sent <= EXACT_ENOUGH {
            break;
        }
    }
    Ok(true)
}

fn tell(port: &mut UnixStream, since_epoch: Duration) -> io::Result<bool> {
    let Ok(nanoseconds) = u64::try_from(since_epoch.as_nanos()) else { return Ok(false) };
    let message = nanoseconds.to_le_bytes();
    port.write_all(&message)?;
    let mut answer = [0; size_of::<u64>()];
    loop {
        match port.read_exact(&mut answer) {
            // The answer to an earlier connection, which was given up, may come first.
            Ok(()) if answer != message => {}
            Ok(()) => return Ok(true),
            Err(error) if matches!(error.kind(), io::ErrorKind::WouldBlock | io::ErrorKind::TimedOut) => {
                return Ok(false);
            }
            Err(error) => return Err(error),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::net::UnixListener;

    fn with_guest(reply: impl FnOnce([u8; 8]) -> Vec<u8> + Send + 'static) -> io::Result<bool> {
        let directory = tempfile::tempdir().unwrap();
        let socket = directory.path().join("clock");
        let listener = UnixListener::bind(&socket).unwrap();
        let guest = std::thread::spawn(move || {
            let (mut port, _) = listener.accept().unwrap();
            let mut message = [0; 8];
            port.read_exact(&mut message).unwrap();
            port.write_all(&reply(message)).unwrap();
        });
        let result = set(&socket, Duration::from_nanos(0x0102_0304_0506_0708));
        guest.join().unwrap();
        result
    }

    #[test]
    fn the_clock_is_set_when_the_same_bytes_come_back() {
        assert!(
            with_guest(|message| {
                // The lowest bytes have the nanoseconds that have passed since.
                assert_eq!(message[4..], [4, 3, 2, 1]);
                message.to_vec()
            })
            .unwrap()
        );
        assert!(
            with_guest(|message| [[0; 8], message].concat()).unwrap(),
            "after an answer to somebody else"
        );
    }

    #[test]
    fn a_guest_that_hangs_up_is_an_error() {
        assert!(with_guest(|_| Vec::new()).is_err());
    }
}
