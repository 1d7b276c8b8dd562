//! The programs as people start them: real processes that speak over the loopback, each test in folders of its own.

mod demo;
#[allow(dead_code, reason = "what one module needs, another does not")]
mod harness;
