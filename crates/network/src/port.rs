//! Ports of a switch.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use counters::Counter;
use doorbell::Doorbell;

use crate::capture::Capture;
use crate::frame::{Frame, Mac};
use crate::guard::Guards;
use crate::limit::{Limiter, RateLimit};
use crate::steering::Steering;
use crate::switch::Switch;

/// Frames and bytes that wait at a queue of a port at the most.
pub(crate) const WAITING_FRAMES: usize = 4096;
const WAITING_BYTES: usize = 16 << 20;
/// From how many on it is crowded.
const CROWDED_FRAMES: usize = WAITING_FRAMES / 4;
const CROWDED_BYTES: usize = WAITING_BYTES / 4;
/// Who has taken nothing of a crowded queue for so long may never do so.
const ATTENTION: Duration = Duration::from_millis(20);

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

/// Takes frames as they come, on the thread of who sends them: what leads out of the host's memory. It must not wait.
pub trait Sink: Send + Sync {
    /// Takes a frame, or drops it; who has sent it counts that.
    fn take(&self, frame: Frame) -> Sent;
}

/// What a port is made of.
#[derive(Debug, Clone)]
pub struct PortSettings {
    /// Queues for frames that come, 1 at the least.
    pub queues: usize,
    /// Only frames from this address get in, and of ARP those that say so, too.
    pub only: Option<Mac>,
    /// What does not get in.
    pub guards: Guards,
    /// How much gets in, and out.
    pub limit: Option<RateLimit>,
    /// Where everything is written that goes through.
    pub capture: Option<Capture>,
    /// Counts frames that there was no room or no permission for.
    pub dropped: Counter,
}

impl Default for PortSettings {
    fn default() -> Self {
        Self {
            queues: 1,
            only: None,
            guards: Guards::default(),
            limit: None,
            capture: None,
            dropped: Counter::default(),
        }
    }
}

#[derive(Default)]
struct Waiting {
    frames: VecDeque<Frame>,
    bytes: usize,
    /// When one was taken while there were many.
    taken: Option<Instant>,
}

impl Waiting {
    fn is_crowded(&self) -> bool {
        self.frames.len() > CROWDED_FRAMES || self.bytes > CROWDED_BYTES
    }
}

/// What has become of a frame.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Sent {
    /// It is on its way, or has no way to go.
    Gone,
    /// It waits behind many others, which are being taken. Who can leave what comes next to wait should do so for a moment,
    /// as what has no room is dropped.
    Crowded,
    /// It is dropped.
    Dropped,
}

/// A queue of a port.
pub struct Queue {
    waiting: Mutex<Waiting>,
    bell: Doorbell,
    /// That of all queues of the port.
    limiter: Option<Arc<Limiter>>,
}

impl Queue {
    fn new(limiter: Option<Arc<Limiter>>) -> io::Result<Self> {
        Ok(Self { waiting: Mutex::default(), bell: Doorbell::new()?, limiter })
    }

    /// Rings when there are frames to receive after there were none.
    pub fn doorbell(&self) -> &Doorbell {
        &self.bell
    }

    /// How long frames that wait still have to. `None` if there are none, or they may be taken now.
    pub fn pause(&self) -> Option<Duration> {
        let pause = self.limiter.as_ref()?.wait(Instant::now())?;
        (!lock(&self.waiting).frames.is_empty()).then_some(pause)
    }

    /// Takes the next frame that has come, unless it has to wait.
    pub fn receive(&self) -> Option<Frame> {
        let now = self.limiter.as_ref().map(|limiter| (limiter, Instant::now()));
        if now.is_some_and(|(limiter, now)| limiter.wait(now).is_some()) {
            return None;
        }
        let mut waiting = lock(&self.waiting);
        let frame = waiting.frames.pop_front()?;
        if waiting.is_crowded() {
            waiting.taken = Some(Instant::now());
        }
        waiting.bytes -= frame.data.len();
        if let Some((limiter, now)) = now {
            limiter.charge(now, frame.data.len(), frame.pieces());
        }
        Some(frame)
    }

    /// Puts a frame at the end, if there is room.
    fn put(&self, frame: Frame) -> Sent {
        let mut waiting = lock(&self.waiting);
        if waiting.frames.len() >= WAITING_FRAMES || waiting.bytes + frame.data.len() > WAITING_BYTES {
            return Sent::Dropped;
        }
        let was_empty = waiting.frames.is_empty();
        waiting.bytes += frame.data.len();
        waiting.frames.push_back(frame);
        let crowded = waiting.is_crowded() && waiting.taken.is_some_and(|taken| taken.elapsed() < ATTENTION);
        drop(waiting);
        if was_empty {
            self.bell.ring();
        }
        if crowded { Sent::Crowded } else { Sent::Gone }
    }
}

/// A port's side of the switch.
pub(crate) struct Socket {
    pub number: u64,
    settings: PortSettings,
    first: Queue,
    others: Box<[Queue]>,
    /// Takes what would else wait in the queues.
    sink: Option<Box<dyn Sink>>,
    /// Which queue a frame waits in.
    steering: RwLock<Option<Steering>>,
    link: AtomicBool,
    /// Of what gets in.
    limiter: Option<Limiter>,
}

impl Socket {
    /// That of a port whose frames wait, or go to `sink`.
    pub fn new(number: u64, settings: PortSettings, sink: Option<Box<dyn Sink>>) -> io::Result<Self> {
        let outgoing = settings.limit.map(|limit| Arc::new(Limiter::new(limit)));
        let queue = || Queue::new(outgoing.clone());
        let others = (1..settings.queues).map(|_| queue()).collect::<io::Result<_>>()?;
        let (first, steering, link) = (queue()?, RwLock::default(), AtomicBool::new(true));
        let limiter = settings.limit.map(Limiter::new);
        Ok(Self { number, settings, first, others, sink, steering, link, limiter })
    }

    /// Whether a frame from `source` may get in now.
    pub fn admit(&self, source: Mac, frame: &Frame) -> bool {
        let PortSettings { only, guards, .. } = &self.settings;
        let false_name =
            |only: Mac| only != source || frame.arp_sender().is_some_and(|sender| sender != only);
        if source.is_group() || only.is_some_and(false_name) || !guards.allow(&frame.data) {
            return false;
        }
        if let Some(limiter) = &self.limiter {
            let now = Instant::now();
            if limiter.wait(now).is_some() {
                return false;
            }
            limiter.charge(now, frame.data.len(), frame.pieces());
        }
        self.capture(frame);
        true
    }

    fn capture(&self, frame: &Frame) {
        if let Some(capture) = &self.settings.capture {
            capture.write(frame);
        }
    }

    /// Counts a frame that is dropped.
    pub fn drop_frame(&self) -> Sent {
        self.settings.dropped.count();
        Sent::Dropped
    }

    /// Takes a frame from the switch.
    pub fn deliver(&self, frame: Frame) -> Sent {
        if !self.link.load(Ordering::Relaxed) {
            return self.drop_frame();
        }
        self.capture(&frame);
        let sent = match &self.sink {
            Some(sink) => sink.take(frame),
            None => self.queue_of(&frame).put(frame),
        };
        if sent == Sent::Dropped { self.drop_frame() } else { sent }
    }

    fn queue(&self, index: usize) -> Option<&Queue> {
        index.checked_sub(1).map_or(Some(&self.first), |index| self.others.get(index))
    }

    fn queue_of(&self, frame: &Frame) -> &Queue {
        if self.others.is_empty() {
            return &self.first;
        }
        let steering = self.steering.read().unwrap_or_else(PoisonError::into_inner);
        let index = steering.as_ref().map_or(0, |steering| steering.queue(frame));
        self.queue(index).unwrap_or(&self.first)
    }
}

/// A connection to a switch.
pub struct Port {
    switch: Switch,
    socket: Arc<Socket>,
}

impl fmt::Debug for Port {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Port").field("number", &self.socket.number).finish_non_exhaustive()
    }
}

impl Port {
    pub(crate) fn new(switch: Switch, socket: Arc<Socket>) -> Self {
        Self { switch, socket }
    }

    /// Number of queues.
    pub fn queues(&self) -> usize {
        1 + self.socket.others.len()
    }

    /// Queue `index` for frames that come. There is a first one, 0, always.
    pub fn queue(&self, index: usize) -> Option<&Queue> {
        self.socket.queue(index)
    }

    /// The doorbell of the first queue, which rings when the link has changed, too.
    pub fn doorbell(&self) -> &Doorbell {
        self.socket.first.doorbell()
    }

    /// Takes the next frame of the first queue, which is the only one unless [`PortSettings::queues`] says more.
    pub fn receive(&self) -> Option<Frame> {
        self.socket.first.receive()
    }

    /// Says which frames wait in which queue; all in the first one if nothing does. What waits already stays.
    pub fn steer(&self, steering: Option<Steering>) {
        *self.socket.steering.write().unwrap_or_else(PoisonError::into_inner) = steering;
    }

    /// How long a frame that is sent now would have to wait; it is dropped. `None` if it need not.
    pub fn pause(&self) -> Option<Duration> {
        self.socket.limiter.as_ref()?.wait(Instant::now())
    }

    /// Sends a frame. What is said of one that goes to several is of the last of them.
    pub fn send(&self, frame: Frame) -> Sent {
        if self.link() { self.switch.carry(&self.socket, frame) } else { self.socket.drop_frame() }
    }

    /// Whether the port is connected.
    pub fn link(&self) -> bool {
        self.socket.link.load(Ordering::Relaxed)
    }

    /// Connects the port, or pulls its plug: frames are dropped in both directions then.
    pub fn set_link(&self, up: bool) {
        if self.socket.link.swap(up, Ordering::Relaxed) != up {
            self.socket.first.bell.ring();
        }
    }

    /// What a row of the device table has to say of it behind what the adapter is, which has dropped so many frames itself:
    /// `; no link; 3 frames dropped`, or nothing.
    pub fn remarks(&self, dropped: u64) -> String {
        let link = if self.link() { "" } else { "; no link" };
        match dropped + self.dropped().value() {
            0 => link.to_owned(),
            dropped => format!("{link}; {dropped} frames dropped"),
        }
    }

    /// Counts frames that were dropped.
    pub fn dropped(&self) -> &Counter {
        &self.socket.settings.dropped
    }
}

impl Drop for Port {
    fn drop(&mut self) {
        self.switch.remove(self.socket.number);
    }
}
