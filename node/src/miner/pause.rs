//! Pausing a miner that runs, over a socket in its own folder: the owner wants the machine for a while.

use super::Hours;
use crate::cli::{Exit, NodeArgs, UserError};
use crate::driver::Input;
use crate::socket::{self, Answering};
use crate::status::folders_with;
use crate::storage::home::DataDir;
use anyhow::{Result, anyhow};
use std::path::Path;
use std::time::Duration;
use swarm_protocol::miner::{Event, Pause};
use tokio::io::{AsyncReadExt, AsyncWriteExt};
use tokio::net::UnixStream;
use tokio::sync::mpsc;
use tokio::time::timeout;

/// The socket, in the miner's folder.
const SOCKET_FILE: &str = "pause.sock";
/// The longest order.
const MAX_ORDER_BYTES: u64 = 16;
/// How long either side waits for the other.
const ANSWER_TIMEOUT: Duration = Duration::from_secs(5);
const DONE: &str = "ok";
/// It is done, and changes nothing before its hours begin.
const LATER: &str = "hours";

/// What a miner is told.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Order {
    Pause,
    Resume,
}

impl Order {
    fn word(self) -> &'static str {
        match self {
            Order::Pause => "pause",
            Order::Resume => "resume",
        }
    }

    fn of(word: &str) -> Option<Self> {
        [Order::Pause, Order::Resume].into_iter().find(|order| order.word() == word)
    }

    fn event(self) -> Event {
        match self {
            Order::Pause => Event::Pause(Pause::Owner),
            Order::Resume => Event::Resume(Pause::Owner),
        }
    }
}

/// Begins to take orders.
pub(super) fn listen(
    directory: &DataDir,
    inbox: &mpsc::Sender<Input<Event, ()>>,
    hours: Option<&Hours>,
) -> Option<Answering> {
    let (inbox, hours) = (inbox.clone(), hours.cloned());
    socket::answer(directory, SOCKET_FILE, "pause", move |owner| {
        let (inbox, hours) = (inbox.clone(), hours.clone());
        async move {
            // Whoever asked may have gone.
            let _ = timeout(ANSWER_TIMEOUT, take(owner, &inbox, hours.as_ref())).await;
        }
    })
}

async fn take(
    owner: UnixStream,
    inbox: &mpsc::Sender<Input<Event, ()>>,
    hours: Option<&Hours>,
) -> Result<()> {
    let (from, mut to) = owner.into_split();
    let mut word = String::new();
    from.take(MAX_ORDER_BYTES).read_to_string(&mut word).await?;
    let order = Order::of(&word).ok_or_else(|| anyhow!("no order"))?;
    inbox.send(Input::Event(order.event())).await?;
    let later = order == Order::Resume && hours.is_some_and(|hours| !hours.are_now());
    let answer = if later { LATER } else { DONE };
    Ok(to.write_all(answer.as_bytes()).await?)
}

/// Tells the miners of a pool that run here.
pub async fn tell(args: &NodeArgs, order: Order) -> Result<Exit> {
    let mut told = Vec::new();
    for folder in folders_with(args, SOCKET_FILE)? {
        let name = folder.file_name().unwrap_or_default().to_string_lossy().into_owned();
        match timeout(ANSWER_TIMEOUT, say(&folder.join(SOCKET_FILE), order)).await {
            Ok(Ok(later)) => told.push((name, later)),
            Ok(Err(error)) => tracing::debug!("{name} does not answer: {error}"),
            Err(_) => tracing::warn!("{name} does not answer"),
        }
    }
    if told.is_empty() {
        return Err(UserError::input(format!(
            "no miner of {} runs here, or none has joined it yet",
            args.pool.pool
        ))
        .hint("see swarm-node status, or name the miner's folder with --home")
        .into());
    }
    for (name, later) in told {
        match (order, later) {
            (Order::Pause, _) => {
                eprintln!("{name} takes no more jobs; what it runs it finishes (swarm-node resume)")
            }
            (Order::Resume, false) => eprintln!("{name} takes jobs again"),
            (Order::Resume, true) => eprintln!("{name} takes jobs again once its --hours begin"),
        }
    }
    Ok(Exit::Done)
}

/// Whether it takes effect later only.
async fn say(path: &Path, order: Order) -> Result<bool> {
    let mut stream = socket::connect(path).await?;
    stream.write_all(order.word().as_bytes()).await?;
    stream.shutdown().await?;
    let mut answer = String::new();
    stream.take(MAX_ORDER_BYTES).read_to_string(&mut answer).await?;
    match answer.as_str() {
        DONE => Ok(false),
        LATER => Ok(true),
        _ => Err(anyhow!("it says {answer:?}")),
    }
}
