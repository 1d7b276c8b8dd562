use crate::{Millis, Timestamp};

/// A clock that is never set back, over one that may be: timers count on it, statements are dated by the other.
#[derive(Debug, Default)]
pub(crate) struct Clock {
    latest: Timestamp,
    ahead: Millis,
}

impl Clock {
    /// The time to count on, when the other clock shows `shown`.
    pub(crate) fn read(&mut self, shown: Timestamp) -> Timestamp {
        let back = self.latest.since(self.count(shown));
        self.ahead = Millis(self.ahead.0.saturating_add(back.0));
        self.latest = self.count(shown);
        self.latest
    }

    /// The time to count on at a moment of the other clock.
    pub(crate) fn count(&self, shown: Timestamp) -> Timestamp {
        shown + self.ahead
    }

    /// What the other clock shows at a moment of this one.
    pub(crate) fn show(&self, counted: Timestamp) -> Timestamp {
        counted - self.ahead
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn it_goes_on_when_the_other_is_set_back() {
        let mut clock = Clock::default();
        let read: Vec<_> = [100, 5000, 200, 210, 150, 400].map(|at| clock.read(Timestamp(at)).0).into();
        assert_eq!(read, [100, 5000, 5000, 5010, 5010, 5260]);
        assert_eq!(clock.show(Timestamp(5260)), Timestamp(400));
        assert_eq!(clock.count(Timestamp(400)), Timestamp(5260));
    }
}
