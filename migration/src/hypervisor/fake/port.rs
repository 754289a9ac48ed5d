//! A forwarded port: a real listener on this host, behind which a [`Service`] answers.

use std::io::{self, Read};
use std::net::{IpAddr, Ipv4Addr, Ipv6Addr, Shutdown, SocketAddr, TcpListener, TcpStream};
use std::sync::atomic::{AtomicBool, AtomicU32, Ordering::SeqCst};
use std::sync::{Arc, Mutex, PoisonError};
use std::thread::JoinHandle;
use std::time::Duration;

use super::guest::Service;
use super::http::{Answer, Request};

/// How long a client may stall in the middle of its request.
const STALL_LIMIT: Duration = Duration::from_secs(10);
/// How often a request to a guest that stands still looks whether it goes on.
const PAUSED_LOOK: Duration = Duration::from_millis(1);
/// How long the wake-up call of a closing listener may take; it goes to this host.
const WAKE_LIMIT: Duration = Duration::from_secs(1);

/// What the connections of one guest share.
#[derive(Default)]
pub(super) struct Line {
    service: Mutex<Service>,
    requests: AtomicU32,
    /// Whether the guest stands still: connections wait.
    paused: AtomicBool,
    /// Whether the guest is gone.
    cut: AtomicBool,
    /// Open connections that say nothing; closed when the guest goes.
    silent: Mutex<Vec<TcpStream>>,
}

impl Line {
    pub fn new(service: Service) -> Self {
        Self { service: Mutex::new(service), ..Self::default() }
    }

    /// Makes the guest answer like this from now on; counts requests anew.
    pub fn set_service(&self, service: Service) {
        *self.service.lock().unwrap_or_else(PoisonError::into_inner) = service;
        self.requests.store(0, SeqCst);
    }

    /// Lets the guest stand still or go on.
    pub fn set_paused(&self, paused: bool) {
        self.paused.store(paused, SeqCst);
    }

    /// Ends every connection that waits for an answer.
    fn cut(&self) {
        self.cut.store(true, SeqCst);
        for stream in self.silent.lock().unwrap_or_else(PoisonError::into_inner).drain(..) {
            // One that the client has closed is as good.
            let _ = stream.shutdown(Shutdown::Both);
        }
    }

    fn serve(&self, mut stream: TcpStream, guest_port: u16) -> io::Result<()> {
        let service = self.service.lock().unwrap_or_else(PoisonError::into_inner).clone();
        match service {
            Service::Absent => return Ok(()),
            Service::Silent => return self.say_nothing(stream),
            _ => {}
        }
        stream.set_read_timeout(Some(STALL_LIMIT))?;
        let Some(request) = Request::read(&stream, guest_port)? else { return Ok(()) };
        while self.paused.load(SeqCst) && !self.cut.load(SeqCst) {
            std::thread::sleep(PAUSED_LOOK);
        }
        let number = self.requests.fetch_add(1, SeqCst);
        let answer = match service {
            Service::Custom(answer) => answer(&request),
            Service::HealthyAfter(requests) if number < requests => Answer::text(503, "not yet"),
            Service::Unhealthy => Answer::text(503, "unhealthy"),
            _ => Answer::text(200, "ok"),
        };
        if self.cut.load(SeqCst) {
            return Ok(());
        }
        answer.write(&mut stream)
    }

    fn say_nothing(&self, mut stream: TcpStream) -> io::Result<()> {
        self.silent.lock().unwrap_or_else(PoisonError::into_inner).push(stream.try_clone()?);
        if self.cut.load(SeqCst) {
            return Ok(());
        }
        // Until the client or the guest goes.
        let mut ignored = [0; 4096];
        while stream.read(&mut ignored)? > 0 {}
        Ok(())
    }
}

/// A listener; closed when it is dropped.
pub(super) struct Port {
    address: SocketAddr,
    guest_port: u16,
    line: Arc<Line>,
    closing: Arc<AtomicBool>,
    thread: Option<JoinHandle<()>>,
}

impl Port {
    /// Listens on `bind:port`, for the guest's `guest_port`.
    pub fn open(bind: IpAddr, port: u16, guest_port: u16, line: &Arc<Line>) -> io::Result<Self> {
        let listener = TcpListener::bind((bind, port))?;
        let address = listener.local_addr()?;
        let closing = Arc::new(AtomicBool::new(false));
        let (line, line_of_thread, closing_of_thread) =
            (Arc::clone(line), Arc::clone(line), Arc::clone(&closing));
        let thread = std::thread::Builder::new()
            .name(format!("fake guest port {guest_port}"))
            .spawn(move || accept(&listener, guest_port, &line_of_thread, &closing_of_thread))?;
        Ok(Self { address, guest_port, line, closing, thread: Some(thread) })
    }

    /// Host address and guest port.
    pub fn forward(&self) -> (SocketAddr, u16) {
        (self.address, self.guest_port)
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.closing.store(true, SeqCst);
        self.line.cut();
        let woken = TcpStream::connect_timeout(&reachable(self.address), WAKE_LIMIT);
        if let (Ok(_), Some(thread)) = (woken, self.thread.take()) {
            // A listener thread does not panic; if it did, the port is closed all the same.
            let _ = thread.join();
        }
    }
}

/// An address to reach a listener by.
fn reachable(address: SocketAddr) -> SocketAddr {
    let ip = match address.ip() {
        IpAddr::V4(ip) if ip.is_unspecified() => Ipv4Addr::LOCALHOST.into(),
        IpAddr::V6(ip) if ip.is_unspecified() => Ipv6Addr::LOCALHOST.into(),
        ip => ip,
    };
    SocketAddr::new(ip, address.port())
}

fn accept(listener: &TcpListener, guest_port: u16, line: &Arc<Line>, closing: &AtomicBool) {
    for stream in listener.incoming() {
        if closing.load(SeqCst) {
            return;
        }
        let Ok(stream) = stream else { continue };
        let line = Arc::clone(line);
        let serving = std::thread::Builder::new().name("fake guest".to_owned()).spawn(move || {
            // A client that goes away in the middle is its own affair.
            let _ = line.serve(stream, guest_port);
        });
        // Without a thread the connection is dropped, and the client sees it closed.
        drop(serving);
    }
}
