//! The source's end of a stream of pages: a thread that reduces, and a task that writes what it makes.
//!
//! ```text
//! hypervisor ──stream──► thread: Source ──frames──► task ──► link
//!                          ▲ go (the VM stands still)  ▲ Have, Stored
//! ```
//! A slow link fills the two places between thread and task, and so makes QEMU wait.

use std::io::{self, Read};
use std::path::PathBuf;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError};
use std::time::Duration;

use mesh::NodeId;
use migration::VmId;
use migration::handoff::{Grant, Input, plan};
use migration::hypervisor::{MEMORY_BLOCK, Moving, Pace};
use migration::reduce::{self, Config, Live, Outlet, PageHash, Source};
use tokio::io::AsyncWriteExt as _;
use tokio::sync::{Notify, mpsc, oneshot};
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;
use vm_images::Digest;

use super::flow::Flow;
use super::receive::STREAM_ENDED;
use super::status::{Figures, Measured};
use super::stock::{Opened, Stock};
use super::turns::Turn;
use super::ways::Ways;
use super::wire::{self, Frame};
use crate::causes::chain;
use crate::exchange::{ByteStream, frames};
use crate::instances::clock::Clock;

/// How long the destination may say nothing at the beginning, when it reads what arrived before: 50 MB in 20 ms.
const HAVE_LIMIT: Duration = Duration::from_secs(10);
/// How often a link on which nothing is sent is shown to stand; a third of the lease.
const ALIVE_EVERY: Duration = Duration::from_secs(5);
/// Most pages that a destination may say it has: as many as a source remembers.
const HAVE_MOST: usize = 1 << 20;
/// How long the second look at what a guest changes takes at least. A guess: less tells nothing of its rate.
const LOOK_AT_CHANGES: Duration = Duration::from_millis(150);
/// How often it is looked whether everything has come that was sent while the guest ran.
const DRAIN_LOOK: Duration = Duration::from_millis(2);
/// How long further rounds are gone on with that would still pay. A guess.
const LOOK_MOST: Duration = Duration::from_secs(2);
/// What of the downtime the link may take for a further round not to pay. With 300 ms, the speech VM stood still for 720 ms
/// under recognition (median, 10 Mbit/s).
const LINK_DOWNTIME: Duration = Duration::from_millis(220);
/// What a page that changes again and again takes on the wire: measured with the speech service, a ninth of a page.
const HELD_PAGE_BYTES: f64 = 450.0;
/// What the devices take: measured 12 KB.
const DEVICE_BYTES: f64 = 12_000.0;
/// What standing still takes apart from the link: pausing, reading and comparing 256 MiB, loading; measured with QEMU under
/// TCG on two busy cores.
const FIXED: Duration = Duration::from_millis(800);
/// Rate of a link that nothing is known of yet, bytes each second; 10 Mbit/s, what the project aims at.
const RATE_GUESS: f64 = 1_250_000.0;

/// What is sent.
pub(super) struct Cargo {
    pub vm: VmId,
    pub grant: Grant,
    pub to: NodeId,
    pub image: vm_images::ImageId,
    pub disk: PathBuf,
    pub hypervisor: Arc<dyn Moving>,
    pub stock: Arc<Stock>,
    pub ways: Arc<dyn Ways>,
    pub figures: Arc<Figures>,
    pub clock: Clock,
    pub turn: Arc<Turn>,
}

/// A sending that is under way.
pub(super) struct Sending {
    pub grant: Grant,
    cancel: CancellationToken,
    stop: CancellationToken,
    go: Option<oneshot::Sender<Vec<u8>>>,
    turn: Arc<Turn>,
    task: JoinHandle<()>,
}

impl Sending {
    /// Begins. Ends with one input for the core in `answers`; another one, [`Input::Freezable`], comes before.
    pub fn start(cargo: Cargo, answers: mpsc::Sender<Input>) -> Self {
        let cancel = CancellationToken::new();
        let (go, gone) = oneshot::channel();
        // Apart from what ends the work: that is cancelled at its natural end, too.
        let stop = CancellationToken::new();
        let (grant, token, stopped) = (cargo.grant, cancel.clone(), stop.clone());
        let turn = Arc::clone(&cargo.turn);
        let own = Arc::clone(&turn);
        let task = tokio::spawn(async move {
            let sent = send(cargo, gone, &answers, token).await;
            // The actor may keep its end for long.
            own.leave();
            let input = match sent {
                Ok(digest) => Input::Sent { grant, digest },
                Err(why) => Input::NotSent { grant, why },
            };
            tokio::select! {
                // The actor that asked has ended.
                _ = answers.send(input) => {}
                // It waits for this task, and not for its answer.
                () = stopped.cancelled() => {}
            }
        });
        Self { grant, cancel, stop, go: Some(go), turn, task }
    }

    /// The VM stands still; with the instance's record as it is now.
    pub fn go(&mut self, record: Vec<u8>) {
        self.turn.stand_still();
        if let Some(go) = self.go.take() {
            // It has ended, and says why by itself.
            let _ = go.send(record);
        }
    }

    /// Ends it; when it returns, nothing more is read of the VM.
    pub async fn stop(self) {
        self.stop.cancel();
        self.cancel.cancel();
        drop(self.go);
        if let Err(error) = self.task.await {
            tracing::error!(%error, "sending a VM ended in a panic");
        }
    }
}

/// What the thread is given.
struct Work {
    /// When it was to begin.
    ordered: Duration,
    flow: Arc<Mutex<Flow>>,
    cargo: Cargo,
    opened: Arc<Opened>,
    have: Vec<PageHash>,
    pieces: mpsc::Sender<Vec<u8>>,
    freezable: mpsc::Sender<Input>,
    go: oneshot::Receiver<Vec<u8>>,
    cancel: CancellationToken,
}

async fn send(
    cargo: Cargo,
    go: oneshot::Receiver<Vec<u8>>,
    answers: &mpsc::Sender<Input>,
    cancel: CancellationToken,
) -> Result<Digest, String> {
    let (stock, image) = (Arc::clone(&cargo.stock), cargo.image);
    let ordered = cargo.clock.now();
    let opened = tokio::task::spawn_blocking(move || stock.open(image).map_err(|error| chain(&error)));
    let opened = opened.await.map_err(|error| error.to_string())??;
    let (vm, grant) = (cargo.vm, cargo.grant);
    let opening = async {
        let mut stream = cargo.ways.open(cargo.to).await?;
        frames::write(&mut stream, &Frame::Pages { vm, grant }.encode()).await?;
        let have = tokio::time::timeout(HAVE_LIMIT, have(&mut stream)).await;
        Ok::<_, io::Error>((stream, have.map_err(|_| io::ErrorKind::TimedOut)??))
    };
    let opening = tokio::select! {
        opened = opening => opened,
        () = cancel.cancelled() => return Err(ENDED.to_owned()),
    };
    let (stream, have) = opening.map_err(|error| link_broke(&error))?;
    // Two: one that is written, one that is ready. More would only make the last frame late.
    let (pieces, ready) = mpsc::channel(2);
    let (figures, clock, turn) = (Arc::clone(&cargo.figures), cargo.clock, Arc::clone(&cargo.turn));
    let flow = Arc::new(Mutex::new(Flow::new()));
    let stop = cancel.clone();
    let work = Work {
        ordered,
        flow: Arc::clone(&flow),
        cargo,
        opened,
        have,
        pieces,
        freezable: answers.clone(),
        go,
        cancel: cancel.clone(),
    };
    let failed = cancel.clone();
    let thread = tokio::task::spawn_blocking(move || {
        let reduced = reduce_all(work);
        // The destination waits for more, and would be waited for while the VM stands still.
        if reduced.is_err() {
            failed.cancel();
        }
        reduced
    });
    let written = tokio::select! {
        written = write_all(stream, ready, &figures, (&flow, &turn), clock) => written,
        () = stop.cancelled() => Err(ENDED.to_owned()),
    };
    // Whoever waits for room to write, or for the word to go, learns that there is none.
    cancel.cancel();
    let reduced = thread.await.map_err(|error| format!("internal error: {error}"))?;
    match (reduced, written) {
        (Ok(digest), Ok(())) => Ok(digest),
        // The link's end is why the thread could not go on, and not the other way round, unless the thread ended first.
        (Err(why), Err(_)) if why != ENDED => Err(why),
        (_, Err(why)) | (Err(why), _) => Err(why),
    }
}

pub(super) const ENDED: &str = "it was given up";
const LINK: &str = "the link to the destination broke";

fn link_broke(error: &io::Error) -> String {
    format!("{LINK}: {error}")
}

/// Whether the words say that the link is to blame, so that another try may help.
pub(super) fn is_the_link(why: &str) -> bool {
    why.starts_with(LINK) || why.starts_with(STREAM_ENDED)
}

async fn have(stream: &mut ByteStream) -> io::Result<Vec<PageHash>> {
    let mut have: Vec<PageHash> = Vec::new();
    loop {
        match wire::read(stream).await? {
            Frame::Have(more) if more.is_empty() => return Ok(have),
            Frame::Have(more) if have.len() + more.len() <= HAVE_MOST => have.extend(more),
            Frame::Refused(why) => return Err(io::Error::other(why)),
            _ => return Err(io::ErrorKind::InvalidData.into()),
        }
    }
}

/// Writes what comes until all of it was stored there.
async fn write_all(
    stream: ByteStream,
    mut ready: mpsc::Receiver<Vec<u8>>,
    figures: &Figures,
    (flow, turn): (&Mutex<Flow>, &Turn),
    clock: Clock,
) -> Result<(), String> {
    let room = Notify::new();
    // Whether there is nothing to write, as far as is known here.
    let idle = AtomicBool::new(true);
    let rest = || {
        if idle.load(Ordering::Relaxed) && lock(flow).in_flight() == 0 {
            turn.set_bytes(false);
        }
    };
    let (mut reader, mut writer) = tokio::io::split(stream);
    let writing = async {
        loop {
            let next = tokio::time::timeout(ALIVE_EVERY, ready.recv()).await;
            let piece = match next {
                Ok(None) => break,
                Ok(piece) => piece,
                Err(_) => None,
            };
            if piece.is_some() {
                idle.store(false, Ordering::Relaxed);
                turn.set_bytes(true);
                // Others may go first for long; that this one is alive, the destination hears all the same.
                while tokio::time::timeout(ALIVE_EVERY, go_ahead(flow, turn, &room)).await.is_err() {
                    let alive = Frame::Alive.encode();
                    lock(flow).sent(clock.now(), alive.len() as u64);
                    frames::write(&mut writer, &alive).await?;
                }
            }
            let bytes = piece.unwrap_or_else(|| Frame::Alive.encode());
            lock(flow).sent(clock.now(), bytes.len() as u64);
            frames::write(&mut writer, &bytes).await?;
            figures.sent_bytes.fetch_add(bytes.len() as u64, Ordering::Relaxed);
            idle.store(ready.is_empty(), Ordering::Relaxed);
        }
        writer.flush().await
    };
    let answer = async {
        loop {
            match wire::read(&mut reader).await {
                Ok(Frame::Taken(frames)) if lock(flow).taken(clock.now(), frames) => {
                    room.notify_one();
                    rest();
                }
                Ok(Frame::Stored) => return Ok(()),
                Ok(Frame::Refused(why)) => return Err(why),
                Ok(_) => return Err("the destination said something that makes no sense".to_owned()),
                Err(error) => return Err(link_broke(&error)),
            }
        }
    };
    tokio::pin!(answer, writing);
    tokio::select! {
        written = &mut writing => written.map_err(|error| link_broke(&error))?,
        // A refusal, a broken link, or all is there before this side has noticed that it was all.
        answered = &mut answer => {
            answered?;
            return writing.await.map_err(|error| link_broke(&error));
        }
    }
    answer.await
}

/// Waits until it is this one's turn and the link has room.
async fn go_ahead(flow: &Mutex<Flow>, turn: &Turn, room: &Notify) {
    loop {
        turn.comes().await;
        if lock(flow).has_room() {
            return;
        }
        room.notified().await;
    }
}

fn lock(flow: &Mutex<Flow>) -> MutexGuard<'_, Flow> {
    // Whole after every call.
    flow.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Hands frames to the task.
struct ToLink {
    pieces: mpsc::Sender<Vec<u8>>,
    flow: Arc<Mutex<Flow>>,
}

impl Outlet for ToLink {
    fn send(&mut self, frame: reduce::Frame) -> io::Result<()> {
        self.put(Frame::Piece(frame.encode()))
    }

    /// How long a piece waits for its place tells of others before it.
    fn drain_bytes_per_s(&self) -> Option<f64> {
        Some(lock(&self.flow).rate_bytes_s().unwrap_or(RATE_GUESS))
    }
}

impl ToLink {
    fn put(&self, frame: Frame) -> io::Result<()> {
        self.pieces.blocking_send(frame.encode()).map_err(|_| io::Error::other(ENDED))
    }
}

/// The stream of a VM, until somebody gives it up.
struct UntilCancelled<R> {
    stream: R,
    cancel: CancellationToken,
}

impl<R: Read> Read for UntilCancelled<R> {
    fn read(&mut self, into: &mut [u8]) -> io::Result<usize> {
        if self.cancel.is_cancelled() {
            return Err(io::Error::other(ENDED));
        }
        self.stream.read(into)
    }
}

/// Whether this side gave up, and the error only says where it was by then: [`ToLink`] and [`UntilCancelled`] say so.
fn was_given_up(error: &reduce::Error) -> bool {
    let causes = std::iter::successors(std::error::Error::source(error), |cause| cause.source());
    causes.filter_map(|cause| cause.downcast_ref::<io::Error>()).any(|cause| cause.to_string() == ENDED)
}

/// The thread. Gives the digest of what was sent.
fn reduce_all(work: Work) -> Result<Digest, String> {
    let Work { ordered, flow, cargo, opened, have, pieces, freezable, go, cancel } = work;
    let failed = |error: reduce::Error| {
        let given_up = cancel.is_cancelled() || was_given_up(&error);
        if given_up { ENDED.to_owned() } else { chain(&error) }
    };
    let stream_of = |cargo: &Cargo| {
        let stream = cargo.hypervisor.stream_out(cargo.vm).map_err(|error| chain(&error))?;
        Ok::<_, String>(UntilCancelled { stream, cancel: cancel.clone() })
    };
    let mut outlet = ToLink { pieces, flow: Arc::clone(&flow) };
    let mut source = Source::new(&opened.images, &have, Config::default()).map_err(failed)?;
    let (template, device, disk) = (Some(&opened.template), Some(&opened.device), &opened.disk);

    let begun = cargo.clock.now();
    source.begin_disk(disk, &mut outlet).map_err(failed)?;
    let live_disk = source.disk_live(&cargo.disk, &mut outlet).map_err(failed)?;
    let read_disk = cargo.clock.now();
    let mut decide = Decide::new(&flow);
    let mut go_on = |live: Live| decide.go_on(live, &cargo);
    let live = source
        .memory_live(stream_of(&cargo)?, MEMORY_BLOCK, template, &mut go_on, &mut outlet)
        .map_err(failed)?;
    let passed = decide.passed.map_or(read_disk, |(passed, _)| passed);
    // What is still queued would be waited for standing still.
    while outlet.pieces.capacity() < outlet.pieces.max_capacity() || lock(&flow).in_flight() > 0 {
        // The task that writes may end without a word: then nothing more comes of it.
        if cancel.is_cancelled() || outlet.pieces.is_closed() {
            return Err(ENDED.to_owned());
        }
        std::thread::sleep(DRAIN_LOOK);
    }
    let precopied = cargo.clock.now();
    let sent_running = Figures::get(&cargo.figures.sent_bytes);
    let sent_first = decide.passed.map_or(sent_running, |(_, sent)| sent);

    freezable.blocking_send(Input::Freezable { grant: cargo.grant }).map_err(|_| ENDED)?;
    let record = go.blocking_recv().map_err(|_| ENDED)?;
    let frozen = cargo.clock.now();
    let memory =
        source.memory(stream_of(&cargo)?, MEMORY_BLOCK, template, device, &mut outlet).map_err(failed)?;
    let read_memory = cargo.clock.now();
    source.begin_disk(disk, &mut outlet).map_err(failed)?;
    let layer = source.disk_layer(&cargo.disk, &mut outlet).map_err(failed)?;
    let disk_root = source.end_disk(&mut outlet).map_err(failed)?;
    outlet.put(Frame::All(record)).map_err(|_| ENDED)?;
    let done = cargo.clock.now();
    let still_bytes = memory.wire_bytes + layer.wire_bytes;
    let late_bytes = sent_running.saturating_sub(sent_first) + still_bytes;
    // A try that fails after this is followed by one that changes little of it.
    let _ = cargo.figures.measured.set(Measured {
        rate_bytes_s: lock(&flow).rate_bytes_s(),
        late: (late_bytes, frozen.saturating_sub(passed)),
        still_bytes,
    });
    let ms = |from: Duration, to: Duration| to.saturating_sub(from).as_millis() as u64;
    tracing::info!(
        vm = %cargo.vm,
        opening_ms = ms(ordered, begun),
        live_disk_ms = ms(begun, read_disk),
        first_pass_ms = ms(read_disk, passed),
        look_ms = ms(passed, precopied),
        freeze_ms = ms(precopied, frozen),
        rest_memory_ms = ms(frozen, read_memory),
        rest_disk_ms = ms(read_memory, done),
        live_disk_bytes = live_disk.wire_bytes,
        live_bytes = live.wire_bytes,
        live_new = live.new,
        live_again = live.again,
        live_superseded = live.superseded,
        rest_bytes = memory.wire_bytes,
        rest_new = memory.new,
        rest_again = memory.again,
        rest_device_bytes = memory.device_wire_bytes,
        rest_differing = memory.differing,
        rest_disk_bytes = layer.wire_bytes,
        "a VM was sent"
    );
    Ok(reduce::digest(&memory.root, &disk_root, &memory.device_digest))
}

/// Good enough is what the link adds little to: the fixed part does not get less by further rounds.
fn goal(link: &plan::Link) -> plan::Goal {
    plan::Goal { downtime: FIXED + link.round_trip * 2 + LINK_DOWNTIME, ..plan::Goal::default() }
}

/// Decides, while the guest runs, when what is left is worth standing still for.
struct Decide<'a> {
    flow: &'a Mutex<Flow>,
    /// When the first pass was over, and what was sent by then, bytes.
    passed: Option<(Duration, u64)>,
    waiting: bool,
}

impl<'a> Decide<'a> {
    fn new(flow: &'a Mutex<Flow>) -> Self {
        Self { flow, passed: None, waiting: false }
    }

    fn go_on(&mut self, live: Live, cargo: &Cargo) -> bool {
        let (now, figures) = (cargo.clock.now(), &cargo.figures);
        figures.seen_blocks.store(live.seen.min(live.blocks), Ordering::Relaxed);
        figures.memory_blocks.store(live.blocks, Ordering::Relaxed);
        if live.seen < live.blocks {
            return true;
        }
        let sent = Figures::get(&figures.sent_bytes);
        let (passed, sent_then) = *self.passed.get_or_insert((now, sent));
        let looked = now.saturating_sub(passed);
        if looked < LOOK_AT_CHANGES {
            return true;
        }
        let (link, work) = self.figures(live, cargo, (now, sent), (passed, sent_then));
        match plan::now(&link, &work, &goal(&link)) {
            // Its rest would wait for the other's.
            plan::Now::Freeze if !cargo.turn.may_freeze() => {}
            plan::Now::Freeze => return false,
            // What is held back does not get less by waiting.
            plan::Now::Round if looked >= LOOK_MOST => return false,
            plan::Now::Round => self.wait(false, cargo),
            plan::Now::Wait => self.wait(true, cargo),
        }
        true
    }

    /// The link and the work, as far as this transfer has measured them.
    fn figures(
        &self,
        live: Live,
        cargo: &Cargo,
        (now, sent): (Duration, u64),
        (passed, sent_then): (Duration, u64),
    ) -> (plan::Link, plan::Work) {
        let (rate, in_flight) = {
            let flow = lock(self.flow);
            (flow.rate_bytes_s(), flow.in_flight() as f64)
        };
        let rate_bytes_s = rate.unwrap_or(RATE_GUESS);
        let round_trip = cargo.ways.round_trip(cargo.to).unwrap_or_default();
        let dirtied = sent.saturating_sub(sent_then) as f64;
        let held = live.held as f64 * HELD_PAGE_BYTES;
        let link = plan::Link { rate_bytes_s, round_trip, rest: None };
        let work = plan::Work {
            lacking_bytes: in_flight + held + DEVICE_BYTES,
            dirty_bytes_s: (dirtied + held) / now.saturating_sub(passed).as_secs_f64().max(0.001),
            fixed: FIXED,
        };
        (link, work)
    }

    /// At full pace only while that helps.
    fn wait(&mut self, waiting: bool, cargo: &Cargo) {
        if self.waiting != waiting {
            self.waiting = waiting;
            let pace = if waiting { Pace::Waiting } else { Pace::Full };
            if let Err(error) = cargo.hypervisor.pace(cargo.vm, pace) {
                let error: &dyn std::error::Error = &error;
                tracing::warn!(vm = %cargo.vm, error, "the pace of a stream cannot be changed");
            }
        }
    }
}
