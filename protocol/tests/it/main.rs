//! The rules seen from outside: vectors made by other implementations, and what must be refused.

#![allow(clippy::unwrap_used, reason = "a test fails by panicking")]

mod acceptance;
mod toy;
