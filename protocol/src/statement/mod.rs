//! Statements: everything that is signed, its wire form, and the stages that it passes on its way in.

mod body;
mod bounds;
mod intake;
#[cfg(test)]
mod tests;
mod wire;

pub use body::*;
pub use bounds::*;
pub use intake::{Carrier, Identified, Intake, MAX_SEEN, NameStanding, Verified};
pub use wire::{Header, Kind, MAX_STATEMENT_BYTES, Nonce, Role, Signed, Statement, Topic, VERSION};
