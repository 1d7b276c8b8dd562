//! Stopping work that is under way.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering};
use std::time::Instant;

use crate::EngineError;

/// A switch that any thread may flip once and that running work looks at between layers and tokens.
#[derive(Debug, Clone, Default)]
pub struct CancelToken(Arc<AtomicBool>);

impl CancelToken {
    /// A token that is not cancelled.
    pub fn new() -> Self {
        Self::default()
    }

    /// Cancels for good; safe to call from any thread, any number of times.
    pub fn cancel(&self) {
        self.0.store(true, Ordering::Release);
    }

    /// Whether [`CancelToken::cancel`] was called on this token or a clone of it.
    pub fn is_cancelled(&self) -> bool {
        self.0.load(Ordering::Acquire)
    }
}

/// What running work checks: any of several tokens, and a deadline.
#[derive(Debug, Clone, Copy, Default)]
pub struct Interrupt<'a> {
    cancels: &'a [&'a CancelToken],
    deadline: Option<Instant>,
}

impl<'a> Interrupt<'a> {
    /// Interrupts when one of `cancels` is cancelled or `deadline` has passed.
    pub fn new(cancels: &'a [&'a CancelToken], deadline: Option<Instant>) -> Self {
        Self { cancels, deadline }
    }

    /// Refuses to go on with [`EngineError::Cancelled`] or [`EngineError::Deadline`].
    pub fn check(&self) -> Result<(), EngineError> {
        if self.cancels.iter().any(|token| token.is_cancelled()) {
            return Err(EngineError::Cancelled);
        }
        match self.deadline {
            Some(deadline) if Instant::now() >= deadline => Err(EngineError::Deadline),
            _ => Ok(()),
        }
    }
}
