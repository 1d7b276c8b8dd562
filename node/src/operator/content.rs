//! Fetching what jobs and proofs name, and checking it, outside the sequencer.

use crate::network::{Network, Until};
use crate::storage::blocks::{BlockError, BlockStore};
use crate::storage::disk::DiskError;
use crate::workload::Models;
use cid::Cid;
use libp2p::PeerId;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use swarm_protocol::acceptance;
use swarm_protocol::pool::{Examination, ExamineFault};
use swarm_protocol::statement::{Input, MAX_INPUT_BYTES};
use tokio::time::Instant;

/// How long a proof's miner may be away while its content is asked for.
const PROOF_PATIENCE: Duration = Duration::from_secs(5);

/// What fetching and checking needs.
#[derive(Debug, Clone)]
pub struct Content {
    pub network: Network,
    pub blocks: Arc<BlockStore>,
    pub models: Arc<Models>,
    /// Set once the disk has failed; nothing may be promised after that.
    pub broken: Arc<OnceLock<DiskError>>,
}

impl Content {
    /// Over this network, into this store.
    pub fn new(network: Network, blocks: Arc<BlockStore>, models: Arc<Models>) -> Self {
        Self { network, blocks, models, broken: Arc::default() }
    }

    /// Fetches a block of at most `bytes` that is not here yet.
    async fn fetch(&self, cid: Cid, bytes: u64, from: &[PeerId], until: Until) -> Result<Vec<u8>, String> {
        if let Some(block) = self.blocks.block(&cid) {
            return Ok(block);
        }
        let max = usize::try_from(bytes).map_err(|_| "too long for this machine".to_owned())?;
        self.network.fetch(&cid, from, max, until).await.map_err(|e| e.to_string())
    }

    /// Fetches, stores and pins a job's linked input, which must be text. `from` says who has it, as far as is known.
    pub async fn input(
        &self,
        cid: Cid,
        bytes: u64,
        from: &[PeerId],
        deadline: Instant,
    ) -> Result<(), String> {
        let block = self
            .fetch(cid, bytes.min(MAX_INPUT_BYTES), from, Until { found: deadline, fetched: deadline })
            .await?;
        if block.len() as u64 != bytes {
            return Err(format!("the input has {} bytes, the job declares {bytes}", block.len()));
        }
        if std::str::from_utf8(&block).is_err() {
            return Err("the input is not UTF-8 text".to_owned());
        }
        self.store(vec![(cid, block)]).await.map_err(|e| e.to_string())
    }

    /// Fetches a proof's content, checks it by the rule, and stores and pins what is delivered.
    pub async fn examine(
        &self,
        exam: Examination,
        from: &[PeerId],
        deadline: Instant,
    ) -> Result<u64, ExamineFault> {
        let (transcript_cid, output_cid) = (exam.proof.transcript.cid(), exam.proof.output);
        let missing = ExamineFault::Unavailable;
        let until = Until { found: deadline.min(Instant::now() + PROOF_PATIENCE), fetched: deadline };
        let fetch = async |cid, bytes| self.fetch(cid, bytes, from, until).await;
        let transcript = fetch(transcript_cid, exam.proof.transcript_bytes).await.map_err(missing)?;
        let output = fetch(output_cid, exam.proof.output_bytes).await.map_err(missing)?;
        let (this, kept) = (self.clone(), (transcript.clone(), output.clone()));
        let units = tokio::task::spawn_blocking(move || this.check(&exam, &transcript, &output))
            .await
            .map_err(|e| ExamineFault::Unavailable(format!("the check broke off: {e}")))??;
        let blocks = vec![(transcript_cid, kept.0), (output_cid, kept.1)];
        self.store(blocks).await.map_err(|e| ExamineFault::Unavailable(e.to_string()))?;
        Ok(units)
    }

    fn check(&self, exam: &Examination, transcript: &[u8], output: &[u8]) -> Result<u64, ExamineFault> {
        let bad = |why: String| ExamineFault::Unacceptable(why);
        let ours = |why: String| ExamineFault::Unavailable(why);
        let model = self.models.get(&exam.job.model).ok_or_else(|| ours("the model is gone".into()))?;
        let linked = self.linked_text(&exam.job.input).map_err(ours)?;
        let opened = acceptance::open(&exam.proof, transcript).map_err(|e| bad(e.to_string()))?;
        let facts = model.facts(&exam.job, linked.as_deref(), &opened).map_err(|e| bad(e.to_string()))?;
        let units = acceptance::check(&exam.job, &exam.progress, &opened, output, &facts);
        units.map(|units| units.0).map_err(|e| bad(e.to_string()))
    }

    fn linked_text(&self, input: &Input) -> Result<Option<String>, String> {
        let Input::Linked { cid, .. } = input else { return Ok(None) };
        let block = self.blocks.block(cid).ok_or("the job's input is gone")?;
        String::from_utf8(block).map(Some).map_err(|e| e.to_string())
    }

    /// Stores and pins blocks, durably.
    pub async fn store(&self, blocks: Vec<(Cid, Vec<u8>)>) -> Result<(), BlockError> {
        let store = self.blocks.clone();
        let cids = blocks.iter().map(|(cid, _)| *cid).collect();
        let put = move || {
            let borrowed: Vec<(Cid, &[u8])> =
                blocks.iter().map(|(cid, bytes)| (*cid, bytes.as_slice())).collect();
            store.put_pinned(&borrowed)
        };
        let done = tokio::task::spawn_blocking(put)
            .await
            .unwrap_or(Err(BlockError::Disk(DiskError::Closed { path: "the content store".into() })));
        if let Err(BlockError::Disk(error)) = &done {
            // The first failure is the one that is told.
            let _ = self.broken.set(error.clone());
        }
        if done.is_ok() {
            // A network that is shut down has nobody to tell.
            let _ = self.network.stored(cids).await;
        }
        done
    }
}
