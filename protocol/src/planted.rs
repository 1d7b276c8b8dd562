//! Bugs that the simulation must find, planted one at a time, and signatures that it vouches for.
//! Without the feature `planted` every question is `false`.

/// One planted bug.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Bug {
    /// A second proof of a finished job is accepted again.
    DoubleAccept,
    /// An expired job's reservation is not given back.
    LostRefund,
    /// A proof under an earlier term of another holder is accepted.
    StaleTerm,
    /// Job nonces are forgotten before the job stops being valid.
    ShortDedup,
    /// The epoch's volume counts leased jobs.
    VolumeCountsLeased,
    /// The miner's part is rounded up.
    RoundToMiner,
    /// The pool id of a statement is not compared.
    OtherPool,
    /// Who claims first wins, whatever was drawn.
    DrawIgnored,
    /// A leased job expires by the wall clock.
    ClockExpiresLease,
    /// A job cancelled while pending can still be accepted.
    CancelledAccepted,
    /// A receipt's index is read before the record is made.
    ReceiptFromMemory,
    /// The driver performs effects before the append is durable.
    SpeakBeforePersist,
}

#[cfg(feature = "planted")]
mod active {
    use super::Bug;
    use crate::statement::Signed;
    use std::cell::{Cell, RefCell};
    use std::collections::HashSet;

    thread_local! {
        static PLANTED: Cell<Option<Bug>> = const { Cell::new(None) };
        static VOUCHED: RefCell<HashSet<Signed>> = RefCell::default();
    }

    /// Plants `bug` for this thread, or none.
    pub fn plant(bug: Option<Bug>) {
        PLANTED.set(bug);
    }

    /// True if `bug` is planted on this thread.
    pub fn is(bug: Bug) -> bool {
        PLANTED.get() == Some(bug)
    }

    /// Says that these bytes were signed by whom they name: on this thread, the signature is believed and not
    /// checked. Long simulations do so.
    pub fn vouch(signed: Signed) {
        VOUCHED.with_borrow_mut(|vouched| vouched.insert(signed));
    }

    /// Takes back every word of [`vouch`].
    pub fn vouch_for_nothing() {
        VOUCHED.with_borrow_mut(HashSet::clear);
    }

    /// True if these very bytes were vouched for.
    pub fn is_vouched(signed: &Signed) -> bool {
        VOUCHED.with_borrow(|vouched| vouched.contains(signed))
    }
}

#[cfg(feature = "planted")]
pub use active::{is, is_vouched, plant, vouch, vouch_for_nothing};

/// True if `bug` is planted on this thread.
#[cfg(not(feature = "planted"))]
pub const fn is(_bug: Bug) -> bool {
    false
}

/// True if these very bytes were vouched for.
#[cfg(not(feature = "planted"))]
pub const fn is_vouched(_signed: &crate::statement::Signed) -> bool {
    false
}
