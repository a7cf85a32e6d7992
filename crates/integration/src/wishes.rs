//! What others want of a guest: wishes wait their turn, and each has an outcome.

use std::collections::VecDeque;

use crate::conversation::Service;
use crate::message::STATUS_OK;

/// What became of a wish.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Outcome {
    /// The guest has done it.
    Done,
    /// The guest has not, with its status.
    Refused(u32),
    /// The host could not go on with it.
    Failed(String),
    /// The guest's driver has gone.
    Gone,
}

impl Outcome {
    /// Of an answer with `status`.
    pub fn of(status: u32) -> Self {
        if status == STATUS_OK { Self::Done } else { Self::Refused(status) }
    }
}

/// Outcomes that nobody has fetched are kept up to this number.
const KEPT: usize = 64;

/// The wishes of one service.
pub(crate) struct Wishes<W> {
    waiting: VecDeque<(u64, W)>,
    current: Option<u64>,
    last: u64,
    outcomes: VecDeque<(u64, Outcome)>,
}

impl<W> Default for Wishes<W> {
    fn default() -> Self {
        Self { waiting: VecDeque::new(), current: None, last: 0, outcomes: VecDeque::new() }
    }
}

impl<W> Wishes<W> {
    /// Notes a wish; its number is for [`Self::outcome`].
    pub fn add(&mut self, wish: W) -> u64 {
        self.last += 1;
        self.waiting.push_back((self.last, wish));
        self.last
    }

    /// Takes the next wish, which is the current one until it is settled.
    pub fn begin(&mut self) -> Option<W> {
        let (number, wish) = self.waiting.pop_front()?;
        self.current = Some(number);
        Some(wish)
    }

    /// What became of the current wish.
    pub fn settle(&mut self, outcome: Outcome) {
        if let Some(number) = self.current.take() {
            self.keep(number, outcome);
        }
    }

    fn keep(&mut self, number: u64, outcome: Outcome) {
        if self.outcomes.len() == KEPT {
            self.outcomes.pop_front();
        }
        self.outcomes.push_back((number, outcome));
    }

    /// What became of a wish, once it is known; it is told once.
    pub fn outcome(&mut self, number: u64) -> Option<Outcome> {
        let at = self.outcomes.iter().position(|(n, _)| *n == number)?;
        self.outcomes.remove(at).map(|(_, outcome)| outcome)
    }

    /// Takes a wish back. False if it is the current one.
    pub fn withdraw(&mut self, number: u64) -> bool {
        self.waiting.retain(|(n, _)| *n != number);
        self.current != Some(number)
    }

    /// The guest's driver has gone.
    pub fn end(&mut self) {
        self.settle(Outcome::Gone);
        for (number, _) in std::mem::take(&mut self.waiting) {
            self.keep(number, Outcome::Gone);
        }
    }
}

/// A service of which others want something.
pub(crate) trait Asked: Service {
    /// What they want.
    type Wish;

    /// Their wishes.
    fn wishes(&mut self) -> &mut Wishes<Self::Wish>;

    /// Nobody waits for the current wish any more.
    fn abandon(&mut self) {}
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn wishes_are_taken_in_order_and_each_outcome_is_told_once() {
        let mut wishes = Wishes::default();
        let (first, second) = (wishes.add('a'), wishes.add('b'));
        assert_eq!((wishes.begin(), wishes.outcome(first)), (Some('a'), None));
        wishes.settle(Outcome::of(0));
        assert_eq!(wishes.begin(), Some('b'));
        wishes.settle(Outcome::of(5));
        wishes.settle(Outcome::of(0));
        assert_eq!(wishes.outcome(second), Some(Outcome::Refused(5)));
        assert_eq!((wishes.outcome(first), wishes.outcome(first)), (Some(Outcome::Done), None));
    }

    #[test]
    fn a_driver_that_goes_leaves_no_wish_without_outcome() {
        let mut wishes = Wishes::default();
        let (first, second, third) = (wishes.add('a'), wishes.add('b'), wishes.add('c'));
        wishes.begin();
        assert!(!wishes.withdraw(first) && wishes.withdraw(second));
        wishes.end();
        let outcomes = [first, second, third].map(|number| wishes.outcome(number));
        assert_eq!(outcomes, [Some(Outcome::Gone), None, Some(Outcome::Gone)]);
    }

    #[test]
    fn outcomes_that_nobody_fetches_do_not_pile_up() {
        let mut wishes = Wishes::default();
        for _ in 0..1000 {
            wishes.add(());
            wishes.begin();
            wishes.settle(Outcome::Done);
        }
        assert_eq!(wishes.outcomes.len(), KEPT);
    }
}
