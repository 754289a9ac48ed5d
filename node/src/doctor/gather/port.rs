//! Can the API listen where it is to listen?

use std::io::{self, ErrorKind};
use std::net::{SocketAddr, TcpListener};
use std::time::Duration;

use handheld::api::Cloudlet;

use crate::doctor::Port;

/// How long whoever has the port may take to say what it is (guess).
const PATIENCE: Duration = Duration::from_secs(2);
/// Longest description of a cloudlet that is read, bytes.
const MAX_ANSWER_BYTES: u64 = 64 * 1024;

/// State of the port of `address`, which is reached from this machine at `local`.
pub(super) fn state(address: SocketAddr, local: Option<SocketAddr>) -> Port {
    match TcpListener::bind(address) {
        Ok(_) => Port::Free,
        Err(error) if error.kind() == ErrorKind::AddrInUse => {
            local.and_then(cloudlet_at).map_or(Port::Taken, Port::Cloudlet)
        }
        Err(error) if error.kind() == ErrorKind::AddrNotAvailable => {
            Port::Impossible("this machine does not have that address".to_owned())
        }
        Err(error) => Port::Impossible(error.to_string()),
    }
}

/// The name of the cloudlet that answers there, if one does.
fn cloudlet_at(address: SocketAddr) -> Option<String> {
    let body = get(address).ok()?;
    serde_json::from_slice::<Cloudlet>(&body).ok().map(|cloudlet| cloudlet.name)
}

/// One HTTP request by hand: a client with a runtime and a pool would be more than the question is worth.
fn get(address: SocketAddr) -> io::Result<Vec<u8>> {
    use std::io::{Read as _, Write as _};
    let mut stream = std::net::TcpStream::connect_timeout(&address, PATIENCE)?;
    stream.set_read_timeout(Some(PATIENCE))?;
    stream.set_write_timeout(Some(PATIENCE))?;
    write!(stream, "GET /api/v{}/cloudlet HTTP/1.0\r\nHost: {address}\r\n\r\n", handheld::api::VERSION)?;
    let mut answer = Vec::new();
    stream.take(MAX_ANSWER_BYTES).read_to_end(&mut answer)?;
    let head = answer.windows(4).position(|bytes| bytes == b"\r\n\r\n").map_or(answer.len(), |end| end + 4);
    Ok(answer.split_off(head))
}

#[cfg(test)]
mod tests {
    use std::io::{Read as _, Write as _};

    use super::*;

    /// A listener that answers one connection with this, and its address.
    fn answering(answer: &'static str) -> (SocketAddr, std::thread::JoinHandle<()>) {
        let listener = TcpListener::bind("127.0.0.1:0").unwrap();
        let address = listener.local_addr().unwrap();
        let thread = std::thread::spawn(move || {
            let (mut stream, _) = listener.accept().unwrap();
            // The request may come in pieces.
            let mut request = Vec::new();
            while !request.ends_with(b"\r\n\r\n") {
                let mut piece = [0; 1024];
                let length = stream.read(&mut piece).unwrap();
                assert!(length > 0, "the request was cut");
                request.extend_from_slice(&piece[..length]);
            }
            assert!(request.starts_with(b"GET /api/v1/cloudlet HTTP/1.0\r\n"));
            stream.write_all(answer.as_bytes()).unwrap();
        });
        (address, thread)
    }

    #[test]
    fn a_port_that_nobody_has_is_free() {
        assert_eq!(state("127.0.0.1:0".parse().unwrap(), None), Port::Free);
    }

    #[test]
    fn a_cloudlet_is_told_from_other_programs() {
        let cloudlet = "HTTP/1.0 200 OK\r\nContent-Type: application/json\r\n\r\n{\"api_version\":1,\"node_id\":\"n\",\
             \"name\":\"truck\",\"software\":\"0\",\"accelerator\":\"tcg\",\"load\":{\"cpu_used_millis\":0,\
             \"cpu_total_millis\":1,\"memory_free_bytes\":0,\"memory_total_bytes\":0,\"instances\":0},\"services\":[]}";
        for (answer, expected) in [
            (cloudlet, Port::Cloudlet("truck".to_owned())),
            ("HTTP/1.0 404 Not Found\r\n\r\nnothing here", Port::Taken),
            ("SSH-2.0-OpenSSH\r\n", Port::Taken),
        ] {
            let (address, thread) = answering(answer);
            assert_eq!(state(address, Some(address)), expected);
            thread.join().unwrap();
        }
    }

    #[test]
    fn an_address_of_another_machine_is_impossible() {
        assert!(
            matches!(state("192.0.2.1:0".parse().unwrap(), None), Port::Impossible(why) if why.contains("that address"))
        );
    }
}
