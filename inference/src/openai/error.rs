//! What can go wrong with a server.

use std::io;
use std::time::Duration;

use thiserror::Error;

use super::MAX_EVENT_BYTES;

/// What a server did instead of what it was asked for.
#[derive(Debug, Error)]
pub enum ServerError {
    /// The address is none.
    #[error(
        "the server's address {0:?} cannot be used: it has to be http:// and a host, and a port where it is not 80"
    )]
    Address(String),
    /// There is nothing to start.
    #[error("the command that starts the server is empty")]
    NoCommand,
    /// The program could not be started.
    #[error("the server {program:?} cannot be started: {source}")]
    Spawn {
        /// The program.
        program: String,
        /// What the system said.
        source: io::Error,
    },
    /// Somebody else listens where the server is to.
    #[error("something answers at {0} before the server is started: stop it, or name it by its address")]
    Taken(String),
    /// The process ended.
    #[error("the server's process has ended; what it said last: {0}")]
    Exited(String),
    /// It did not answer in time.
    #[error("the server was not ready within {within:?}: {why}")]
    NotReady {
        /// The time that it had.
        within: Duration,
        /// What the last question got.
        why: String,
    },
    /// Another engine is starting it.
    #[error("the server is being started")]
    Starting,
    /// It does not have the model.
    #[error("the server has no model {wanted:?}; it has {found}")]
    NoModel {
        /// The model's name there.
        wanted: String,
        /// The names of what it has.
        found: String,
    },
    /// No answer came at all.
    #[error("the server could not be reached: {0}")]
    Unreachable(String),
    /// It answered with another status than 200.
    #[error("the server answered {status}: {said}")]
    Refused {
        /// The status of HTTP.
        status: u16,
        /// What else it said.
        said: String,
    },
    /// It answered with something else than a stream of events.
    #[error("the server answered with {found} instead of a stream of events; its message: {said}")]
    NoStream {
        /// The type of what it sent.
        found: String,
        /// The error that it reports there.
        said: String,
    },
    /// Its answer is not whole.
    #[error("the server broke off: {0}")]
    BrokeOff(String),
    /// It sent nothing new for this long.
    #[error("the server sent no token for {0:?}")]
    Silent(Duration),
    /// It sent events, but no tokens.
    #[error("the server sent {0} events in a row without a token")]
    NoTokens(u32),
    /// An event has no end.
    #[error("the server sent an event of more than {MAX_EVENT_BYTES} bytes")]
    TooLong,
    /// An event cannot be read.
    #[error("the server sent an event that cannot be used: {0}")]
    Malformed(String),
    /// It reported an error in the middle.
    #[error("the server failed: {0}")]
    Reported(String),
    /// It sends text alone.
    #[error("the server states no log-probabilities, without which nobody can check what it says")]
    NoLogProbabilities,
    /// A token or its candidates cannot be right.
    #[error("token {position} of the server {why}")]
    Token {
        /// Its position in the output, counted from 0.
        position: usize,
        /// What is wrong with it.
        why: String,
    },
    /// It read another prompt.
    #[error(
        "the server was given other tokens than it read as the prompt: its tokenizer or its template differs"
    )]
    OtherPrompt,
    /// Tokens and text do not belong together.
    #[error(
        "the server's text is not what its tokens spell, after {tokens} tokens: it left some out, or its tokenizer differs"
    )]
    OtherText {
        /// Tokens told of.
        tokens: usize,
    },
    /// It counted other tokens than it told of.
    #[error("the server counted {counted} tokens and told of {told}")]
    Miscounted {
        /// Tokens that it counted.
        counted: u64,
        /// Tokens that it told of.
        told: usize,
    },
    /// It ended where no rule ends an output.
    #[error("the server ended after {tokens} tokens, where nothing ends the output: {finish}")]
    EndedEarly {
        /// Tokens told of.
        tokens: usize,
        /// What the server gave as the reason.
        finish: String,
    },
}
