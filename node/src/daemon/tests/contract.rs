//! What every store of content has to do.

use crate::content::import;
use crate::storage::blocks::{BlockStore, MAX_BLOCK_BYTES};
use crate::storage::content_store::{ContentStore, Embedded, Reach, StoreError};
use cid::Cid;
use std::collections::BTreeSet;
use std::sync::Arc;
use std::time::Duration;
use swarm_protocol::codec::{Link, raw_cid};

const WITHIN: Duration = Duration::from_secs(20);
const SOON: Duration = Duration::from_secs(8);

fn raw(text: &str) -> (Cid, Vec<u8>) {
    (raw_cid(text.as_bytes()), text.as_bytes().to_vec())
}

/// A block of each kind, and one as large as may be.
fn blocks() -> Vec<(Cid, Vec<u8>)> {
    let record = vec![0xa1, 0x61, b'n', 0x18, 0x2a];
    let (root, mut file) = import(&vec![7; MAX_BLOCK_BYTES + 1]);
    assert!(file.iter().any(|(cid, bytes)| *cid == root && cid.codec() == 0x70 && bytes.len() < 1000));
    file.extend([raw("a leaf"), raw(""), (Link::of(&record).cid(), record)]);
    file
}

async fn pinned(store: &dyn ContentStore) -> BTreeSet<Cid> {
    let mut pinned = BTreeSet::new();
    store.pinned(&mut |cid| _ = pinned.insert(cid)).await.unwrap();
    pinned
}

async fn get(store: &dyn ContentStore, cid: &Cid) -> Option<Vec<u8>> {
    store.get(cid, Reach::Local, WITHIN).await.unwrap()
}

async fn put_get_list_and_let_go(store: &dyn ContentStore) {
    let blocks = blocks();
    let all: BTreeSet<Cid> = blocks.iter().map(|(cid, _)| *cid).collect();
    assert!(pinned(store).await.is_empty());
    let (first, _) = &blocks[0];
    assert_eq!(store.get(first, Reach::Local, SOON).await.unwrap(), None);
    for _ in 0..2 {
        store.put_pinned(&blocks).await.unwrap();
        assert_eq!(pinned(store).await, all, "each is pinned for itself, and once");
    }
    for (cid, bytes) in &blocks {
        assert_eq!(get(store, cid).await.as_ref(), Some(bytes), "{cid}");
    }
    let many: Vec<_> = (0..100).map(|n| raw(&format!("block {n}"))).collect();
    store.put_pinned(&many).await.unwrap();
    let gone: Vec<Cid> = many.iter().map(|(cid, _)| *cid).collect();
    assert_eq!(pinned(store).await.len(), all.len() + 100);
    store.unpin(&gone[..50]).await.unwrap();
    store.unpin(&gone).await.unwrap();
    store.unpin(&[raw("never here").0]).await.unwrap();
    assert_eq!(pinned(store).await, all);
}

async fn what_no_cid_names_is_refused(store: &dyn ContentStore) {
    let before = pinned(store).await;
    let refused = store.put_pinned(&[(raw("one").0, b"another".to_vec())]).await;
    assert!(matches!(refused, Err(StoreError::Block(_))), "{refused:?}");
    let large = raw(&"x".repeat(MAX_BLOCK_BYTES + 1));
    assert!(matches!(store.put_pinned(&[large]).await, Err(StoreError::Block(_))));
    assert_eq!(pinned(store).await, before);
}

async fn what_was_put_is_still_there(store: &dyn ContentStore) {
    let blocks = blocks();
    assert_eq!(pinned(store).await, blocks.iter().map(|(cid, _)| *cid).collect());
    for (cid, bytes) in &blocks {
        assert_eq!(get(store, cid).await.as_ref(), Some(bytes), "{cid}");
    }
}

#[tokio::test]
async fn the_embedded_store_fulfils_the_contract() {
    let folder = tempfile::tempdir().unwrap();
    let open = || {
        let blocks = BlockStore::open(&folder.path().join("blocks.redb"), 1 << 30).unwrap();
        Embedded(Arc::new(blocks))
    };
    let store = open();
    put_get_list_and_let_go(&store).await;
    what_no_cid_names_is_refused(&store).await;
    drop(store);
    what_was_put_is_still_there(&open()).await;
}

#[cfg(feature = "kubo")]
mod kubo {
    use super::*;
    use crate::daemon::kubo::Kubo;
    use crate::daemon::tests::ipfs::Ipfs;

    #[tokio::test]
    #[ignore = "needs an IPFS daemon: scripts/kubo.sh, and so scripts/test.sh, installs one"]
    async fn an_ipfs_daemon_fulfils_the_contract() {
        let mut ipfs = Ipfs::start();
        let (store, version) = Kubo::open(&ipfs.url()).await.unwrap();
        assert!(version.contains('.'), "{version}");
        put_get_list_and_let_go(&store).await;
        what_no_cid_names_is_refused(&store).await;
        ipfs.kill();
        let away = store.get(&raw("a leaf").0, Reach::Local, SOON).await;
        assert!(matches!(away, Err(StoreError::Away(_))), "{away:?}");
        ipfs.run();
        what_was_put_is_still_there(&store).await;
        what_somebody_pinned_with_all_below_it_stays(&store, &ipfs).await;
        the_tree_is_shown_and_replaced(&store, &ipfs).await;
    }

    async fn what_somebody_pinned_with_all_below_it_stays(store: &Kubo, ipfs: &Ipfs) {
        let (cid, bytes) = raw("the owner's own");
        store.put_pinned(&[(cid, bytes.clone())]).await.unwrap();
        store.unpin(&[cid]).await.unwrap();
        ipfs.json(&format!("pin/add?arg={cid}"));
        store.put_pinned(&[raw("a leaf"), (cid, bytes)]).await.unwrap();
        store.unpin(&[cid]).await.unwrap();
        let pins = ipfs.json("pin/ls?type=recursive&cid-base=base32");
        assert!(pins["Keys"].as_object().unwrap().contains_key(&cid.to_string()), "{pins}");
    }

    async fn the_tree_is_shown_and_replaced(store: &Kubo, ipfs: &Ipfs) {
        for text in ["one", "two", "two"] {
            let (root, file) = import(&text.repeat(MAX_BLOCK_BYTES).into_bytes());
            store.put_pinned(&file).await.unwrap();
            store.show(&root).await.unwrap();
            let there = ipfs.json("files/stat?arg=/swarmpool");
            assert_eq!(there["Hash"].as_str().unwrap().parse::<Cid>().unwrap(), root, "{text}");
            let (_, read) = ipfs.ask("files/read?arg=/swarmpool&length=3");
            assert_eq!(read, text.as_bytes());
        }
        let names = ipfs.json("files/ls?arg=/");
        assert_eq!(names["Entries"].as_array().unwrap().len(), 1, "{names}");
    }
}
