//! The synthetic interrupt controller of a virtual processor (TLFS, "Inter-Partition Communication"):
//! message slots with their queues, and event flags.
//!
//! Nothing here raises an interrupt: methods say for which sources one is due, and the caller asks the
//! local APIC when all locks have been released.

use std::collections::VecDeque;
use std::sync::atomic::{AtomicBool, AtomicU8, AtomicU32, AtomicU64, Ordering};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock};

use guest_memory::GuestMemory;
use tlfs::message::{Message, MessageFlags, MessageType, SLOT_BYTES, TimerPayload};
use tlfs::{EVENT_FLAG_COUNT, HvStatus, PageMsr, SINT_COUNT, Scontrol};
use vm_memory::{Bytes, GuestAddress};
use zerocopy::IntoBytes;

use crate::apic_side::ApicSide;
use crate::overlay::{Overlay, atomic, observe};

/// Messages that may wait for one slot. It bounds what a guest costs that reads none of them.
pub const MESSAGE_QUEUE_LIMIT: usize = 64;

/// Size of one source's event flags.
const EVENT_BYTES: u64 = 256;
/// Where in a slot the flags are.
const FLAGS_OFFSET: u64 = 5;
const MESSAGE_PENDING: u8 = MessageFlags::new().with_message_pending(true).into_bits();

/// A message that waits for its slot.
enum Queued {
    Message(Box<Message>),
    /// The message of a synthetic timer, with the time at which it expired.
    Timer {
        index: u32,
        expiration: u64,
    },
}

struct Messages {
    msr: PageMsr,
    page: Overlay,
    queues: [VecDeque<Queued>; SINT_COUNT],
}

struct Events {
    msr: PageMsr,
    page: Overlay,
}

/// The synthetic interrupt controller.
pub(crate) struct Synic {
    memory: GuestMemory,
    side: Arc<ApicSide>,
    control: AtomicU64,
    messages: Mutex<Messages>,
    /// A message has been refused. Set with `messages` locked.
    refused: AtomicBool,
    events: RwLock<Events>,
}

/// Sources for which an interrupt is due, one bit each.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
#[must_use]
pub(crate) struct Due(pub u32);

impl Synic {
    pub fn new(memory: GuestMemory, side: Arc<ApicSide>) -> Self {
        Self {
            memory,
            side,
            control: AtomicU64::new(0),
            messages: Mutex::new(Messages {
                msr: PageMsr::new(),
                page: Overlay::new(),
                queues: Default::default(),
            }),
            refused: AtomicBool::new(false),
            events: RwLock::new(Events { msr: PageMsr::new(), page: Overlay::new() }),
        }
    }

    fn messages(&self) -> MutexGuard<'_, Messages> {
        self.messages.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// SCONTROL.
    pub fn control(&self) -> u64 {
        self.control.load(Ordering::Acquire)
    }

    /// Writes SCONTROL. Messages that wait are delivered when it enables.
    pub fn set_control(&self, value: u64, now: u64) -> Due {
        // Locked, so that a message is either refused before this or accepted after it.
        let messages = self.messages();
        self.control.store(value, Ordering::Release);
        drop(messages);
        self.deliver_waiting(now)
    }

    fn enabled(&self) -> bool {
        Scontrol::from_bits(self.control()).enable()
    }

    /// SIMP.
    pub fn message_page(&self) -> PageMsr {
        self.messages().msr
    }

    /// Writes SIMP. Messages that wait are delivered when it enables.
    pub fn set_message_page(&self, value: PageMsr, now: u64) -> Due {
        let mut messages = self.messages();
        messages.msr = value;
        // Outside RAM the page is not accessible: nothing is delivered.
        messages.page.place(&self.memory, value.enable().then(|| value.gpa()));
        drop(messages);
        self.deliver_waiting(now)
    }

    /// SIEFP.
    pub fn event_page(&self) -> PageMsr {
        self.events.read().unwrap_or_else(PoisonError::into_inner).msr
    }

    /// Writes SIEFP.
    pub fn set_event_page(&self, value: PageMsr) {
        let mut events = self.events.write().unwrap_or_else(PoisonError::into_inner);
        events.msr = value;
        events.page.place(&self.memory, value.enable().then(|| value.gpa()));
    }

    /// Posts a message to source `sint` at reference time `now`.
    ///
    /// # Errors
    /// When there is no such source, the SynIC or its message page is disabled, or the queue is full.
    pub fn post(&self, sint: usize, message: Message, now: u64) -> Result<Due, HvStatus> {
        let mut messages = self.messages();
        self.enqueue(&mut messages, sint, message)?;
        Ok(self.deliver(&mut messages, sint, now))
    }

    /// As [`Self::post`], but leaves the message in its queue for the next [`Self::deliver_waiting`].
    ///
    /// # Errors
    /// As for [`Self::post`].
    pub fn post_later(&self, sint: usize, message: Message) -> Result<(), HvStatus> {
        let mut messages = self.messages();
        self.enqueue(&mut messages, sint, message)?;
        self.side.set_waiting(sint, true);
        Ok(())
    }

    /// Whether a message has been refused since the last time this was true, and may be accepted now.
    pub fn take_refused(&self) -> bool {
        if !self.refused.load(Ordering::SeqCst) {
            return false;
        }
        let messages = self.messages();
        self.enabled() && messages.page.at().is_some() && self.refused.swap(false, Ordering::SeqCst)
    }

    fn enqueue(&self, messages: &mut Messages, sint: usize, message: Message) -> Result<(), HvStatus> {
        let accessible = self.enabled() && messages.page.at().is_some();
        let queue = match messages.queues.get_mut(sint) {
            _ if !accessible => Err(HvStatus::INVALID_SYNIC_STATE),
            None => Err(HvStatus::INVALID_PARAMETER),
            Some(queue) if queue.len() >= MESSAGE_QUEUE_LIMIT => Err(HvStatus::INSUFFICIENT_BUFFERS),
            Some(queue) => Ok(queue),
        };
        match queue {
            Ok(queue) => queue.push_back(Queued::Message(Box::new(message))),
            Err(status) => {
                self.refused.store(true, Ordering::SeqCst);
                return Err(status);
            }
        }
        Ok(())
    }

    /// Posts the message of timer `index`, which expired at `expiration`. Every timer has one message
    /// buffer: if that still waits, the expiration is lost. While the SynIC is disabled the buffer waits.
    pub fn post_timer(&self, sint: usize, index: u32, expiration: u64, now: u64) -> Due {
        let mut messages = self.messages();
        let waits = messages.queues.iter().flatten().any(|queued| is_timer(queued, index));
        let Some(queue) = messages.queues.get_mut(sint).filter(|_| !waits) else { return Due(0) };
        queue.push_back(Queued::Timer { index, expiration });
        self.deliver(&mut messages, sint, now)
    }

    /// Takes back the message of timer `index` if it waits.
    pub fn cancel_timer(&self, index: u32) {
        if self.side.waiting() == 0 {
            return;
        }
        let mut messages = self.messages();
        for (sint, queue) in messages.queues.iter_mut().enumerate() {
            queue.retain(|queued| !is_timer(queued, index));
            self.side.set_waiting(sint, !queue.is_empty());
        }
    }

    /// Delivers what waits and can be delivered: EOM, end of interrupt, or a page that has appeared.
    pub fn deliver_waiting(&self, now: u64) -> Due {
        let waiting = self.side.waiting();
        if waiting == 0 {
            return Due(0);
        }
        let mut messages = self.messages();
        (0..SINT_COUNT)
            .filter(|sint| waiting & (1 << sint) != 0)
            .fold(Due(0), |due, sint| Due(due.0 | self.deliver(&mut messages, sint, now).0))
    }

    /// Moves the first message of a queue into its slot if that is free.
    fn deliver(&self, messages: &mut Messages, sint: usize, now: u64) -> Due {
        let page = messages.page.at().filter(|_| self.enabled());
        let Some(queue) = messages.queues.get_mut(sint) else { return Due(0) };
        let slot = page.map(|page| page + (sint * SLOT_BYTES) as u64);
        let delivered = slot.is_some_and(|slot| self.fill_slot(slot, queue, now));
        self.side.set_waiting(sint, !queue.is_empty());
        Due(u32::from(delivered) << sint)
    }

    fn fill_slot(&self, slot: u64, queue: &mut VecDeque<Queued>, now: u64) -> bool {
        let Some(first) = queue.front() else { return false };
        if !self.slot_is_free(slot) {
            return false;
        }
        let mut message = match first {
            Queued::Message(message) => **message,
            Queued::Timer { index, expiration } => timer_message(*index, *expiration, now),
        };
        message.header.flags.set_message_pending(queue.len() > 1);
        let bytes = message.as_bytes();
        let len = size_of_val(&message.header) + usize::from(message.header.payload_size);
        // The type goes last: it is what makes the slot occupied.
        let body = self.memory.write_slice(&bytes[4..len.max(4)], GuestAddress(slot + 4));
        let kind = message.header.message_type.0;
        let store = |word: &AtomicU32| word.store(kind, Ordering::SeqCst);
        if body.is_err() || atomic(&self.memory, slot, store).is_none() {
            return false;
        }
        queue.pop_front();
        true
    }

    /// Whether the slot is free. If not, it says that a message is pending, so that the guest writes EOM.
    fn slot_is_free(&self, slot: u64) -> bool {
        let free = |word: &AtomicU32| word.load(Ordering::SeqCst) == MessageType::NONE.0;
        if observe(&self.memory, slot, free) == Some(true) {
            return true;
        }
        let set = |flags: &AtomicU8| flags.fetch_or(MESSAGE_PENDING, Ordering::SeqCst);
        atomic(&self.memory, slot + FLAGS_OFFSET, set);
        // The guest frees the slot, then looks at the flag; this sets the flag, then looks at the slot.
        // Whoever comes second sees the other.
        observe(&self.memory, slot, free) == Some(true)
    }

    /// Sets an event flag of source `sint`. True if it was clear; an interrupt is due then.
    ///
    /// # Errors
    /// When there is no such source or flag, or the SynIC or its event page is disabled.
    #[inline]
    pub fn signal(&self, sint: usize, flag: u16) -> Result<bool, HvStatus> {
        if sint >= SINT_COUNT || flag >= EVENT_FLAG_COUNT {
            return Err(HvStatus::INVALID_PARAMETER);
        }
        if !self.enabled() {
            return Err(HvStatus::INVALID_SYNIC_STATE);
        }
        let events = self.events.read().unwrap_or_else(PoisonError::into_inner);
        let page = events.page.at().ok_or(HvStatus::INVALID_SYNIC_STATE)?;
        let word = page + sint as u64 * EVENT_BYTES + u64::from(flag / 32) * 4;
        let bit = 1 << (flag % 32);
        let set = |word: &AtomicU32| word.fetch_or(bit, Ordering::SeqCst) & bit == 0;
        atomic(&self.memory, word, set).ok_or(HvStatus::INVALID_SYNIC_STATE)
    }

    /// Back to the state after reset. The sources are reset with the [`ApicSide`].
    pub fn reset(&self) {
        self.control.store(0, Ordering::Release);
        let mut messages = self.messages();
        messages.msr = PageMsr::new();
        messages.page.reset(&self.memory);
        messages.queues = Default::default();
        self.refused.store(false, Ordering::SeqCst);
        drop(messages);
        let mut events = self.events.write().unwrap_or_else(PoisonError::into_inner);
        events.msr = PageMsr::new();
        events.page.reset(&self.memory);
    }
}

fn is_timer(queued: &Queued, wanted: u32) -> bool {
    matches!(queued, Queued::Timer { index, .. } if *index == wanted)
}

fn timer_message(index: u32, expiration: u64, now: u64) -> Message {
    let payload =
        TimerPayload { timer_index: index, reserved: 0, expiration_time: expiration, delivery_time: now };
    Message::with(MessageType::TIMER_EXPIRED, &payload)
}

#[cfg(test)]
mod tests {
    use super::*;

    const SIMP: u64 = 0x1000;
    const SIEFP: u64 = 0x2000;
    const SINT: usize = 2;

    struct Fixture {
        synic: Synic,
        side: Arc<ApicSide>,
        memory: GuestMemory,
    }

    fn enabled() -> Fixture {
        let (memory, _) = guest_memory::allocate(0x8000).unwrap();
        let side = Arc::new(ApicSide::new(memory.clone()));
        let synic = Synic::new(memory.clone(), Arc::clone(&side));
        assert_eq!(synic.set_message_page(PageMsr::from_bits(SIMP | 1), 0), Due(0));
        synic.set_event_page(PageMsr::from_bits(SIEFP | 1));
        assert_eq!(synic.set_control(1, 0), Due(0));
        Fixture { synic, side, memory }
    }

    fn message(n: u8) -> Message {
        Message::new(MessageType(1), &[n; 4]).unwrap()
    }

    impl Fixture {
        const SLOT: GuestAddress = GuestAddress(SIMP + 256 * SINT as u64);

        fn slot(&self) -> (u32, u8, u8) {
            let bytes: [u8; 17] = self.memory.read_obj(Self::SLOT).unwrap();
            (u32::from_le_bytes([bytes[0], bytes[1], bytes[2], bytes[3]]), bytes[5], bytes[16])
        }

        fn free_slot(&self) {
            self.memory.write_obj(0_u32, Self::SLOT).unwrap();
        }
    }

    #[test]
    fn a_message_goes_into_its_free_slot() {
        let f = enabled();
        assert_eq!(f.synic.post(SINT, message(7), 0), Ok(Due(1 << SINT)));
        assert_eq!(f.slot(), (1, 0, 7));
        assert_eq!(f.side.waiting(), 0);
    }

    #[test]
    fn messages_wait_for_the_slot_in_order_and_the_guest_is_told() {
        let f = enabled();
        assert_eq!(f.synic.post(SINT, message(1), 0), Ok(Due(1 << SINT)));
        assert_eq!(f.synic.post(SINT, message(2), 0), Ok(Due(0)));
        assert_eq!(f.synic.post(SINT, message(3), 0), Ok(Due(0)));
        assert_eq!(f.slot(), (1, 1, 1), "pending flag set in the occupied slot");
        assert_eq!(f.synic.deliver_waiting(0), Due(0));
        f.free_slot();
        assert_eq!(f.synic.deliver_waiting(0), Due(1 << SINT));
        assert_eq!(f.slot(), (1, 1, 2), "one more waits");
        f.free_slot();
        assert_eq!(f.synic.deliver_waiting(0), Due(1 << SINT));
        assert_eq!(f.slot(), (1, 0, 3));
    }

    #[test]
    fn a_full_queue_refuses() {
        let f = enabled();
        assert!(f.synic.post(SINT, message(0), 0).is_ok());
        for _ in 0..MESSAGE_QUEUE_LIMIT {
            assert_eq!(f.synic.post(SINT, message(0), 0), Ok(Due(0)));
        }
        assert_eq!(f.synic.post(SINT, message(0), 0), Err(HvStatus::INSUFFICIENT_BUFFERS));
        assert_eq!(f.synic.post(SINT + 1, message(0), 0), Ok(Due(1 << (SINT + 1))), "queues are apart");
    }

    #[test]
    fn a_disabled_synic_takes_neither_messages_nor_events() {
        let f = enabled();
        assert_eq!(f.synic.set_control(0, 0), Due(0));
        assert_eq!(f.synic.post(SINT, message(0), 0), Err(HvStatus::INVALID_SYNIC_STATE));
        assert_eq!(f.synic.signal(SINT, 0), Err(HvStatus::INVALID_SYNIC_STATE));
        assert_eq!(f.synic.set_control(1, 0), Due(0));
        f.synic.set_event_page(PageMsr::new());
        assert_eq!(f.synic.signal(SINT, 0), Err(HvStatus::INVALID_SYNIC_STATE));
        assert_eq!(f.synic.set_message_page(PageMsr::from_bits(0x8000 | 1), 0), Due(0));
        assert_eq!(f.synic.post(SINT, message(0), 0), Err(HvStatus::INVALID_SYNIC_STATE), "outside memory");
    }

    #[test]
    fn what_waits_is_delivered_when_the_page_comes_back() {
        let f = enabled();
        assert!(f.synic.post(SINT, message(1), 0).is_ok());
        assert!(f.synic.post(SINT, message(2), 0).is_ok());
        f.free_slot();
        assert_eq!(f.synic.set_message_page(PageMsr::new(), 0), Due(0));
        assert_eq!(f.synic.set_message_page(PageMsr::from_bits(0x4000 | 1), 0), Due(1 << SINT));
        let kind: u32 = f.memory.read_obj(GuestAddress(0x4000 + 256 * SINT as u64)).unwrap();
        assert_eq!(kind, 1);
    }

    #[test]
    fn a_timer_has_one_buffer() {
        let f = enabled();
        assert!(f.synic.post(SINT, message(1), 0).is_ok());
        assert_eq!(f.synic.post_timer(SINT, 3, 100, 110), Due(0));
        assert_eq!(f.synic.post_timer(SINT, 3, 200, 210), Due(0));
        f.free_slot();
        assert_eq!(f.synic.deliver_waiting(250), Due(1 << SINT));
        let payload: [u64; 3] = f.memory.read_obj(GuestAddress(Fixture::SLOT.0 + 16)).unwrap();
        assert_eq!((f.slot().0, payload), (0x8000_0010, [3, 100, 250]));
        f.free_slot();
        assert_eq!(f.synic.deliver_waiting(0), Due(0));
    }

    #[test]
    fn a_cancelled_timer_message_is_not_delivered() {
        let f = enabled();
        assert!(f.synic.post(SINT, message(1), 0).is_ok());
        assert_eq!(f.synic.post_timer(SINT, 0, 100, 110), Due(0));
        f.synic.cancel_timer(0);
        f.free_slot();
        assert_eq!((f.synic.deliver_waiting(0), f.side.waiting()), (Due(0), 0));
    }

    #[test]
    fn an_event_flag_is_set_once() {
        let f = enabled();
        assert_eq!(f.synic.signal(SINT, 2047), Ok(true));
        assert_eq!(f.synic.signal(SINT, 2047), Ok(false));
        let byte: u8 = f.memory.read_obj(GuestAddress(SIEFP + 256 * SINT as u64 + 255)).unwrap();
        assert_eq!(byte, 0x80);
        assert_eq!(f.synic.signal(SINT, 2048), Err(HvStatus::INVALID_PARAMETER));
        assert_eq!(f.synic.signal(16, 0), Err(HvStatus::INVALID_PARAMETER));
    }

    #[test]
    fn reset_empties_the_queues_and_gives_the_pages_back() {
        let f = enabled();
        assert!(f.synic.post(SINT, message(1), 0).is_ok());
        assert!(f.synic.post(SINT, message(2), 0).is_ok());
        f.synic.reset();
        f.side.reset();
        assert_eq!((f.slot().0, f.side.waiting()), (0, 0));
        assert_eq!(f.synic.set_message_page(PageMsr::from_bits(SIMP | 1), 0), Due(0));
        assert_eq!(f.synic.set_control(1, 0), Due(0));
        assert_eq!(f.slot().0, 0);
    }
}
