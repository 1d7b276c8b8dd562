//! Requests of many engines as one batch, which a thread of its own computes.

use std::collections::BTreeMap;
use std::panic::{AssertUnwindSafe, catch_unwind};
use std::sync::Arc;
use std::sync::mpsc::{Receiver, RecvTimeoutError, SyncSender, sync_channel};
use std::time::{Duration, Instant};

use crate::generate::Predictor;
use crate::{
    BLOCK_POSITIONS, Batch, BatchLimits, Candidate, Compute, Decoder, EngineError, Interrupt, JoinError,
    LoadError, MAX_BATCH_SEQUENCES, SequenceId, candidates,
};

/// The most keys and values of all requests together, in bytes, as long as one request fits.
const MAX_CACHE_BYTES: u64 = 2 << 30;
/// The same on a device, which does not say what it has free, until a step fails there.
const MAX_DEVICE_CACHE_BYTES: u64 = 8 << 30;
/// Contexts that the keys and values of all requests together may fill.
const MAX_CONTEXTS: u64 = 8;
/// Messages that may wait for the thread; who has more waits for a step.
const MAX_ASKS: usize = 4 * MAX_BATCH_SEQUENCES;
/// What one request may be told before it listens: that it joined, and its offer or why there is none.
const MAX_REPLIES: usize = 2;
/// The most time that a step waits for tokens of sequences that were offered some.
const MAX_GRACE: Duration = Duration::from_millis(20);
/// Between two looks at a request's cancel token.
const LOOK_INTERVAL: Duration = Duration::from_millis(10);

/// The thread that owns the batch of one model; it ends with the last engine.
#[derive(Debug)]
pub(super) struct Worker {
    asks: SyncSender<Ask>,
}

enum Ask {
    Join { prompt: Vec<u32>, max_new: usize, replies: SyncSender<Reply> },
    Push(SequenceId, u32),
    Leave(SequenceId),
}

enum Reply {
    Joined(SequenceId),
    Offer(Vec<f32>),
    Failed(EngineError),
}

impl Worker {
    pub(super) fn start(decoder: Arc<Decoder>) -> Result<Self, LoadError> {
        let (asks, receiver) = sync_channel(MAX_ASKS);
        let work = move || Work::new(decoder).serve(&receiver);
        let thread = std::thread::Builder::new().name("batch".to_owned()).spawn(work);
        thread.map_err(|error| LoadError::Prepare(error.to_string()))?;
        Ok(Self { asks })
    }

    fn ask(&self, ask: Ask) -> Result<(), EngineError> {
        self.asks.send(ask).map_err(|_| ended())
    }
}

fn ended() -> EngineError {
    EngineError::Compute("the model's thread ended".to_owned())
}

/// One request's side.
pub(super) struct Batched<'a> {
    worker: &'a Worker,
    joined: Option<(SequenceId, Receiver<Reply>)>,
    top_k: usize,
}

impl<'a> Batched<'a> {
    pub(super) fn new(worker: &'a Worker, top_k: usize) -> Self {
        Self { worker, joined: None, top_k }
    }

    fn offered(&self, interrupt: Interrupt<'_>) -> Result<Vec<Candidate>, EngineError> {
        let Some((_, replies)) = &self.joined else {
            return Err(EngineError::Request("the sequence is not in the batch"));
        };
        match reply(replies, interrupt)? {
            Reply::Offer(logits) => candidates(&logits, self.top_k),
            Reply::Failed(error) => Err(error),
            Reply::Joined(_) => Err(ended()),
        }
    }
}

impl Predictor for Batched<'_> {
    fn begin(
        &mut self,
        prompt: &[u32],
        max_new: u32,
        interrupt: Interrupt<'_>,
    ) -> Result<Vec<Candidate>, EngineError> {
        interrupt.check()?;
        let (sender, replies) = sync_channel(MAX_REPLIES);
        let join = Ask::Join { prompt: prompt.to_vec(), max_new: max_new as usize, replies: sender };
        self.worker.ask(join)?;
        match reply(&replies, interrupt)? {
            Reply::Joined(id) => self.joined = Some((id, replies)),
            Reply::Failed(error) => return Err(error),
            Reply::Offer(_) => return Err(ended()),
        }
        self.offered(interrupt)
    }

    fn next(&mut self, token: u32, interrupt: Interrupt<'_>) -> Result<Vec<Candidate>, EngineError> {
        if let Some((id, _)) = self.joined {
            self.worker.ask(Ask::Push(id, token))?;
        }
        self.offered(interrupt)
    }
}

impl Drop for Batched<'_> {
    fn drop(&mut self) {
        if let Some((id, _)) = self.joined {
            // A thread that ended holds nothing of it any more.
            let _ = self.worker.ask(Ask::Leave(id));
        }
    }
}

fn reply(replies: &Receiver<Reply>, interrupt: Interrupt<'_>) -> Result<Reply, EngineError> {
    loop {
        interrupt.check()?;
        match replies.recv_timeout(LOOK_INTERVAL) {
            Ok(reply) => return Ok(reply),
            Err(RecvTimeoutError::Timeout) => {}
            Err(RecvTimeoutError::Disconnected) => return Err(ended()),
        }
    }
}

/// The thread's side.
struct Work {
    batch: Batch<Arc<Decoder>>,
    members: BTreeMap<SequenceId, Member>,
    step_time: Duration,
    max_cache_bytes: u64,
}

struct Member {
    replies: SyncSender<Reply>,
    /// It was offered something and has not said what it takes.
    chooses: bool,
}

impl Work {
    fn new(decoder: Arc<Decoder>) -> Self {
        let context = context_bytes(&decoder);
        let most = match decoder.compute() {
            Compute::AllCores | Compute::OneCore => MAX_CACHE_BYTES,
            Compute::Device => MAX_DEVICE_CACHE_BYTES,
        };
        let max_cache_bytes = most.min(MAX_CONTEXTS * context).max(context);
        let limits = BatchLimits { max_sequences: MAX_BATCH_SEQUENCES, max_cache_bytes };
        let batch = Batch::new(decoder, limits);
        Self { batch, members: BTreeMap::new(), step_time: Duration::ZERO, max_cache_bytes }
    }

    fn serve(&mut self, asks: &Receiver<Ask>) {
        loop {
            if self.batch.is_idle() {
                match asks.recv() {
                    Ok(ask) => self.take(ask),
                    Err(_) => return,
                }
            }
            self.gather(asks);
            self.step();
        }
    }

    /// Takes what was asked, and waits a little for those who choose: together they cost one pass.
    fn gather(&mut self, asks: &Receiver<Ask>) {
        let until = Instant::now() + (self.step_time / 2).min(MAX_GRACE);
        loop {
            let choosing = self.members.values().any(|member| member.chooses);
            let left =
                if choosing { until.saturating_duration_since(Instant::now()) } else { Duration::ZERO };
            match asks.recv_timeout(left) {
                Ok(ask) => self.take(ask),
                Err(_) => return,
            }
        }
    }

    fn take(&mut self, ask: Ask) {
        match ask {
            Ask::Join { prompt, max_new, replies } => self.join(&prompt, max_new, replies),
            Ask::Push(id, token) => self.push(id, token),
            Ask::Leave(id) => self.leave(id),
        }
    }

    fn join(&mut self, prompt: &[u32], max_new: usize, replies: SyncSender<Reply>) {
        match self.batch.join(prompt, max_new) {
            Ok(id) => {
                self.members.insert(id, Member { replies, chooses: false });
                self.tell(id, Reply::Joined(id));
            }
            Err(error) => {
                let error = match error {
                    JoinError::Request(error) => error,
                    full => EngineError::Full(full.to_string()),
                };
                // Who asked may have gone.
                let _ = replies.try_send(Reply::Failed(error));
            }
        }
    }

    fn push(&mut self, id: SequenceId, token: u32) {
        if let Some(member) = self.members.get_mut(&id) {
            member.chooses = false;
            if let Err(error) = self.batch.push(id, token) {
                self.tell(id, Reply::Failed(error));
                self.leave(id);
            }
        }
    }

    fn leave(&mut self, id: SequenceId) {
        self.members.remove(&id);
        self.batch.leave(id);
    }

    fn tell(&mut self, id: SequenceId, reply: Reply) {
        let sent = self.members.get(&id).is_some_and(|member| member.replies.try_send(reply).is_ok());
        if !sent {
            self.leave(id);
        }
    }

    fn step(&mut self) {
        if self.batch.is_idle() {
            return;
        }
        let started = Instant::now();
        let offers = match catch_unwind(AssertUnwindSafe(|| self.batch.step(Interrupt::default()))) {
            Ok(Ok(offers)) => offers,
            Ok(Err(error)) => return self.fail(&error.to_string()),
            Err(_) => return self.fail("the engine panicked"),
        };
        self.step_time = started.elapsed();
        for offer in offers {
            if let Some(member) = self.members.get_mut(&offer.sequence) {
                member.chooses = true;
            }
            self.tell(offer.sequence, Reply::Offer(offer.logits));
        }
    }

    /// Nobody knows what state the batch is in: all begin anew.
    ///
    /// A device may have had no room for what they hold together: from now on that is half as much, one context at least.
    fn fail(&mut self, why: &str) {
        self.batch.clear();
        if self.batch.model().compute() == Compute::Device {
            self.max_cache_bytes = (self.max_cache_bytes / 2).max(context_bytes(self.batch.model()));
            self.batch.limit_cache(self.max_cache_bytes);
        }
        for member in std::mem::take(&mut self.members).into_values() {
            let _ = member.replies.try_send(Reply::Failed(EngineError::Compute(why.to_owned())));
        }
    }
}

/// Keys and values of one whole context.
fn context_bytes(decoder: &Decoder) -> u64 {
    let blocks = decoder.config().context_length.div_ceil(BLOCK_POSITIONS);
    decoder.position_bytes() * (blocks * BLOCK_POSITIONS) as u64
}

#[cfg(test)]
mod tests {
    use std::io::Cursor;

    use super::*;
    use crate::testing::{Shape, gguf};

    /// Joins with a whole context, again and again; answers how many are taken.
    fn taken(work: &mut Work, replies: &SyncSender<Reply>, context: usize) -> usize {
        let before = work.members.len();
        (0..9).for_each(|_| work.join(&[1], context, replies.clone()));
        work.members.len() - before
    }

    #[test]
    fn a_step_that_fails_on_a_device_leaves_room_for_half_as_many_and_one_at_least() {
        let shape = Shape { context_length: 64, ..Shape::default() };
        for (compute, rooms) in [(Compute::Device, [8, 4, 2, 1, 1]), (Compute::AllCores, [8; 5])] {
            let decoder = Decoder::from_gguf(&mut Cursor::new(gguf(shape).unwrap()), compute).unwrap();
            let mut work = Work::new(Arc::new(decoder));
            for room in rooms {
                let (sender, replies) = sync_channel(64);
                assert_eq!(taken(&mut work, &sender, 64), room, "{compute:?}");
                work.fail("out of memory");
                let failed = |reply: &Reply| matches!(reply, Reply::Failed(EngineError::Compute(why)) if why == "out of memory");
                assert_eq!(replies.try_iter().filter(failed).count(), room);
                assert!(work.batch.is_empty() && work.members.is_empty());
            }
            let (sender, replies) = sync_channel(2);
            work.join(&[1, 2, 3], 1, sender);
            work.step();
            let told: Vec<Reply> = replies.try_iter().collect();
            assert!(matches!(told[..], [Reply::Joined(_), Reply::Offer(_)]), "it goes on");
        }
    }
}
