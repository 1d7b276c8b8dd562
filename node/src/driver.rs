//! The one loop that runs every role: take what waits, let the machine handle it, perform what it asks, in order.

use crate::clock::Clock;
use anyhow::Result;
use swarm_protocol::Machine;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Inputs taken in one turn; all their records share one durable append.
pub const MAX_BATCH: usize = 512;
/// Inputs that wait for the machine.
pub const MAX_INBOX: usize = 4096;

/// What comes to a driver.
#[derive(Debug)]
pub enum Input<E, A> {
    /// For the machine.
    Event(E),
    /// A question, answered from the machine once what it knows is durable.
    Ask(A),
}

/// Whether the loop goes on.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Flow {
    /// It does.
    Continue,
    /// The role is done.
    Stop,
}

/// The world around a machine: it performs effects and answers questions.
pub trait Shell<M: Machine> {
    /// A question from elsewhere.
    type Ask: Send;

    /// Performs the effects of one turn, in order.
    fn perform(&mut self, machine: &M, effects: Vec<M::Effect>) -> impl Future<Output = Result<Flow>> + Send;

    /// Answers a question.
    fn answer(&mut self, machine: &M, ask: Self::Ask) -> impl Future<Output = ()> + Send;
}

/// Runs `machine` until its shell stops it, `stop` is cancelled or every sender of `inbox` is gone.
pub async fn run<M, S>(
    machine: &mut M,
    shell: &mut S,
    inbox: &mut mpsc::Receiver<Input<M::Event, S::Ask>>,
    clock: Clock,
    stop: &CancellationToken,
) -> Result<()>
where
    M: Machine,
    S: Shell<M>,
{
    let mut asks = Vec::new();
    loop {
        let effects: Vec<M::Effect> = std::iter::from_fn(|| machine.poll_effect()).collect();
        if !effects.is_empty() && shell.perform(machine, effects).await? == Flow::Stop {
            return Ok(());
        }
        for ask in asks.drain(..) {
            shell.answer(machine, ask).await;
        }
        let Some(first) = next(machine, inbox, clock, stop).await else { return Ok(()) };
        let mut turn = first;
        for _ in 0..MAX_BATCH {
            match turn {
                Turn::Input(Input::Event(event)) => machine.handle(event, clock.now()),
                Turn::Input(Input::Ask(ask)) => asks.push(ask),
                Turn::Timeout => break,
            }
            match inbox.try_recv() {
                Ok(input) => turn = Turn::Input(input),
                Err(_) => break,
            }
        }
        if machine.poll_timeout().is_some_and(|at| at <= clock.now()) {
            machine.handle_timeout(clock.now());
        }
    }
}

enum Turn<E, A> {
    Input(Input<E, A>),
    Timeout,
}

async fn next<M: Machine, A>(
    machine: &M,
    inbox: &mut mpsc::Receiver<Input<M::Event, A>>,
    clock: Clock,
    stop: &CancellationToken,
) -> Option<Turn<M::Event, A>> {
    let due = machine.poll_timeout().map(|at| clock.instant(at));
    let timeout = async {
        match due {
            Some(due) => tokio::time::sleep_until(due).await,
            None => std::future::pending().await,
        }
    };
    tokio::select! {
        biased;
        () = stop.cancelled() => None,
        input = inbox.recv() => input.map(Turn::Input),
        () = timeout => Some(Turn::Timeout),
    }
}
