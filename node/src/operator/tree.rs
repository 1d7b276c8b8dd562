//! The pool's tree in the block store, built in a task of its own: the sequencer only notes what has changed.

use super::shell::OperatorInput;
use crate::driver::Input;
use crate::storage::blocks::{BlockError, BlockStore};
use crate::storage::crash::crash_point;
use crate::storage::disk::DiskError;
use cid::Cid;
use std::collections::BTreeMap;
use std::sync::{Arc, Mutex, MutexGuard, OnceLock, PoisonError};
use std::time::Duration;
use swarm_protocol::codec::{self, Link};
use swarm_protocol::pool::{EpochHeader, Pool, PoolEvent};
use swarm_protocol::tree::{Change, Changes, Entry, Place, Summary, Tree};
use swarm_protocol::{Millis, Posted};
use tokio::sync::{mpsc, watch};
use tokio::task::JoinHandle;
use tokio::time::MissedTickBehavior;
use tokio_util::sync::CancellationToken;

/// The most names whose changes wait for the next tree.
const MAX_WAITING: usize = 1 << 20;
/// Sealed epochs in a tree that is made at a start, the newest first.
const MAX_EPOCHS: usize = 1 << 16;
/// The longest time between two trees.
const MAX_INTERVAL: Duration = Duration::from_secs(15);
const MIN_INTERVAL: Duration = Duration::from_millis(100);
/// The last trees, which are readable: whoever walks one needs time.
const KEPT_TREES: u64 = 8;
/// Blocks of one write, and about its bytes: others wait for the store meanwhile.
const MAX_WRITE_BLOCKS: usize = 256;
const MAX_WRITE_BYTES: usize = 1 << 20;

/// Where changes wait for the next tree; of a name the last one counts.
#[derive(Debug, Clone)]
pub struct Feed {
    waiting: Arc<Mutex<Waiting>>,
    /// Set once the disk has failed.
    broken: Arc<OnceLock<DiskError>>,
}

#[derive(Debug, Default)]
struct Waiting {
    changes: BTreeMap<(Place, String), Change>,
    summary: Option<Summary>,
    /// No tree will be made of them any more.
    closed: bool,
}

impl Feed {
    pub fn new(broken: Arc<OnceLock<DiskError>>) -> Self {
        Self { waiting: Arc::default(), broken }
    }

    /// Notes what a turn has changed, once it is durable.
    pub fn note(&self, changes: Changes) {
        let mut waiting = self.lock();
        if waiting.closed {
            return;
        }
        for change in changes.changes {
            waiting.changes.insert((change.place, change.name.clone()), change);
        }
        waiting.summary = Some(changes.summary);
        if waiting.changes.len() > MAX_WAITING {
            tracing::error!(
                "the pool changes faster than its tree; it is not published until the next start"
            );
            *waiting = Waiting { closed: true, ..Waiting::default() };
        }
    }

    fn take(&self) -> Option<(Vec<Change>, Summary)> {
        let mut waiting = self.lock();
        let summary = waiting.summary.take()?;
        let changes = std::mem::take(&mut waiting.changes);
        drop(waiting);
        Some((changes.into_values().collect(), summary))
    }

    /// The pool goes on without a tree, unless it is the disk that failed.
    fn close(&self, error: BlockError) {
        tracing::error!("the pool's tree is not published until the next start: {error}");
        *self.lock() = Waiting { closed: true, ..Waiting::default() };
        if let BlockError::Disk(error) = error {
            // The first failure is the one that is told.
            let _ = self.broken.set(error);
        }
    }

    fn is_closed(&self) -> bool {
        self.lock().closed
    }

    fn lock(&self) -> MutexGuard<'_, Waiting> {
        self.waiting.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

/// The tree, and those of its former blocks that are still readable.
#[derive(Debug)]
pub struct Garden {
    tree: Tree,
    blocks: Arc<BlockStore>,
    root: Option<Cid>,
    /// Blocks that are no longer part of the tree, with the number of the tree that they are not part of first.
    fallen: BTreeMap<Cid, u64>,
    trees: u64,
}

impl Garden {
    /// The tree of a pool as it starts. What an earlier process left in the store and this tree does not name falls.
    pub fn plant(pool: &Pool, blocks: &Arc<BlockStore>) -> Result<Self, BlockError> {
        let garden = Self::grown(pool, blocks.clone());
        if let Err(BlockError::TreeFull { .. }) = garden {
            for cids in blocks.kept().chunks(MAX_WRITE_BLOCKS) {
                blocks.let_go(cids)?;
            }
        }
        garden
    }

    fn grown(pool: &Pool, blocks: Arc<BlockStore>) -> Result<Self, BlockError> {
        let left = blocks.kept();
        let mut garden = Self { tree: Tree::new(), blocks, root: None, fallen: BTreeMap::new(), trees: 0 };
        let mut waiting = 0;
        for change in pool.tree().chain(former_headers(pool, &garden.blocks)) {
            garden.tree.apply(&change);
            waiting += 1;
            if waiting == MAX_WRITE_BLOCKS {
                let (fresh, _) = garden.tree.take_blocks();
                garden.store(&fresh)?;
                waiting = 0;
            }
        }
        garden.publish(&[], &pool.summary())?;
        let tree = &garden.tree;
        garden.fallen.extend(left.into_iter().filter(|cid| !tree.names(cid)).map(|cid| (cid, 0)));
        Ok(garden)
    }

    /// Stores the tree after these changes; its blocks are durable when this returns its root.
    fn publish(&mut self, changes: &[Change], summary: &Summary) -> Result<Cid, BlockError> {
        changes.iter().for_each(|change| self.tree.apply(change));
        let published = self.tree.publish(summary);
        self.store(&published.fresh)?;
        crash_point("tree-stored");
        if self.root.replace(published.root) != Some(published.root) {
            self.trees += 1;
        }
        for (cid, _) in &published.fresh {
            self.fallen.remove(cid);
        }
        self.fallen.extend(published.gone.into_iter().map(|cid| (cid, self.trees)));
        self.collect()?;
        Ok(published.root)
    }

    /// Publishes trees until it is told to stop, or until there can be none any more.
    async fn grow(
        mut self,
        feed: Feed,
        every: Duration,
        inbox: mpsc::Sender<OperatorInput>,
        shown: watch::Sender<Option<Cid>>,
        stop: CancellationToken,
    ) {
        let tell = async |root| {
            shown.send_replace(root);
            inbox.send(Input::Event(PoolEvent::TreePublished { root })).await.is_ok()
        };
        let mut told = self.root;
        let mut ticks = tokio::time::interval(every);
        ticks.set_missed_tick_behavior(MissedTickBehavior::Delay);
        let mut listened_to = tell(told).await;
        while listened_to {
            tokio::select! {
                () = stop.cancelled() => return,
                _ = ticks.tick() => {}
            }
            let published = match feed.take() {
                None if feed.is_closed() => break,
                None => continue,
                Some((changes, summary)) => self.published(changes, summary).await,
            };
            match published {
                Ok((garden, root)) => {
                    self = garden;
                    if told.replace(root) != Some(root) {
                        tracing::debug!("the pool's tree is {root}");
                        listened_to = tell(told).await;
                    }
                }
                Err(error) => {
                    feed.close(error);
                    break;
                }
            }
        }
        tell(None).await;
    }

    async fn published(mut self, changes: Vec<Change>, summary: Summary) -> Result<(Self, Cid), BlockError> {
        let work = move || self.publish(&changes, &summary).map(|root| (self, root));
        let broke_off = |_| BlockError::Disk(DiskError::Closed { path: "the pool's tree".into() });
        tokio::task::spawn_blocking(work).await.map_err(broke_off)?
    }

    fn store(&self, fresh: &[(Cid, Vec<u8>)]) -> Result<(), BlockError> {
        let mut rest = fresh;
        while !rest.is_empty() {
            let mut bytes = 0;
            let fits = |(_, block): &&(Cid, Vec<u8>)| {
                bytes += block.len();
                bytes <= MAX_WRITE_BYTES
            };
            let count = rest.iter().take(MAX_WRITE_BLOCKS).take_while(fits).count().max(1);
            let (now, later) = rest.split_at(count);
            let now: Vec<(Cid, &[u8])> = now.iter().map(|(cid, block)| (*cid, block.as_slice())).collect();
            self.blocks.keep(&now)?;
            rest = later;
        }
        Ok(())
    }

    /// Deletes what no readable tree names.
    fn collect(&mut self) -> Result<(), BlockError> {
        let Some(oldest) = (self.trees + 1).checked_sub(KEPT_TREES) else { return Ok(()) };
        let due: Vec<Cid> =
            self.fallen.iter().filter(|(_, since)| **since <= oldest).map(|(cid, _)| *cid).collect();
        for cids in due.chunks(MAX_WRITE_BLOCKS) {
            self.blocks.let_go(cids)?;
        }
        due.iter().for_each(|cid| _ = self.fallen.remove(cid));
        Ok(())
    }
}

/// The headers before the last sealed one, along their chain, as far as they are here.
fn former_headers(pool: &Pool, blocks: &BlockStore) -> impl Iterator<Item = Change> {
    let read = |link: &Link| {
        let block = blocks.block(&link.cid())?;
        Some((*link, block.len() as u64, codec::decode::<EpochHeader>(&block).ok()?))
    };
    let last = pool.state().last_header().and_then(|(_, link)| read(&link));
    let chain = std::iter::successors(last, move |(_, _, header)| header.previous.as_ref().and_then(read));
    chain.take(MAX_EPOCHS).map(|(link, bytes, header)| Change {
        place: Place::Epochs,
        name: header.epoch.to_string(),
        entry: Some(Entry::Header(link, bytes)),
    })
}

/// Begins to publish trees in a task, the roots in `shown` too, unless there is none to begin with.
pub fn spawn(
    garden: Result<Garden, BlockError>,
    feed: Feed,
    every: Duration,
    inbox: mpsc::Sender<OperatorInput>,
    shown: watch::Sender<Option<Cid>>,
    stop: CancellationToken,
) -> Option<JoinHandle<()>> {
    match garden {
        Ok(garden) => Some(tokio::spawn(garden.grow(feed, every, inbox, shown, stop))),
        Err(error) => {
            feed.close(error);
            None
        }
    }
}

/// How often a tree is published: at least twice for each beacon that can name it.
pub fn interval(posted: &Posted) -> Duration {
    let Millis(heartbeat) = posted.heartbeat;
    Duration::from_millis(heartbeat / 2).clamp(MIN_INTERVAL, MAX_INTERVAL)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::content::Walk;
    use crate::storage::blocks::DEFAULT_QUOTA_BYTES;
    use std::collections::BTreeSet;
    use swarm_crypto::key::{SecretKey, Signature};
    use swarm_protocol::money::MicroUsdc;
    use swarm_protocol::pool::{PoolConfig, PoolEffect, Replay};
    use swarm_protocol::statement::Input;
    use swarm_protocol::statement::*;
    use swarm_protocol::{Machine, Timestamp};

    const START: Timestamp = Timestamp(1_800_000_000_000);

    fn key(n: u8) -> SecretKey {
        SecretKey::from_bytes(&[n; 32]).unwrap()
    }

    fn config() -> PoolConfig {
        PoolConfig {
            node: None,
            reserve: swarm_protocol::money::MicroUsdc(0),
            name: "swarmpool.eth".into(),
            operator: key(1).address(),
            models: [("queenbee-nano".to_owned(), JobType::LlmGen)].into(),
            posted: Posted { epoch: Millis(5_000), heartbeat: Millis(1_000), ..Posted::default() },
            secret: [7; 32],
        }
    }

    fn store() -> Arc<BlockStore> {
        Arc::new(BlockStore::in_memory(DEFAULT_QUOTA_BYTES).unwrap())
    }

    /// Every block below a root; panics if one is missing.
    fn below(blocks: &BlockStore, root: Cid) -> BTreeSet<Cid> {
        let (mut walk, mut found) = (Walk::new(root, 1 << 30), BTreeSet::new());
        while let Some(cid) = walk.wanted() {
            let block = blocks.block(&cid).unwrap_or_else(|| panic!("{cid} below {root} is missing"));
            walk.supply(&cid, &block).unwrap();
            found.insert(cid);
        }
        found
    }

    fn pending(n: u64, is_there: bool) -> Change {
        let job = Signed { payload: n.to_be_bytes().to_vec(), signature: Signature([0; 65]) };
        Change { place: Place::Pending, name: format!("job-{n}"), entry: is_there.then_some(Entry::Job(job)) }
    }

    #[test]
    fn a_tree_is_readable_until_it_was_replaced_often_enough_and_then_gone() {
        let blocks = store();
        let mut summary = Pool::create(config(), START).summary();
        let mut garden = Garden::plant(&Pool::create(config(), START), &blocks).unwrap();
        let input = b"the input of a live job";
        let input_cid = codec::raw_cid(input);
        blocks.put_pinned(&[(input_cid, input)]).unwrap();
        let mut roots = vec![garden.root.unwrap()];
        for n in 0..400 {
            summary.records = 100 + n;
            let changes = [pending(n, true), pending(n.wrapping_sub(300), false)];
            roots.push(garden.publish(&changes, &summary).unwrap());
            let readable = roots.iter().rev().take(KEPT_TREES as usize);
            if n % 25 == 0 {
                let named: BTreeSet<Cid> = readable.flat_map(|root| below(&blocks, *root)).collect();
                assert_eq!(blocks.kept().into_iter().collect::<BTreeSet<_>>(), named, "after {n}");
            }
        }
        assert!(!blocks.has(&roots[0]));
        assert!(blocks.is_pinned(&input_cid));
    }

    /// A pool with jobs and sealed epochs, all of its rows, and what it asked to be stored.
    fn busy_pool(blocks: &BlockStore) -> (Pool, Vec<Vec<u8>>, Vec<Changes>) {
        let mut pool = Pool::create(config(), START);
        let mut intake = Intake::new(pool.id(), key(1).address());
        let (mut rows, mut changes, mut now) = (Vec::new(), Vec::new(), START);
        for n in 0..30 {
            now = now + Millis(1_000);
            let job = Job {
                job_type: JobType::LlmGen,
                model: "queenbee-nano".into(),
                input: Input::Text(format!("bee {n}")),
                params: Params { max_tokens: 8, temperature: 0, top_p: 10_000, seed: None, stop: vec![] },
                price: MicroUsdc(100),
                not_after: now + Millis(20_000),
                max_runtime_s: 30,
                vram_mb: 0,
                assurance: Assurance::Seeded,
            };
            let signed = Statement::derived(pool.id(), key(2).address(), now, job.into()).sign(&key(2));
            let verified = intake.verify(None, &signed.encode(), now).unwrap();
            pool.handle(PoolEvent::Statement(Identified::new(verified, false)), now);
            pool.handle_timeout(now);
            while let Some(effect) = pool.poll_effect() {
                match effect {
                    PoolEffect::Record(row) => rows.push(row),
                    PoolEffect::Store(block) => {
                        blocks.put_pinned(&[(Link::of(&block).cid(), &block)]).unwrap();
                    }
                    PoolEffect::Tree(changed) => changes.push(*changed),
                    _ => {}
                }
            }
        }
        (pool, rows, changes)
    }

    #[test]
    fn a_tree_planted_again_has_the_same_root_and_what_was_left_over_goes() {
        let blocks = store();
        let mut garden = Garden::plant(&Pool::create(config(), START), &blocks).unwrap();
        let (pool, rows, changes) = busy_pool(&blocks);
        assert!(pool.state().last_header().unwrap().0 > 2, "epochs were sealed");
        for changed in &changes {
            garden.publish(&changed.changes, &changed.summary).unwrap();
        }
        let root = garden.root.unwrap();
        let tree = below(&blocks, root);
        drop(garden);

        let mut replay = Replay::new(None);
        rows.iter().zip(0..).for_each(|(row, seq)| replay.row(seq, row).unwrap());
        let restored = Pool::restore(config(), replay.finish().unwrap(), START + Millis(60_000)).unwrap();
        assert!(blocks.kept().len() > tree.len(), "trees before the last are left");
        let mut garden = Garden::plant(&restored, &blocks).unwrap();
        assert_eq!(garden.root, Some(root));
        assert_eq!(below(&blocks, root), tree);
        let mut summary = restored.summary();
        for n in 0..KEPT_TREES {
            summary.records = 1000 + n;
            garden.publish(&[], &summary).unwrap();
        }
        let headers = 1 + restored.state().last_header().unwrap().0 as usize;
        assert!(blocks.kept().len() <= tree.len() - headers + 2 * KEPT_TREES as usize);
        assert_eq!(below(&blocks, garden.root.unwrap()).len(), tree.len());
    }

    #[test]
    fn of_changes_that_wait_the_last_of_a_name_counts() {
        let feed = Feed::new(Arc::default());
        let summary = Pool::create(config(), START).summary();
        assert!(feed.take().is_none());
        for is_there in [true, false, true, false] {
            let changes = vec![pending(1, is_there), pending(2, !is_there)];
            feed.note(Changes { changes, summary: summary.clone() });
        }
        let (changes, _) = feed.take().unwrap();
        assert_eq!(changes, [pending(1, false), pending(2, true)]);
        assert!(feed.take().is_none());
    }
}
