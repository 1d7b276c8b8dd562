//! Engines as processes: what a node and `swarm-engine` say to each other, and both ends of it.
//!
//! A crash, a hang or a lack of memory ends a process and with it what it was working on, never the node. The rules stay
//! with the node: the engine is told a prompt and then one token after another, and offers what may come next.

mod frame;
mod host;
mod hosts;
mod isolated;
mod process;
mod program;
mod serve;

pub use frame::{MAX_FRAME_BYTES, PIPE_VERSION};
pub use isolated::Isolated;
pub use program::{DeviceChoice, Program};
pub use serve::{ServeError, serve};
