//! Fetching what jobs and proofs name, and checking it, outside the sequencer.

use crate::clock::Clock;
use crate::content::{Reader, read_ahead};
use crate::daemon::{self, Daemon};
use crate::network::{MAX_BLOCK, Network, Until};
use crate::storage::blocks::{BlockError, BlockStore};
use crate::storage::disk::DiskError;
use crate::workload::Models;
use anyhow::{Error, Result, anyhow};
use cid::Cid;
use libp2p::PeerId;
use std::collections::BTreeSet;
use std::sync::{Arc, OnceLock};
use std::time::Duration;
use swarm_protocol::acceptance;
use swarm_protocol::codec::Link;
use swarm_protocol::pool::{Examination, ExamineFault};
use swarm_protocol::statement::{Input, Proof, Signed};
use tokio::time::Instant;

/// How long a proof's miner may be away while its content is asked for.
const PROOF_PATIENCE: Duration = Duration::from_secs(5);

/// What fetching and checking needs.
#[derive(Debug, Clone)]
pub struct Content {
    pub network: Network,
    pub blocks: Arc<BlockStore>,
    /// Where a block may be too that is not here.
    pub daemon: Option<Daemon>,
    pub models: Arc<Models>,
    pub clock: Clock,
    /// Set once the disk has failed; nothing may be promised after that.
    pub broken: Arc<OnceLock<DiskError>>,
}

impl Content {
    /// Over this network, into this store.
    pub fn new(
        network: Network,
        blocks: Arc<BlockStore>,
        daemon: Option<Daemon>,
        models: Arc<Models>,
        clock: Clock,
    ) -> Self {
        Self { network, blocks, daemon, models, clock, broken: Arc::default() }
    }

    /// Fetches a block of at most `bytes` that is not here yet.
    async fn fetch(&self, cid: Cid, bytes: u64, from: &[PeerId], until: Until) -> Result<Vec<u8>, String> {
        if let Some(block) = self.blocks.block(&cid) {
            return Ok(block);
        }
        let max = usize::try_from(bytes).map_err(|_| "too long for this machine".to_owned())?;
        let fetched = daemon::fetch(self.daemon.as_ref(), &self.network, &cid, from, max, until).await;
        fetched.map_err(|e| e.to_string())
    }

    /// Fetches a job's linked input, which must be text, block after block, and pins it once all of it is there. `from`
    /// says who has it, as far as is known.
    pub async fn input(&self, root: Cid, bytes: u64, from: &[PeerId], deadline: Instant) -> Result<()> {
        if !self.blocks.is_pinned(&root) {
            self.has_room(bytes)?;
        }
        let until = Until { found: deadline, fetched: deadline };
        let fetch = |cid| async move {
            let block = self.fetch(cid, MAX_BLOCK as u64, from, until).await.map_err(Error::msg)?;
            self.cache(cid, block).await
        };
        let (mut text, mut blocks) = (TextCheck::default(), BTreeSet::new());
        let take = |cid: &Cid, _: &[u8], content: &[u8]| {
            blocks.insert(*cid);
            text.push(content)
        };
        read_ahead(Reader::new(root, bytes)?, fetch, take).await?;
        text.finish()?;
        self.pin(blocks.into_iter().collect()).await
    }

    /// Refuses what could not be pinned in the end, before anything else is thrown out for it.
    fn has_room(&self, bytes: u64) -> Result<()> {
        let usage = self.blocks.usage();
        match bytes <= usage.quota_bytes.saturating_sub(usage.pinned_bytes) {
            true => Ok(()),
            false => Err(anyhow!("the operator has no room for {bytes} bytes more")),
        }
    }

    /// Keeps a block as a copy that may go again.
    async fn cache(&self, cid: Cid, block: Vec<u8>) -> Result<Vec<u8>> {
        Ok(self.on_disk(move |blocks| blocks.put(&cid, &block).map(|()| block)).await?)
    }

    async fn pin(&self, cids: Vec<Cid>) -> Result<()> {
        let (pinned, now) = (cids.clone(), self.clock.now());
        self.on_disk(move |blocks| blocks.pin_content(&cids, now)).await?;
        self.tell_stored(pinned).await;
        Ok(())
    }

    /// Whoever waits for these blocks can have them now.
    async fn tell_stored(&self, cids: Vec<Cid>) {
        // A network that is shut down has nobody to tell.
        let _ = self.network.stored(cids).await;
    }

    async fn on_disk<T: Send + 'static>(
        &self,
        work: impl FnOnce(&BlockStore) -> Result<T, BlockError> + Send + 'static,
    ) -> Result<T, BlockError> {
        let blocks = self.blocks.clone();
        let done = tokio::task::spawn_blocking(move || work(&blocks))
            .await
            .unwrap_or(Err(BlockError::Disk(DiskError::Closed { path: "the content store".into() })));
        if let Err(BlockError::Disk(error)) = &done {
            // The first failure is the one that is told.
            let _ = self.broken.set(error.clone());
        }
        done
    }

    /// A block that is published, fetched and pinned if it is not here.
    pub async fn published(&self, link: &Link, deadline: Instant) -> Result<Vec<u8>> {
        let (cid, until) = (link.cid(), Until { found: deadline, fetched: deadline });
        let block = self.fetch(cid, MAX_BLOCK as u64, &[], until).await.map_err(Error::msg)?;
        if !self.blocks.is_pinned(&cid) {
            self.store(vec![(cid, block.clone())]).await?;
        }
        Ok(block)
    }

    /// Fetches, stores and pins what an accepted proof delivered.
    pub async fn copy(&self, proof: &Proof, deadline: Instant) -> Result<()> {
        let until = Until { found: deadline, fetched: deadline };
        let mut blocks = Vec::new();
        for (cid, bytes) in
            [(proof.transcript.cid(), proof.transcript_bytes), (proof.output, proof.output_bytes)]
        {
            blocks.push((cid, self.fetch(cid, bytes, &[], until).await.map_err(Error::msg)?));
        }
        Ok(self.keep(blocks, Kind::OfJob).await?)
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
        self.keep(blocks, Kind::OfJob).await.map_err(|e| ExamineFault::Unavailable(e.to_string()))?;
        Ok(units)
    }

    fn check(&self, exam: &Examination, transcript: &[u8], output: &[u8]) -> Result<u64, ExamineFault> {
        let bad = |why: String| ExamineFault::Unacceptable(why);
        let ours = |why: String| ExamineFault::Unavailable(why);
        let model = self.models.get(&exam.job.model).ok_or_else(|| ours("the model is gone".into()))?;
        acceptance::check_prompt(&exam.job).map_err(|e| bad(e.to_string()))?;
        let linked = self.linked_text(&exam.job.input).map_err(ours)?;
        let delivery = (&exam.proof, transcript, output);
        let units = model.accept(&exam.job, linked.as_deref(), &exam.progress, delivery);
        units.map_err(|e| bad(e.to_string()))?.map_err(|e| bad(e.to_string()))
    }

    fn linked_text(&self, input: &Input) -> Result<Option<String>, String> {
        let Input::Linked { cid, bytes } = input else { return Ok(None) };
        let (mut reader, mut text) = (Reader::new(*cid, *bytes).map_err(|e| e.to_string())?, Vec::new());
        while let Some(cid) = reader.wanted() {
            let block = self.blocks.block(&cid).ok_or("the job's input is gone")?;
            text.extend_from_slice(reader.supply(&block).map_err(|e| e.to_string())?);
        }
        String::from_utf8(text).map(Some).map_err(|e| e.to_string())
    }

    /// Stores and pins what a machine says, durably: jobs as content of theirs, everything else for good.
    pub async fn store(&self, blocks: Vec<(Cid, Vec<u8>)>) -> Result<(), BlockError> {
        let is_job = |(_, block): &(Cid, Vec<u8>)| Signed::decode(block).is_ok();
        let (jobs, others): (Vec<_>, Vec<_>) = blocks.into_iter().partition(is_job);
        for (blocks, kind) in [(jobs, Kind::OfJob), (others, Kind::OfPool)] {
            if !blocks.is_empty() {
                self.keep(blocks, kind).await?;
            }
        }
        Ok(())
    }

    async fn keep(&self, blocks: Vec<(Cid, Vec<u8>)>, kind: Kind) -> Result<(), BlockError> {
        let (cids, now) = (blocks.iter().map(|(cid, _)| *cid).collect(), self.clock.now());
        let put = move |store: &BlockStore| {
            let borrowed: Vec<(Cid, &[u8])> =
                blocks.iter().map(|(cid, bytes)| (*cid, bytes.as_slice())).collect();
            match kind {
                Kind::OfJob => store.put_content(&borrowed, now),
                Kind::OfPool => store.put_pinned(&borrowed),
            }
        };
        self.on_disk(put).await?;
        self.tell_stored(cids).await;
        Ok(())
    }
}

/// What a block belongs to, and so how long it stays.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Kind {
    OfJob,
    OfPool,
}

/// Whether bytes that come in pieces are UTF-8.
#[derive(Debug, Default)]
struct TextCheck {
    /// The beginning of a character whose end has not come yet.
    begun: Vec<u8>,
}

impl TextCheck {
    fn push(&mut self, piece: &[u8]) -> Result<()> {
        let mut bytes = std::mem::take(&mut self.begun);
        bytes.extend_from_slice(piece);
        match std::str::from_utf8(&bytes) {
            Ok(_) => Ok(()),
            Err(error) if error.error_len().is_none() => {
                self.begun = bytes.split_off(error.valid_up_to());
                Ok(())
            }
            Err(_) => Err(not_text()),
        }
    }

    fn finish(self) -> Result<()> {
        if self.begun.is_empty() { Ok(()) } else { Err(not_text()) }
    }
}

fn not_text() -> Error {
    anyhow!("the input is not UTF-8 text")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_is_text_however_it_is_cut() {
        let text = "naïve — 日本語 🐝";
        let is_text = |bytes: &[u8], size: usize| {
            let mut check = TextCheck::default();
            bytes.chunks(size).try_for_each(|piece| check.push(piece)).and_then(|()| check.finish()).is_ok()
        };
        for size in 1..=text.len() {
            assert!(is_text(text.as_bytes(), size), "{size}");
            assert!(!is_text(&text.as_bytes()[..text.len() - 1], size), "cut off, {size}");
            assert!(!is_text(&[text.as_bytes(), b"\xff"].concat(), size), "{size}");
        }
    }
}
