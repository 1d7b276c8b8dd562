//! The machine and its messages, without a network.

mod bucket;
mod fetching;
mod hostile;
mod message;
mod script;
mod serving;
mod streams;
