//! Keeps a second store equal to what stays in the node's own: what is missing there is put, nodes of the tree that were
//! let go here are let go there. Nobody waits for it; while the other store is away, names wait, and once it is back both
//! are compared.

use super::lent::Lent;
use super::standing::Standing;
use crate::storage::blocks::{BlockStore, MAX_BLOCK_BYTES, MAX_CHANGED};
use crate::storage::content_store::{ContentStore, StoreError, on_disk};
use cid::Cid;
use std::collections::HashSet;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;
use tokio::sync::{Notify, watch};
use tokio::time::{Instant, sleep, sleep_until};
use tokio_util::sync::CancellationToken;

/// Blocks that go to the other store together, and about their bytes.
const MAX_BATCH: usize = 32;
const MAX_BATCH_BYTES: usize = 4 << 20;
/// Refusals in a row after which the store is left alone for a while.
const MAX_REFUSALS: usize = 8;

/// How long the other store is left alone after a failure, at first and at most, and how long what it refused waits.
#[derive(Debug, Clone, Copy)]
pub struct Rests {
    pub first: Duration,
    pub longest: Duration,
    pub refused: Duration,
}

impl Default for Rests {
    fn default() -> Self {
        let [first, longest, refused] = [1, 60, 60].map(Duration::from_secs);
        Self { first, longest, refused }
    }
}

/// From one store to another.
#[derive(Debug)]
pub struct Mirror {
    pub blocks: Arc<BlockStore>,
    pub to: Arc<dyn ContentStore>,
    pub lent: Arc<Lent>,
    /// The root of the pool's tree, all of whose blocks are in the node's own store.
    pub tree: watch::Receiver<Option<Cid>>,
    pub standing: Standing,
    pub rests: Rests,
}

/// What is to be done with blocks that have changed.
#[derive(Debug, Default)]
struct Batch {
    put: Vec<(Cid, Vec<u8>)>,
    /// Those of them that are to be let go some day.
    lend: Vec<Cid>,
    unpin: Vec<Cid>,
}

impl Mirror {
    /// Runs until it is told to stop; after that, the next start compares.
    pub async fn run(self, stop: CancellationToken) {
        let wake = self.blocks.follow();
        let work = async {
            let mut rest = self.rests.first;
            loop {
                let was_equal = self.standing.times_equal();
                let Err(error) = self.keep_equal(&wake).await;
                self.blocks.lose_changes();
                self.standing.failed(&error);
                let has_worked = self.standing.times_equal() > was_equal;
                rest = if has_worked { self.rests.first } else { (rest * 2).min(self.rests.longest) };
                sleep(rest).await;
            }
        };
        let _: Option<()> = stop.run_until_cancelled(work).await;
    }

    /// Goes on until something fails.
    async fn keep_equal(&self, wake: &Notify) -> Result<std::convert::Infallible, StoreError> {
        let mut tree = self.tree.clone();
        let (mut refused, mut again_at) = (Vec::new(), None);
        loop {
            let root = *tree.borrow_and_update();
            if self.blocks.take_lost() {
                self.standing.compared(false);
                match self.compare().await? {
                    true => self.standing.compared(true),
                    false => self.blocks.lose_changes(),
                }
            }
            self.put_changed(&mut refused).await?;
            let (waiting, has_lost) = self.blocks.changed();
            if has_lost {
                continue;
            }
            if let Some(root) = root {
                self.to.show(&root).await?;
            }
            if refused.is_empty() && waiting == 0 {
                self.standing.equal();
            } else if again_at.is_none() {
                again_at = Some(Instant::now() + self.rests.refused);
            }
            tokio::select! {
                () = wake.notified() => {}
                Ok(()) = tree.changed() => {}
                () = sleep_until(again_at.unwrap_or_else(Instant::now)), if again_at.is_some() => {
                    again_at = None;
                    self.standing.wait_for(0);
                    self.blocks.note_changed(refused.drain(..));
                }
            }
        }
    }

    /// Notes as changed what is here and not there, or there and not here; says whether that is all.
    async fn compare(&self) -> Result<bool, StoreError> {
        let mut there = HashSet::new();
        let blocks = &self.blocks;
        let mut each = |cid: Cid| {
            if blocks.is_pinned(&cid) {
                there.insert(cid);
            }
        };
        self.to.pinned(&mut each).await?;
        let lent = self.lent.clone();
        let missing = on_disk(blocks, move |blocks| {
            let mut missing = lent.which(MAX_CHANGED, |cid| !blocks.is_pinned(cid))?;
            blocks.each_staying(|cid| {
                if !there.contains(&cid) {
                    missing.push(cid);
                }
                if missing.len() < MAX_CHANGED { ControlFlow::Continue(()) } else { ControlFlow::Break(()) }
            })?;
            Ok(missing)
        });
        let missing = missing.await?;
        let is_all = missing.len() < MAX_CHANGED;
        self.blocks.note_changed(missing);
        Ok(is_all)
    }

    /// Takes what has changed until there is no more; what the other store will not have is `refused`.
    async fn put_changed(&self, refused: &mut Vec<Cid>) -> Result<(), StoreError> {
        let mut in_a_row = 0;
        loop {
            let taken = self.blocks.take_changed(MAX_BATCH);
            if taken.is_empty() {
                return Ok(());
            }
            self.standing.wait_for(refused.len() + taken.len());
            match self.perform(&taken).await {
                Ok(()) => in_a_row = 0,
                Err(StoreError::Refused(_)) if taken.len() > 1 => {
                    for cid in taken {
                        self.alone(cid, refused, &mut in_a_row).await?;
                    }
                }
                Err(StoreError::Refused(why)) => self.give_up(taken[0], why, refused, &mut in_a_row)?,
                Err(error) => return Err(error),
            }
            self.standing.wait_for(refused.len());
        }
    }

    async fn alone(&self, cid: Cid, refused: &mut Vec<Cid>, in_a_row: &mut usize) -> Result<(), StoreError> {
        match self.perform(&[cid]).await {
            Ok(()) => {
                *in_a_row = 0;
                Ok(())
            }
            Err(StoreError::Refused(why)) => self.give_up(cid, why, refused, in_a_row),
            Err(error) => Err(error),
        }
    }

    fn give_up(
        &self,
        cid: Cid,
        why: String,
        refused: &mut Vec<Cid>,
        in_a_row: &mut usize,
    ) -> Result<(), StoreError> {
        tracing::debug!(%cid, "the second store does not take a block: {why}");
        self.standing.refused(&why);
        refused.push(cid);
        *in_a_row += 1;
        if *in_a_row >= MAX_REFUSALS || refused.len() >= MAX_CHANGED {
            Err(StoreError::Refused(why))
        } else {
            Ok(())
        }
    }

    async fn perform(&self, cids: &[Cid]) -> Result<(), StoreError> {
        let mut rest = cids.to_vec();
        while !rest.is_empty() {
            let (batch, later) = self.batch(rest).await?;
            rest = later;
            // What is to be let go some day is written down before it is pinned.
            self.note(batch.lend, Vec::new()).await?;
            if !batch.put.is_empty() {
                self.to.put_pinned(&batch.put).await?;
                self.standing.put(batch.put.len());
            }
            if !batch.unpin.is_empty() {
                self.to.unpin(&batch.unpin).await?;
                self.standing.let_go(batch.unpin.len());
            }
            self.note(Vec::new(), batch.unpin).await?;
        }
        Ok(())
    }

    /// What is to be done now, with about as many bytes as may be held, and what comes later.
    async fn batch(&self, cids: Vec<Cid>) -> Result<(Batch, Vec<Cid>), StoreError> {
        let lent = self.lent.clone();
        on_disk(&self.blocks, move |blocks| {
            let (mut batch, mut bytes, mut gone) = (Batch::default(), 0, Vec::new());
            let mut cids = cids.into_iter();
            while bytes + MAX_BLOCK_BYTES <= MAX_BATCH_BYTES {
                let Some(cid) = cids.next() else { break };
                let block = if blocks.is_pinned(&cid) { blocks.get(&cid)? } else { None };
                let Some(block) = block else {
                    gone.push(cid);
                    continue;
                };
                bytes += block.len();
                if blocks.is_of_tree_alone(&cid) {
                    batch.lend.push(cid);
                }
                batch.put.push((cid, block));
            }
            batch.unpin = lent.of(&gone)?;
            Ok((batch, cids.collect()))
        })
        .await
    }

    async fn note(&self, add: Vec<Cid>, remove: Vec<Cid>) -> Result<(), StoreError> {
        if add.is_empty() && remove.is_empty() {
            return Ok(());
        }
        let lent = self.lent.clone();
        on_disk(&self.blocks, move |_| Ok(lent.change(&add, &remove)?)).await
    }
}
