//! Publishing the pool's tree after one change, with few and with many jobs in it.

mod support;

use anyhow::Result;
use std::time::Duration;
use support::{Pairs, Target, timed};
use swarm_crypto::address::Address;
use swarm_crypto::key::Signature;
use swarm_node::storage::blocks::BlockStore;
use swarm_protocol::Timestamp;
use swarm_protocol::codec::Link;
use swarm_protocol::pool::{Pool, PoolConfig};
use swarm_protocol::statement::Signed;
use swarm_protocol::tree::{Change, Entry, Place, Published, Summary, Tree};
use tempfile::TempDir;

const FEW: u64 = 1_000;
const MANY: u64 = 100_000;
const ROUNDS: usize = 200;
/// About what a job's statement takes.
const PAYLOAD_BYTES: usize = 400;
/// Blocks of one write to the store.
const MAX_WRITE_BLOCKS: usize = 256;

/// A tree with pending jobs, its store, and the number of the next job.
struct Grown {
    tree: Tree,
    summary: Summary,
    store: BlockStore,
    next: u64,
    _folder: TempDir,
}

fn job(n: u64) -> Change {
    let payload = n.to_be_bytes().iter().copied().cycle().take(PAYLOAD_BYTES).collect();
    let job = Signed { payload, signature: Signature([0; 65]) };
    Change {
        place: Place::Pending,
        name: Link::of(&n.to_be_bytes()).to_string(),
        entry: Some(Entry::Job(job)),
    }
}

impl Grown {
    fn of(jobs: u64) -> Result<Self> {
        let config = PoolConfig {
            node: None,
            reserve: swarm_protocol::money::MicroUsdc(0),
            name: "swarmpool.eth".into(),
            operator: Address::ZERO,
            models: [].into(),
            posted: Default::default(),
            secret: [7; 32],
        };
        let summary = Pool::create(config, Timestamp(1_800_000_000_000)).summary();
        let folder = tempfile::tempdir()?;
        let store = BlockStore::open(&folder.path().join("blocks.redb"), 1 << 30)?;
        let mut grown = Self { tree: Tree::new(), summary, store, next: jobs, _folder: folder };
        (0..jobs).for_each(|n| grown.tree.apply(&job(n)));
        let first = grown.publish();
        grown.keep(&first)?;
        Ok(grown)
    }

    fn publish(&mut self) -> Published {
        self.summary.records += 1;
        self.tree.publish(&self.summary)
    }

    fn keep(&self, published: &Published) -> Result<()> {
        for blocks in published.fresh.chunks(MAX_WRITE_BLOCKS) {
            let blocks: Vec<_> = blocks.iter().map(|(cid, block)| (*cid, block.as_slice())).collect();
            self.store.keep(&blocks)?;
        }
        Ok(self.store.let_go(&published.gone)?)
    }

    /// One more job.
    fn change(&mut self) -> Published {
        self.tree.apply(&job(self.next));
        self.next += 1;
        self.publish()
    }

    fn encoded(&mut self) -> Duration {
        let (published, time) = timed(|| self.change());
        self.keep(&published).expect("the store takes it");
        time
    }

    fn stored(&mut self) -> Duration {
        let (kept, time) = timed(|| {
            let published = self.change();
            self.keep(&published)
        });
        kept.expect("the store takes it");
        time
    }
}

fn main() -> Result<()> {
    support::machine();
    let mut few = Grown::of(FEW)?;
    let (many, time) = timed(|| Grown::of(MANY));
    let mut many = many?;
    println!("{MANY} jobs: tree made at once and stored in {:.1} s", time.as_secs_f64());
    for (grown, jobs) in [(&mut few, FEW), (&mut many, MANY)] {
        let published = grown.change();
        let bytes: usize = published.fresh.iter().map(|(_, block)| block.len()).sum();
        println!("{jobs} jobs: {} new blocks and {bytes} bytes for one more", published.fresh.len());
        grown.keep(&published)?;
    }
    let encoded = Pairs::of(ROUNDS, || few.encoded(), || many.encoded());
    println!(
        "encoded: {:.0} us with {FEW} jobs, {:.0} us with {MANY}",
        encoded.first() * 1e6,
        encoded.second() * 1e6
    );
    let stored = Pairs::of(ROUNDS, || few.stored(), || many.stored());
    println!(
        "and stored: {:.0} us with {FEW} jobs, {:.0} us with {MANY}",
        stored.first() * 1e6,
        stored.second() * 1e6
    );
    support::ratio("tree/encode-one-change-100k-over-1k", encoded.second_over_first(), Target::AtMost(4.0));
    support::ratio("tree/publish-one-change-100k-over-1k", stored.second_over_first(), Target::AtMost(4.0));
    Ok(())
}
