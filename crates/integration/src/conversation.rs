//! One service's talk with the guest: versions first, then one request at a time.

use serde::{Deserialize, Serialize};

use crate::message::{FRAMEWORKS, MessageType, Request, Response, Version, offer};

/// Nanoseconds after which a request that has no answer makes contact count as lost.
pub(crate) const PATIENCE: u64 = 10 * clock::NANOSECONDS;

/// What a service does once versions are agreed upon. Times are those of [`clock::Clock::now`], in nanoseconds.
pub(crate) trait Service: Send + 'static {
    /// The type of its messages.
    const MESSAGE: MessageType;
    /// Its versions, the best one first.
    const VERSIONS: &'static [Version];

    /// The guest speaks `version` from `now` on.
    fn begin(&mut self, version: Version, now: u64);
    /// The next request's body, if it is time for one.
    fn request(&mut self, now: u64) -> Option<Vec<u8>>;
    /// When to ask [`Self::request`] again unless something else happens.
    fn due(&self) -> Option<u64>;
    /// The guest has answered the last request.
    fn answer(&mut self, status: u32, body: &[u8], now: u64);
    /// The guest is gone, or its driver.
    fn end(&mut self);
}

/// How a service is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "kebab-case")]
pub enum State {
    /// It is not offered to the guest.
    Disabled,
    /// No driver of the guest has opened it.
    NoContact,
    /// The guest has not answered which version it speaks: some wait for a program of theirs.
    Negotiating,
    /// The guest speaks no version that the host knows.
    Refused,
    /// It works.
    Ok,
    /// The guest does not answer any more.
    Lost,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Phase {
    Closed,
    /// Versions have not been offered yet, or have been and are not answered.
    Negotiating,
    Refused,
    Ready(Version, Version),
}

struct Pending {
    transaction: u8,
    sent: u64,
}

/// The talk of one service.
pub(crate) struct Conversation<S> {
    pub service: S,
    phase: Phase,
    next_transaction: u8,
    pending: Option<Pending>,
    last_contact: Option<u64>,
    /// Messages that were no answers to what was asked.
    pub strays: u64,
}

impl<S: Service> Conversation<S> {
    pub fn new(service: S) -> Self {
        let phase = Phase::Closed;
        Self { service, phase, next_transaction: 0, pending: None, last_contact: None, strays: 0 }
    }

    /// The guest has opened the channel.
    pub fn open(&mut self) {
        (self.phase, self.pending, self.last_contact) = (Phase::Negotiating, None, None);
    }

    /// The channel is closed.
    pub fn close(&mut self) {
        (self.phase, self.pending) = (Phase::Closed, None);
        self.service.end();
    }

    /// The next message to the guest, if it is time for one.
    pub fn send(&mut self, now: u64) -> Option<Vec<u8>> {
        if self.pending.is_some() {
            return None;
        }
        let zero = Version::new(0, 0);
        let (message_type, framework, version, body) = match self.phase {
            Phase::Closed | Phase::Refused => return None,
            Phase::Negotiating => (MessageType::NEGOTIATE, zero, zero, offer(S::VERSIONS)),
            Phase::Ready(framework, version) => (S::MESSAGE, framework, version, self.service.request(now)?),
        };
        let transaction = self.next_transaction;
        self.next_transaction = transaction.wrapping_add(1);
        self.pending = Some(Pending { transaction, sent: now });
        Some(Request { message_type, framework, version, transaction, body: &body }.encode())
    }

    /// When [`Self::send`] may have something to say unless something else happens.
    pub fn due(&self) -> Option<u64> {
        match (&self.pending, self.phase) {
            (None, Phase::Ready(..)) => self.service.due(),
            _ => None,
        }
    }

    /// The guest has sent `packet`.
    pub fn receive(&mut self, packet: &[u8], now: u64) {
        let expected = match self.phase {
            Phase::Negotiating => MessageType::NEGOTIATE,
            _ => S::MESSAGE,
        };
        let response = Response::decode(packet).filter(|response| {
            let asked = self.pending.as_ref().map(|pending| pending.transaction);
            response.message_type == expected && asked == Some(response.transaction)
        });
        let Some(response) = response else {
            self.strays += 1;
            return;
        };
        self.pending = None;
        self.last_contact = Some(now);
        match self.phase {
            Phase::Negotiating => match response.choice(S::VERSIONS) {
                Some((framework, version)) => {
                    self.phase = Phase::Ready(framework, version);
                    self.service.begin(version, now);
                }
                None => self.phase = Phase::Refused,
            },
            Phase::Ready(..) => self.service.answer(response.status, response.body, now),
            // Nothing is asked then.
            Phase::Closed | Phase::Refused => {}
        }
    }

    /// How it is.
    pub fn state(&self, now: u64) -> State {
        match self.phase {
            Phase::Closed => State::NoContact,
            Phase::Negotiating => State::Negotiating,
            Phase::Refused => State::Refused,
            Phase::Ready(..) => match &self.pending {
                Some(pending) if now.saturating_sub(pending.sent) > PATIENCE => State::Lost,
                _ => State::Ok,
            },
        }
    }

    /// The versions of the framework and the service that have been agreed upon.
    pub fn versions(&self) -> Option<(Version, Version)> {
        match self.phase {
            Phase::Ready(framework, version) => Some((framework, version)),
            _ => None,
        }
    }

    /// When the guest was heard last.
    pub fn last_contact(&self) -> Option<u64> {
        self.last_contact
    }
}

// What is offered fits the guest's buffer.
const _: () = assert!(FRAMEWORKS.len() <= 100);

#[cfg(test)]
mod tests {
    use super::*;
    use crate::message::tests::{choose, respond};

    #[derive(Default)]
    struct Echo {
        version: Option<Version>,
        wanted: Option<Vec<u8>>,
        answers: Vec<(u32, Vec<u8>)>,
    }

    impl Service for Echo {
        const MESSAGE: MessageType = MessageType::HEARTBEAT;
        const VERSIONS: &'static [Version] = &[Version::new(3, 0), Version::new(1, 0)];

        fn begin(&mut self, version: Version, _: u64) {
            self.version = Some(version);
        }

        fn request(&mut self, _: u64) -> Option<Vec<u8>> {
            self.wanted.take()
        }

        fn due(&self) -> Option<u64> {
            None
        }

        fn answer(&mut self, status: u32, body: &[u8], _: u64) {
            self.answers.push((status, body.to_vec()));
        }

        fn end(&mut self) {
            self.version = None;
        }
    }

    fn ready() -> Conversation<Echo> {
        let mut talk = Conversation::new(Echo::default());
        talk.open();
        let request = talk.send(0).unwrap();
        let chosen = choose(Version::new(3, 0), Version::new(1, 0));
        talk.receive(&respond(&request, 0, chosen), 5);
        talk
    }

    #[test]
    fn versions_are_agreed_upon_before_anything_else() {
        let mut talk = Conversation::new(Echo { wanted: Some(vec![1]), ..Echo::default() });
        assert_eq!((talk.state(0), talk.send(0)), (State::NoContact, None));
        talk.open();
        assert_eq!(talk.state(0), State::Negotiating);
        assert!(talk.send(0).is_some());
        // Guests may take their time over it.
        assert_eq!((talk.send(2 * PATIENCE), talk.state(2 * PATIENCE)), (None, State::Negotiating));
        let talk = ready();
        assert_eq!(talk.service.version, Some(Version::new(1, 0)));
        assert_eq!((talk.state(5), talk.last_contact()), (State::Ok, Some(5)));
    }

    #[test]
    fn a_guest_that_knows_no_version_is_asked_nothing() {
        let mut talk = Conversation::new(Echo { wanted: Some(vec![1]), ..Echo::default() });
        talk.open();
        let request = talk.send(0).unwrap();
        talk.receive(&respond(&request, 0, |body| body[..4].fill(0)), 1);
        assert_eq!((talk.state(1), talk.send(1)), (State::Refused, None));
    }

    #[test]
    fn one_request_is_on_its_way_at_a_time_and_silence_is_loss_of_contact() {
        let mut talk = ready();
        talk.service.wanted = Some(vec![1, 2, 3]);
        let request = talk.send(10).unwrap();
        talk.service.wanted = Some(vec![4]);
        assert_eq!(talk.send(11), None);
        assert_eq!(talk.state(10 + PATIENCE), State::Ok);
        assert_eq!(talk.state(11 + PATIENCE), State::Lost);
        talk.receive(&respond(&request, 9, |body| body[0] = 8), 12 + PATIENCE);
        assert_eq!(talk.state(12 + PATIENCE), State::Ok);
        assert_eq!(talk.service.answers, [(9, vec![8, 2, 3])]);
        assert!(talk.send(12 + PATIENCE).is_some());
    }

    #[test]
    fn what_was_not_asked_for_is_counted_and_ignored() {
        let mut talk = ready();
        talk.receive(&[], 0);
        talk.receive(&[0xff; 64], 0);
        talk.service.wanted = Some(vec![1]);
        let request = talk.send(0).unwrap();
        // A request instead of an answer, and an answer that comes twice.
        talk.receive(&request, 0);
        let answer = respond(&request, 0, |_| {});
        talk.receive(&answer, 0);
        talk.receive(&answer, 0);
        assert_eq!((talk.strays, talk.service.answers.len()), (4, 1));
    }

    #[test]
    fn a_driver_that_comes_again_negotiates_again() {
        let mut talk = ready();
        talk.close();
        assert_eq!((talk.state(0), talk.service.version, talk.versions()), (State::NoContact, None, None));
        talk.open();
        assert!(talk.send(0).is_some());
    }
}
