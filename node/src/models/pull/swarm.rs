//! Models that other nodes publish: a folder by its CID, each block checked against its own.

use super::{Origin, Pace, Part, Plan, Wanted};
use crate::cli::{NodeArgs, UserError};
use crate::content::{MAX_FOREIGN_LINKS, Reader, UnixFsError, decode_folder, read_ahead};
use crate::home::visitor_config;
use crate::models::installed::MANIFEST_FILE;
use crate::network::{MAX_BLOCK, Network, NetworkEvent, Until, Verdict};
use crate::storage::blocks::{BlockStore, DEFAULT_QUOTA_BYTES};
use crate::words::clean;
use anyhow::Result;
use cid::Cid;
use std::cell::RefCell;
use std::collections::BTreeMap;
use std::sync::Arc;
use std::time::Duration;
use swarm_inference::{MAX_MANIFEST_BYTES, MAX_MODEL_FILES, MAX_MODEL_SHARDS, Manifest};
use tokio::runtime::Handle;
use tokio::sync::mpsc;
use tokio_util::sync::CancellationToken;

/// Manifest, weights and what lies beside them.
const MAX_FILES: usize = 2 + MAX_MODEL_SHARDS + MAX_MODEL_FILES;

/// A folder that others have.
#[derive(Debug)]
pub struct Swarm {
    root: Cid,
    network: Network,
    runtime: Handle,
    patience: Duration,
    files: BTreeMap<String, Cid>,
}

impl Swarm {
    /// Goes among the nodes of the pool, for this once.
    pub async fn join(args: &NodeArgs, root: Cid, patience: Duration) -> Result<Self> {
        let agent = format!("swarm-node/{} (pull)", env!("CARGO_PKG_VERSION"));
        let config = visitor_config(&args.network, &args.pool.pool, agent)?;
        let nothing = Arc::new(BlockStore::in_memory(DEFAULT_QUOTA_BYTES)?);
        let (network, events) = Network::start(config, nothing).await?;
        tokio::spawn(ignore(network.clone(), events));
        Ok(Self { root, network, runtime: Handle::current(), patience, files: BTreeMap::new() })
    }

    /// What is to be left at the end.
    pub fn network(&self) -> Network {
        self.network.clone()
    }

    async fn block(&self, cid: Cid, stop: &CancellationToken) -> Result<Vec<u8>> {
        let until = Until::within(self.patience);
        tokio::select! {
            fetched = self.network.fetch(&cid, &[], MAX_BLOCK, until) => fetched.map_err(|error| {
                UserError::input(format!("{cid} was not fetched: {error}"))
                    .hint("a node that runs the model has to be in reach (--bootstrap); run it again to go on")
                    .into()
            }),
            () = stop.cancelled() => Err(super::pace::interrupted().into()),
        }
    }

    async fn manifest(&self, cid: Cid, stop: &CancellationToken) -> Result<Vec<u8>> {
        let reader = Reader::at_most(cid, MAX_MANIFEST_BYTES).map_err(|error| self.odd(&error))?;
        let mut json = Vec::new();
        let take = |_: &Cid, _: &[u8], content: &[u8]| {
            json.extend_from_slice(content);
            Ok(())
        };
        let read = read_ahead(reader, |cid| self.block(cid, stop), take).await;
        read.map_err(|error| self.told(error))?;
        Ok(json)
    }

    /// Reads what came before through its blocks, as far as it is whole.
    async fn read_again(&self, reader: &mut Reader, part: &mut Part, pace: &mut Pace) -> Result<()> {
        let there = part.there()?;
        while let Some(cid) = reader.wanted() {
            match reader.wanted_length().and_then(|length| usize::try_from(length).ok()) {
                Some(length) if length <= MAX_BLOCK && part.length() + length as u64 <= there => {
                    let Some(block) =
                        part.next(length).filter(|block| swarm_protocol::codec::names(&cid, block))
                    else {
                        break;
                    };
                    reader.supply(&block).map_err(|error| self.odd(&error))?;
                    part.keep(&block);
                    pace.found(length as u64)?;
                }
                Some(_) => break,
                None if part.length() >= there => break,
                // A node above the leaves, which are too few to be worth keeping; or a file of one block.
                None if cid.codec() == RAW => break,
                None => {
                    let block = self.block(cid, pace.stop()).await?;
                    let inside = reader.supply(&block).map_err(|error| self.odd(&error))?;
                    if part.next(inside.len()).as_deref() != Some(inside) {
                        part.truncate()?;
                        return part.append(inside);
                    }
                    part.keep(inside);
                }
            }
        }
        part.truncate()
    }

    fn odd(&self, error: &UnixFsError) -> anyhow::Error {
        UserError::input(format!("{} cannot be read as a model: {error}", self.root))
            .hint("whoever made it made it wrong; ask them")
            .into()
    }

    fn told(&self, error: anyhow::Error) -> anyhow::Error {
        match error.downcast::<UnixFsError>() {
            Ok(error) => self.odd(&error),
            Err(error) => error,
        }
    }

    fn refused(&self, why: &str) -> anyhow::Error {
        UserError::input(format!("{} is no model: {}", self.root, clean(why)))
            .hint("swarm-node models list shows the CID of a model where it is installed")
            .into()
    }
}

const RAW: u64 = 0x55;

impl Origin for Swarm {
    fn plan(&mut self, stop: &CancellationToken) -> Result<Plan> {
        let runtime = self.runtime.clone();
        let folder = runtime.block_on(self.block(self.root, stop))?;
        let folder =
            decode_folder(&folder, MAX_FOREIGN_LINKS).map_err(|error| self.refused(&error.to_string()))?;
        if folder.is_sharded || folder.links.len() > MAX_FILES {
            return Err(self.refused("it has too many files"));
        }
        self.files = folder.links.into_iter().collect();
        let Some(manifest) = self.files.get(MANIFEST_FILE).copied() else {
            return Err(self.refused("it has no manifest.json"));
        };
        let json = runtime.block_on(self.manifest(manifest, stop))?;
        let text = std::str::from_utf8(&json).map_err(|error| self.refused(&error.to_string()))?;
        let manifest = Manifest::from_json(text).map_err(|error| self.refused(&error.to_string()))?;
        Ok(Plan::of(manifest, json, true))
    }

    fn fetch(&mut self, wanted: &Wanted, part: &mut Part, pace: &mut Pace) -> Result<()> {
        let Some(root) = self.files.get(&wanted.name) else {
            return Err(self.refused(&format!("its manifest names {}, which it has not", wanted.name)));
        };
        let mut reader = Reader::new(*root, wanted.size).map_err(|error| self.odd(&error))?;
        self.runtime.clone().block_on(async {
            self.read_again(&mut reader, part, pace).await?;
            let stop = pace.stop().clone();
            let both = RefCell::new((part, pace));
            let take = |_: &Cid, _: &[u8], content: &[u8]| {
                let (part, pace) = &mut *both.borrow_mut();
                part.append(content)?;
                pace.took(content.len() as u64)
            };
            read_ahead(reader, |cid| self.block(cid, &stop), take)
                .await
                .map(drop)
                .map_err(|error| self.told(error))
        })
    }
}

/// Statements of the pool are no concern of somebody who comes for a model.
async fn ignore(network: Network, mut events: mpsc::Receiver<NetworkEvent>) {
    while let Some(event) = events.recv().await {
        if let NetworkEvent::Gossip { topic, id, from, .. } = event {
            network.metrics().judged(topic, Verdict::Ignore);
            // A network that is closing needs no verdicts.
            let _ = network.verdict(id, from, Verdict::Ignore).await;
        }
    }
}
