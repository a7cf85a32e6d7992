//! Ports of a switch.

use std::collections::VecDeque;
use std::fmt;
use std::io;
use std::sync::atomic::{AtomicBool, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};
use std::time::{Duration, Instant};

use counters::Counter;
use doorbell::Doorbell;

use crate::frame::{Frame, Mac};
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
    /// Only frames from this address get in.
    pub only: Option<Mac>,
    /// Counts frames that there was no room or no permission for.
    pub dropped: Counter,
}

impl Default for PortSettings {
    fn default() -> Self {
        Self { queues: 1, only: None, dropped: Counter::default() }
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
}

impl Queue {
    fn new() -> io::Result<Self> {
        Ok(Self { waiting: Mutex::default(), bell: Doorbell::new()? })
    }

    /// Rings when there are frames to receive after there were none.
    pub fn doorbell(&self) -> &Doorbell {
        &self.bell
    }

    /// Takes the next frame that has come.
    pub fn receive(&self) -> Option<Frame> {
        let mut waiting = lock(&self.waiting);
        let frame = waiting.frames.pop_front()?;
        if waiting.is_crowded() {
            waiting.taken = Some(Instant::now());
        }
        waiting.bytes -= frame.data.len();
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
}

impl Socket {
    /// That of a port whose frames wait, or go to `sink`.
    pub fn new(number: u64, settings: PortSettings, sink: Option<Box<dyn Sink>>) -> io::Result<Self> {
        let first = Queue::new()?;
        let others = (1..settings.queues).map(|_| Queue::new()).collect::<io::Result<_>>()?;
        let (steering, link) = (RwLock::default(), AtomicBool::new(true));
        Ok(Self { number, settings, first, others, sink, steering, link })
    }

    /// Whether it may send from this address.
    pub fn may_send_from(&self, source: Mac) -> bool {
        !source.is_group() && self.settings.only.is_none_or(|only| only == source)
    }

    /// Counts a frame that is dropped.
    pub fn drop_frame(&self) -> Sent {
        self.settings.dropped.count();
        Sent::Dropped
    }

    /// Takes a frame from the switch.
    pub fn deliver(&self, frame: Frame) -> Sent {
        let sent = match &self.sink {
            _ if !self.link.load(Ordering::Relaxed) => Sent::Dropped,
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
