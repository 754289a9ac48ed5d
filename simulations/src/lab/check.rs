//! The lab measures itself: does it delay, lose and throttle as it is told, and how much can it carry?
//!
//! Everything is measured by sockets in the hosts, as a program would see it, not by the medium's own counters.

use std::fmt;
use std::io::{ErrorKind, Read, Write};
use std::net::{Ipv4Addr, TcpListener, TcpStream, UdpSocket};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering};
use std::time::{Duration, Instant};

use serde::Serialize;

use super::{Error, Host, Lab, Topology, error::system};
use crate::medium::{Change, Settings};
use crate::stats;

/// How far what is found may be from what was asked, as a share of it. The promise of the lab.
const ALLOWED: f64 = 0.02;
/// What the medium must carry in total, Mbit/s. The promise of the lab, of a release build on two cores.
const LEAST_MBIT: f64 = 200.0;
/// Ethernet, IPv4 and UDP headers, bytes.
const HEADERS: usize = 14 + 20 + 8;
/// How long each rate is measured.
const RATE_TIME: Duration = Duration::from_secs(3);
/// How long the throughput is measured.
const FLOOD_TIME: Duration = Duration::from_secs(3);
/// Room in the receivers' sockets, bytes: a receiver that is not scheduled for 100 ms misses nothing at 100 Mbit/s.
const ROOM: usize = 8 * 1024 * 1024;
/// Longer than any frame here is on its way.
const PATIENCE: Duration = Duration::from_secs(10);

/// One thing that was asked for and measured.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Finding {
    /// What, and how it was asked for.
    pub what: String,
    /// Unit of the two numbers.
    pub unit: &'static str,
    /// What was asked.
    pub asked: f64,
    /// What was found.
    pub found: f64,
}

impl Finding {
    /// How far it is off, as a share of what was asked.
    pub fn error(&self) -> f64 {
        self.found / self.asked - 1.0
    }

    /// Whether that is little enough.
    pub fn good(&self) -> bool {
        self.error().abs() <= ALLOWED
    }
}

/// What the lab carries.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Throughput {
    /// How many TCP streams ran at a time, each between two hosts of its own.
    pub streams: usize,
    /// Payload in total, Mbit/s.
    pub mbit_per_s: f64,
    /// Frames that the medium carried, acknowledgements included, per second.
    pub frames_per_s: f64,
    /// One stream between the same two hosts over a veth pair, without a medium, Mbit/s: what this machine can do at
    /// best. `None` where the kernel has no veth.
    pub veth_mbit_per_s: Option<f64>,
}

/// What was found.
#[derive(Debug, Clone, PartialEq, Serialize)]
pub struct Report {
    /// Rates, delays and losses.
    pub findings: Vec<Finding>,
    /// Median time that a frame takes at delay 0, milliseconds: system calls and waking up. It is part of every delay.
    pub base_delay_ms: f64,
    /// What it carries.
    pub throughput: Throughput,
    /// Frames that the medium was too slow to take from the kernel while rates, delays and losses were measured.
    pub overrun_frames: u64,
}

impl Report {
    /// Whether the lab keeps its promises.
    pub fn good(&self) -> bool {
        self.findings.iter().all(Finding::good) && self.throughput.mbit_per_s >= LEAST_MBIT
    }
}

impl fmt::Display for Report {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        writeln!(f, "{:<28} {:>12} {:>12} {:>8}", "", "asked", "found", "off by")?;
        for finding in &self.findings {
            let Finding { what, unit, asked, found } = finding;
            let verdict = if finding.good() { "" } else { "  MORE THAN 2 %" };
            let (asked, found) = (format!("{asked:.3} {unit}"), format!("{found:.3} {unit}"));
            writeln!(f, "{what:<28} {asked:>12} {found:>12} {:>6.2} %{verdict}", finding.error() * 100.0)?;
        }
        writeln!(f, "delay at delay 0: {:.3} ms (median)", self.base_delay_ms)?;
        if self.overrun_frames > 0 {
            writeln!(
                f,
                "{} frames were lost before the medium: this machine is too busy",
                self.overrun_frames
            )?;
        }
        let Throughput { streams, mbit_per_s, frames_per_s, veth_mbit_per_s } = &self.throughput;
        write!(f, "{streams} TCP streams: {mbit_per_s:.0} Mbit/s in total, {frames_per_s:.0} frames/s")?;
        writeln!(f, "{}", if *mbit_per_s < LEAST_MBIT { "  LESS THAN 200 Mbit/s" } else { "" })?;
        if let Some(veth) = veth_mbit_per_s {
            writeln!(f, "1 TCP stream over veth, without a medium: {veth:.0} Mbit/s")?;
        }
        Ok(())
    }
}

/// Measures in a lab of its own, for about half a minute.
///
/// # Errors
/// As [`Lab::start`], or [`Error::System`] if a socket did not work. Wrong findings are no error.
pub fn measure() -> Result<Report, Error> {
    let name = format!("check-{}", std::process::id());
    let lab = Lab::start(&Topology::full_mesh(&name, 4, Settings::default()))?;
    let mut findings = Vec::new();
    for rate in ["64k", "1M", "10M", "100M"] {
        findings.push(rate_of(&lab, rate)?);
    }
    let base = delay_of(&lab, "0s")?;
    for delay in ["10ms", "50ms", "200ms"] {
        findings.push(delay_of(&lab, delay)?);
    }
    for loss in ["20%", "20% burst 4"] {
        findings.push(loss_of(&lab, loss)?);
    }
    let overrun_frames = lab.hosts().map(|host| host.overrun_frames()).sum::<Result<u64, Error>>()?;
    let throughput = throughput(&lab)?;
    Ok(Report { findings, base_delay_ms: base.found, throughput, overrun_frames })
}

#[expect(clippy::disallowed_methods, reason = "this module measures real time")]
fn now() -> Instant {
    Instant::now()
}

/// Sockets of n1 and n2, the first connected to the second, on a perfect link but for `change`.
fn sockets(lab: &Lab, change: Change) -> Result<(UdpSocket, UdpSocket), Error> {
    lab.set("n1", "n2", Settings::default().into())?;
    let (one, two) = (lab.host("n1")?, lab.host("n2")?);
    let receiver = two.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
    receiver.set_read_timeout(Some(PATIENCE)).map_err(system("set a timeout"))?;
    // What the receiver's socket has no room for would look like loss on the link.
    rustix::net::sockopt::set_socket_recv_buffer_size_force(&receiver, ROOM)
        .map_err(system("make room for what is received"))?;
    let port = receiver.local_addr().map_err(system("look at a socket"))?.port();
    let sender = one.run(|| UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
    sender.connect((two.address(), port)).map_err(system("connect a socket"))?;
    // So that ARP is done before anything is measured.
    sender.send(&[0; 9]).and_then(|_| receiver.recv(&mut [0; 9])).map_err(system("send a first frame"))?;
    lab.set("n1", "n2", change)?;
    Ok((sender, receiver))
}

/// The rate of arrivals when a quarter more is sent than the link carries.
fn rate_of(lab: &Lab, rate: &str) -> Result<Finding, Error> {
    let asked = Change { rate: rate.parse().ok(), ..Change::default() };
    let bits = asked.rate.and_then(|rate| rate.get()).unwrap_or(1) as f64;
    let payload = if bits < 1e6 { 400 } else { 1_400 };
    let frame_bits = ((payload + HEADERS) * 8) as f64;
    let (sender, receiver) = sockets(lab, asked)?;
    let done = AtomicBool::new(false);
    let found = std::thread::scope(|scope| {
        scope.spawn(|| {
            let (start, mut sent) = (now(), 0_u64);
            while !done.load(Ordering::Relaxed) {
                let due = (start.elapsed().as_secs_f64() * bits * 1.25 / frame_bits) as u64;
                for _ in sent..due {
                    // A full socket is no harm: too much is being sent anyway.
                    let _ = sender.send(&vec![0; payload]);
                }
                sent = due;
                std::thread::sleep(Duration::from_millis(1));
            }
        });
        let result = arrivals(&receiver, frame_bits);
        done.store(true, Ordering::Relaxed);
        result
    });
    let found = found.map_err(system("receive"))?;
    Ok(Finding { what: format!("rate {rate}"), unit: "Mbit/s", asked: bits / 1e6, found: found / 1e6 })
}

/// Bits per second that arrive, from the first frame on.
fn arrivals(receiver: &UdpSocket, frame_bits: f64) -> std::io::Result<f64> {
    let mut buffer = [0; 2_000];
    receiver.recv(&mut buffer)?;
    let (first, mut frames) = (now(), 0_u32);
    loop {
        receiver.recv(&mut buffer)?;
        frames += 1;
        let time = first.elapsed();
        if time >= RATE_TIME {
            return Ok(f64::from(frames) * frame_bits / time.as_secs_f64());
        }
    }
}

/// Median time from sending to receiving. Both ends are in this process, so there is one clock.
fn delay_of(lab: &Lab, delay: &str) -> Result<Finding, Error> {
    let asked = Change { delay: delay.parse().ok(), ..Change::default() };
    let (sender, receiver) = sockets(lab, asked)?;
    let mut delays = Vec::new();
    for _ in 0..51 {
        let before = now();
        sender
            .send(&[0; 100])
            .and_then(|_| receiver.recv(&mut [0; 200]))
            .map_err(system("send and receive"))?;
        delays.push(before.elapsed().as_secs_f64() * 1e3);
    }
    delays.sort_by(f64::total_cmp);
    Ok(Finding {
        what: format!("delay {delay}"),
        unit: "ms",
        asked: asked.delay.unwrap_or_default().0.as_secs_f64() * 1e3,
        found: stats::median(&delays).unwrap_or(f64::NAN),
    })
}

/// Share of 200,000 frames that do not arrive. They are sent in groups that the receiver's socket has room for.
fn loss_of(lab: &Lab, loss: &str) -> Result<Finding, Error> {
    const GROUPS: u32 = 400;
    const GROUP: u32 = 500;
    let asked = Change { loss: loss.parse().ok(), ..Change::default() };
    let (sender, receiver) = sockets(lab, asked)?;
    // Nothing is on its way for that long on a perfect link; a frame that comes later is counted with the next group.
    receiver.set_read_timeout(Some(Duration::from_millis(2))).map_err(system("set a timeout"))?;
    let mut arrived = 0_u32;
    let mut drain = || loop {
        match receiver.recv(&mut [0; 64]) {
            Ok(_) => arrived += 1,
            Err(error) if matches!(error.kind(), ErrorKind::WouldBlock | ErrorKind::TimedOut) => {
                return Ok(());
            }
            Err(error) => return Err(system("receive")(error)),
        }
    };
    for _ in 0..GROUPS {
        for _ in 0..GROUP {
            sender.send(&[0; 18]).map_err(system("send"))?;
        }
        drain()?;
    }
    // Two percent of the frames are enough to be wrong: the last ones get their time.
    std::thread::sleep(Duration::from_millis(50));
    drain()?;
    let found = 100.0 * (1.0 - f64::from(arrived) / f64::from(GROUPS * GROUP));
    let mean = asked.loss.unwrap_or_default().mean() * 100.0;
    Ok(Finding { what: format!("loss {loss}"), unit: "%", asked: mean, found })
}

/// Two streams at a time, then the same over veth.
fn throughput(lab: &Lab) -> Result<Throughput, Error> {
    lab.set("n1", "n2", Settings::default().into())?;
    let before = lab.counters()?;
    let first = (lab.host("n1")?, lab.host("n2")?);
    let second = (lab.host("n3")?, lab.host("n4")?);
    let mbit_per_s =
        flood(&[(first.0, first.1, first.1.address()), (second.0, second.1, second.1.address())])?;
    let counted = lab.counters()?.since(&before);
    Ok(Throughput {
        streams: 2,
        mbit_per_s,
        frames_per_s: counted.sent().frames as f64 / counted.at.as_secs_f64(),
        veth_mbit_per_s: over_veth(first.0, first.1),
    })
}

/// Payload in Mbit/s of TCP streams from each first host to an address of the second, all at once.
fn flood(streams: &[(Host<'_>, Host<'_>, Ipv4Addr)]) -> Result<f64, Error> {
    let (done, bytes) = (AtomicBool::new(false), AtomicU64::new(0));
    let mut open = Vec::new();
    for (from, to, address) in streams {
        let listener = to.run(|| TcpListener::bind((Ipv4Addr::UNSPECIFIED, 0)))?;
        let port = listener.local_addr().map_err(system("look at a socket"))?.port();
        let sender = from.run(|| TcpStream::connect((*address, port)))?;
        open.push((sender, listener.accept().map_err(system("accept a stream"))?.0));
    }
    let seconds = std::thread::scope(|scope| {
        for (sender, receiver) in &mut open {
            scope.spawn(|| {
                let data = vec![0; 128 * 1024];
                loop {
                    if done.load(Ordering::Relaxed) || sender.write_all(&data).is_err() {
                        break;
                    }
                }
                let _ = sender.shutdown(std::net::Shutdown::Write);
            });
            scope.spawn(|| {
                let mut data = vec![0; 128 * 1024];
                while let Ok(length @ 1..) = receiver.read(&mut data) {
                    bytes.fetch_add(length as u64, Ordering::Relaxed);
                }
            });
        }
        // Not the slow start.
        std::thread::sleep(Duration::from_millis(500));
        let (start, before) = (now(), bytes.load(Ordering::Relaxed));
        std::thread::sleep(FLOOD_TIME);
        let result = (bytes.load(Ordering::Relaxed) - before) as f64 / start.elapsed().as_secs_f64();
        done.store(true, Ordering::Relaxed);
        result
    });
    Ok(seconds * 8.0 / 1e6)
}

/// One stream between two hosts over a veth pair that is made for it; `None` if that does not work here.
fn over_veth(one: Host<'_>, two: Host<'_>) -> Option<f64> {
    let address = Ipv4Addr::new(10, 78, 0, 2);
    // `ip` names the other namespace by a process in it.
    let mut holder = two.command("sleep").arg("60").spawn().ok()?;
    let there = holder.id().to_string();
    let inside = |host: Host<'_>, line: &str| {
        host.command("ip").args(line.split_whitespace()).status().ok().filter(|status| status.success())
    };
    let ready = super::wait_until(PATIENCE, || {
        let own = std::fs::read_link(format!("/proc/{there}/ns/net")).ok();
        own.is_some() && own != std::fs::read_link(super::namespace::OWN).ok()
    });
    let made = ready
        .then(|| inside(one, &format!("link add wire0 type veth peer name wire0 netns {there}")))
        .flatten()
        .and_then(|_| inside(one, "address add 10.78.0.1/24 dev wire0"))
        .and_then(|_| inside(two, &format!("address add {address}/24 dev wire0")))
        .and_then(|_| inside(one, "link set wire0 up"))
        .and_then(|_| inside(two, "link set wire0 up"));
    let found = made.and_then(|_| flood(&[(one, two, address)]).ok());
    let _ = holder.kill();
    let _ = holder.wait();
    found
}
