use crate::Timestamp;

/// A role's deterministic state machine; one driver loop runs every role through it.
pub trait Machine {
    /// What can happen to it.
    type Event;
    /// What it asks of the shell.
    type Effect;

    /// Takes one event. Infallible: a peer's mistake is a [`crate::Rejection`], a mistake of ours an assertion.
    fn handle(&mut self, event: Self::Event, now: Timestamp);

    /// Does what has become due by `now`.
    fn handle_timeout(&mut self, now: Timestamp);

    /// When [`Machine::handle_timeout`] next has something to do.
    fn poll_timeout(&self) -> Option<Timestamp>;

    /// The next effect, in order, until there is none.
    fn poll_effect(&mut self) -> Option<Self::Effect>;
}
