//! Two stores on one machine, the second of which is away, refuses, and forgets.

use crate::daemon::Standing;
use crate::daemon::lent::Lent;
use crate::daemon::mirror::{Mirror, Rests};
use crate::metrics::DaemonMetrics;
use crate::storage::blocks::{BlockStore, MAX_CHANGED};
use crate::storage::content_store::{ContentStore, Embedded, Reach, StoreError};
use async_trait::async_trait;
use cid::Cid;
use std::collections::BTreeSet;
use std::ops::ControlFlow;
use std::sync::atomic::{AtomicBool, AtomicUsize, Ordering};
use std::sync::{Arc, Mutex};
use std::time::{Duration, Instant};
use swarm_protocol::codec::raw_cid;
use tokio::sync::watch;
use tokio::task::JoinHandle;
use tokio_util::sync::CancellationToken;

const PATIENCE: Duration = Duration::from_secs(60);
const SOON: Duration = Duration::from_millis(20);

/// A store of another process, as it looks from here.
#[derive(Debug)]
struct Second {
    store: Arc<BlockStore>,
    is_away: AtomicBool,
    refuses: Mutex<BTreeSet<Cid>>,
    shown: Mutex<Vec<(Cid, bool)>>,
    lists: AtomicUsize,
}

impl Second {
    fn embedded(&self) -> Embedded {
        Embedded(self.store.clone())
    }

    fn here(&self) -> Result<(), StoreError> {
        match self.is_away.load(Ordering::SeqCst) {
            true => Err(StoreError::Away("it is away".to_owned())),
            false => Ok(()),
        }
    }
}

#[async_trait]
impl ContentStore for Second {
    async fn put_pinned(&self, blocks: &[(Cid, Vec<u8>)]) -> Result<(), StoreError> {
        self.here()?;
        if blocks.iter().any(|(cid, _)| self.refuses.lock().unwrap().contains(cid)) {
            return Err(StoreError::Refused("not that one".to_owned()));
        }
        self.embedded().put_pinned(blocks).await
    }

    async fn get(&self, cid: &Cid, reach: Reach, within: Duration) -> Result<Option<Vec<u8>>, StoreError> {
        self.embedded().get(cid, reach, within).await
    }

    async fn unpin(&self, cids: &[Cid]) -> Result<(), StoreError> {
        self.here()?;
        self.embedded().unpin(cids).await
    }

    async fn pinned(&self, each: &mut (dyn FnMut(Cid) + Send)) -> Result<(), StoreError> {
        self.here()?;
        self.lists.fetch_add(1, Ordering::SeqCst);
        self.embedded().pinned(each).await
    }

    async fn show(&self, root: &Cid) -> Result<(), StoreError> {
        self.here()?;
        self.shown.lock().unwrap().push((*root, self.store.is_pinned(root)));
        Ok(())
    }
}

struct Site {
    folder: tempfile::TempDir,
    blocks: Arc<BlockStore>,
    second: Arc<Second>,
    tree: watch::Sender<Option<Cid>>,
}

struct Running {
    standing: Standing,
    stop: CancellationToken,
    task: JoinHandle<()>,
}

impl Site {
    fn new() -> Self {
        let second = Second {
            store: Arc::new(BlockStore::in_memory(1 << 30).unwrap()),
            is_away: false.into(),
            refuses: Mutex::default(),
            shown: Mutex::default(),
            lists: 0.into(),
        };
        let blocks = Arc::new(BlockStore::in_memory(1 << 30).unwrap());
        let folder = tempfile::tempdir().unwrap();
        Self { folder, blocks, second: Arc::new(second), tree: watch::channel(None).0 }
    }

    fn start(&self) -> Running {
        let standing = Standing::new("http://second", &self.blocks, DaemonMetrics::default());
        let mirror = Mirror {
            blocks: self.blocks.clone(),
            to: self.second.clone(),
            lent: Arc::new(Lent::open(&self.folder.path().join("lent.redb")).unwrap()),
            tree: self.tree.subscribe(),
            standing: standing.clone(),
            rests: Rests { first: SOON, longest: SOON, refused: SOON },
        };
        let stop = CancellationToken::new();
        Running { standing, stop: stop.clone(), task: tokio::spawn(mirror.run(stop)) }
    }

    fn pin(&self, text: &str) -> Cid {
        let cid = raw_cid(text.as_bytes());
        self.blocks.put_pinned(&[(cid, text.as_bytes())]).unwrap();
        cid
    }

    fn keep(&self, text: &str) -> Cid {
        let cid = raw_cid(text.as_bytes());
        self.blocks.keep(&[(cid, text.as_bytes())]).unwrap();
        cid
    }

    fn stays_there(&self) -> BTreeSet<Cid> {
        let mut there = BTreeSet::new();
        let each = |cid| {
            there.insert(cid);
            ControlFlow::Continue(())
        };
        self.second.store.each_staying(each).unwrap();
        there
    }

    async fn until_there(&self, wanted: &[Cid]) {
        let wanted: BTreeSet<Cid> = wanted.iter().copied().collect();
        eventually(|| self.stays_there() == wanted).await;
    }
}

impl Running {
    async fn until_equal(&self) {
        let is_equal = || {
            let status = self.standing.status();
            status.compared && status.behind == 0 && status.trouble.is_none()
        };
        eventually(is_equal).await;
    }

    async fn end(self) {
        self.stop.cancel();
        self.task.await.unwrap();
    }
}

async fn eventually(check: impl Fn() -> bool) {
    let until = Instant::now() + PATIENCE;
    while !check() {
        assert!(Instant::now() < until, "it never came true");
        tokio::time::sleep(Duration::from_millis(5)).await;
    }
}

#[tokio::test]
async fn what_stays_here_is_put_there_and_only_nodes_of_the_tree_are_let_go() {
    let site = Site::new();
    let before = site.pin("before");
    let running = site.start();
    site.until_there(&[before]).await;
    let (job, node, both) = (site.pin("job"), site.keep("node"), site.keep("both"));
    site.until_there(&[before, job, node, both]).await;
    site.pin("both");
    let owner = raw_cid(b"the owner's");
    site.second.store.put_pinned(&[(owner, b"the owner's")]).unwrap();
    site.blocks.let_go(&[node, both]).unwrap();
    site.blocks.unpin(&before).unwrap();
    site.until_there(&[before, job, both, owner]).await;
    running.until_equal().await;
    assert_eq!(site.second.lists.load(Ordering::SeqCst), 1, "all is compared at the start alone");
    running.end().await;
}

#[tokio::test]
async fn a_store_that_was_away_gets_what_it_missed_and_lets_go_what_it_should() {
    let site = Site::new();
    let (job, node) = (site.pin("job"), site.keep("node"));
    let running = site.start();
    site.until_there(&[job, node]).await;
    site.second.is_away.store(true, Ordering::SeqCst);
    let missed: Vec<Cid> = (0..100).map(|n| site.pin(&format!("missed {n}"))).collect();
    eventually(|| running.standing.status().trouble.as_deref() == Some("it is away")).await;
    assert!(!running.standing.status().compared);
    // The node ends meanwhile, and what it knew of the second store is on its disk alone.
    running.end().await;
    site.blocks.let_go(&[node]).unwrap();
    site.second.store.unpin(&job).unwrap();
    let running = site.start();
    site.second.is_away.store(false, Ordering::SeqCst);
    site.until_there(&[&[job], missed.as_slice()].concat()).await;
    running.until_equal().await;
    running.end().await;
}

#[tokio::test]
async fn a_block_that_is_refused_keeps_no_other_waiting_and_is_tried_again() {
    let site = Site::new();
    let bad: Vec<Cid> = ["bad", "worse"].map(|text| raw_cid(text.as_bytes())).into();
    site.second.refuses.lock().unwrap().extend(&bad);
    let mut good: Vec<Cid> = (0..40).map(|n| site.pin(&format!("good {n}"))).collect();
    for text in ["bad", "worse"] {
        site.pin(text);
    }
    let running = site.start();
    site.until_there(&good).await;
    eventually(|| running.standing.status().behind == 2).await;
    good.push(site.pin("later"));
    site.until_there(&good).await;
    assert_eq!(running.standing.status().trouble.as_deref(), Some("not that one"));
    site.second.refuses.lock().unwrap().clear();
    site.until_there(&[good, bad].concat()).await;
    running.until_equal().await;
    running.end().await;
}

#[tokio::test]
async fn the_newest_tree_is_shown_once_all_of_it_is_there() {
    let site = Site::new();
    let running = site.start();
    running.until_equal().await;
    site.second.is_away.store(true, Ordering::SeqCst);
    let roots: Vec<Cid> = (0..20).map(|n| site.keep(&format!("root {n}"))).collect();
    roots.iter().for_each(|root| _ = site.tree.send_replace(Some(*root)));
    eventually(|| running.standing.status().trouble.is_some()).await;
    site.second.is_away.store(false, Ordering::SeqCst);
    running.until_equal().await;
    let shown = site.second.shown.lock().unwrap().clone();
    assert_eq!(shown.last(), Some(&(roots[19], true)));
    assert!(shown.iter().all(|(_, is_there)| *is_there), "{shown:?}");
    running.end().await;
}

#[tokio::test]
async fn more_changes_than_can_be_noted_are_found_by_comparing() {
    let site = Site::new();
    let running = site.start();
    running.until_equal().await;
    let missed = site.pin("missed");
    site.until_there(&[missed]).await;
    site.second.store.unpin(&missed).unwrap();
    site.blocks.note_changed((0..MAX_CHANGED as u32 + 1).map(|n| raw_cid(&n.to_be_bytes())));
    site.until_there(&[missed]).await;
    running.until_equal().await;
    assert!(site.second.lists.load(Ordering::SeqCst) >= 2);
    running.end().await;
}
