use crate::codec::CodecError;
use crate::statement::Kind;
use crate::{Millis, Timestamp};
use swarm_crypto::address::Address;

/// What gossipsub is told about a message. Only `Reject` costs the sender score.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Verdict {
    /// Valid: pass it on.
    Accept,
    /// Not for us, or not now; honest nodes may differ on it.
    Ignore,
    /// Invalid from its bytes alone, for every node, for ever.
    Reject,
}

/// Why a message goes no further.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum Rejection {
    /// Longer than a message may be. The sender is at fault.
    #[error("message of {0} bytes; at most {max} are allowed", max = crate::statement::MAX_STATEMENT_BYTES)]
    TooLong(usize),
    /// Not a canonical statement. The sender is at fault.
    #[error("{0}")]
    Malformed(#[from] CodecError),
    /// A field outside its fixed bounds. The sender is at fault.
    #[error("{0} is out of bounds")]
    OutOfBounds(&'static str),
    /// The signature is not one of the named signer over these bytes. The sender is at fault.
    #[error("signature does not verify: {0}")]
    BadSignature(String),
    /// A kind that this topic does not carry. The sender is at fault.
    #[error("kind '{0}' is not allowed here")]
    WrongTopic(Kind),
    /// A kind that only the operator may sign, by somebody else. The sender is at fault.
    #[error("kind '{0}' is the operator's, but {1} signed it")]
    NotOperator(Kind, Address),
    /// A kind of the protocol that this version does not build. Nobody is at fault.
    #[error("kind '{0}' is not built in this version")]
    Unbuilt(Kind),
    /// A kind that this version has never heard of. Nobody is at fault: newer nodes may know it.
    #[error("kind '{0}' is unknown to this version")]
    UnknownKind(String),
    /// A protocol version that this node does not speak. Nobody is at fault.
    #[error("protocol version {0} is not spoken here (this node speaks 1); update the older side")]
    UnknownVersion(u64),
    /// Another pool's statement. Nobody is at fault.
    #[error("statement of another pool")]
    OtherPool,
    /// Signed later than now; one of the two clocks is off. Nobody is at fault.
    #[error("signed {0} in the future: a clock is off; check that both machines keep time (NTP)")]
    FromFuture(Millis),
    /// Older than its kind may be. Nobody is at fault: delivery can be slow.
    #[error("signed at {0:?}, too long ago for its kind")]
    TooOld(Timestamp),
    /// The same payload again. Nobody is at fault.
    #[error("seen before")]
    Duplicate,
    /// Another payload under a used nonce. The signer is at fault, not the sender.
    #[error("{0} used one nonce for two statements of kind '{1}'")]
    NonceReused(Address, Kind),
    /// A known signer has used up its own allowance. Nobody need be at fault.
    #[error("too many statements by {0} at once; send this one again in a few seconds")]
    RateLimited(Address),
    /// The peer has brought too much by wallets that are not known yet. Nobody need be at fault: it may only forward.
    #[error(
        "too many statements of wallets that are new to the pool came from this node at once; send this one again in a few seconds"
    )]
    TooManyStrangers,
    /// The peer itself has handed over or asked too much. It is at fault or in a hurry.
    #[error("this node sends too much at once; send it again in a few seconds")]
    PeerRateLimited,
}

impl Rejection {
    /// What gossipsub is told.
    pub fn verdict(&self) -> Verdict {
        match self {
            Rejection::TooLong(_)
            | Rejection::Malformed(_)
            | Rejection::OutOfBounds(_)
            | Rejection::BadSignature(_)
            | Rejection::WrongTopic(_)
            | Rejection::NotOperator(..) => Verdict::Reject,
            Rejection::Unbuilt(_)
            | Rejection::UnknownKind(_)
            | Rejection::UnknownVersion(_)
            | Rejection::OtherPool
            | Rejection::FromFuture(_)
            | Rejection::TooOld(_)
            | Rejection::Duplicate
            | Rejection::NonceReused(..)
            | Rejection::RateLimited(_)
            | Rejection::TooManyStrangers
            | Rejection::PeerRateLimited => Verdict::Ignore,
        }
    }
}
