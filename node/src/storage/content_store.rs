//! Where content is kept by CID: in the node's own store, or in an IPFS daemon.

use super::blocks::{BlockError, BlockStore};
use super::disk::DiskError;
use async_trait::async_trait;
use cid::Cid;
use std::fmt;
use std::ops::ControlFlow;
use std::sync::Arc;
use std::time::Duration;

/// Why a store did not do what it was asked for.
#[derive(Debug, Clone, thiserror::Error)]
pub enum StoreError {
    /// It is not there at all, for now.
    #[error("{0}")]
    Away(String),
    /// It answers, and has not done this.
    #[error("{0}")]
    Refused(String),
    #[error(transparent)]
    Block(#[from] BlockError),
}

/// How far a store may look for a block.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Reach {
    /// In what it has.
    Local,
    /// Also at those whom it knows.
    Network,
}

/// A store of blocks that are named by their CIDs. `daemon/tests/contract.rs` says what all of them have to do.
#[async_trait]
pub trait ContentStore: fmt::Debug + Send + Sync {
    /// Stores and pins these blocks; when it returns they stay. After an error some of them may.
    async fn put_pinned(&self, blocks: &[(Cid, Vec<u8>)]) -> Result<(), StoreError>;

    /// A block's bytes, which match its CID, if the store can find them in this time.
    async fn get(&self, cid: &Cid, reach: Reach, within: Duration) -> Result<Option<Vec<u8>>, StoreError>;

    /// Lets blocks go; those that are not pinned stay so.
    async fn unpin(&self, cids: &[Cid]) -> Result<(), StoreError>;

    /// Names all blocks that were pinned one by one.
    async fn pinned(&self, each: &mut (dyn FnMut(Cid) + Send)) -> Result<(), StoreError>;

    /// Makes this folder, all of which it has, the pool's tree for whoever looks into the store by names. One without
    /// names has nothing to do.
    async fn show(&self, _root: &Cid) -> Result<(), StoreError> {
        Ok(())
    }
}

/// The node's own store, which others in this process use directly.
#[derive(Debug, Clone)]
pub struct Embedded(pub Arc<BlockStore>);

#[async_trait]
impl ContentStore for Embedded {
    async fn put_pinned(&self, blocks: &[(Cid, Vec<u8>)]) -> Result<(), StoreError> {
        let blocks = blocks.to_vec();
        on_disk(&self.0, move |store| {
            let borrowed: Vec<(Cid, &[u8])> =
                blocks.iter().map(|(cid, bytes)| (*cid, bytes.as_slice())).collect();
            store.put_pinned(&borrowed)
        })
        .await
    }

    async fn get(&self, cid: &Cid, _: Reach, _: Duration) -> Result<Option<Vec<u8>>, StoreError> {
        let cid = *cid;
        on_disk(&self.0, move |store| store.get(&cid)).await
    }

    async fn unpin(&self, cids: &[Cid]) -> Result<(), StoreError> {
        let cids = cids.to_vec();
        on_disk(&self.0, move |store| cids.iter().try_for_each(|cid| store.unpin(cid))).await
    }

    async fn pinned(&self, each: &mut (dyn FnMut(Cid) + Send)) -> Result<(), StoreError> {
        let all = on_disk(&self.0, |store| {
            let mut all = Vec::new();
            store.each_staying(|cid| {
                all.push(cid);
                ControlFlow::Continue(())
            })?;
            Ok(all)
        });
        all.await?.into_iter().for_each(each);
        Ok(())
    }
}

/// Does what may wait for a disk where others need not wait for it.
pub(crate) async fn on_disk<T: Send + 'static>(
    store: &Arc<BlockStore>,
    work: impl FnOnce(&BlockStore) -> Result<T, BlockError> + Send + 'static,
) -> Result<T, StoreError> {
    let store = store.clone();
    let broke_off = |_| BlockError::Disk(DiskError::Closed { path: "the content store".into() });
    Ok(tokio::task::spawn_blocking(move || work(&store)).await.map_err(broke_off)??)
}
