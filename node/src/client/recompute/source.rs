//! Where published blocks come from: the pool's nodes, or an archive.

use super::super::Connection;
use super::super::partial::{Partial, unwritable};
use crate::cli::UserError;
use crate::content::car::{Archive, CarError, CarWriter};
use crate::network::{MAX_BLOCK, Until};
use anyhow::{Result, anyhow};
use cid::Cid;
use std::collections::BTreeSet;
use std::fs::File;
use std::io::BufWriter;
use std::path::{Path, PathBuf};
use std::sync::{Mutex, PoisonError};
use std::time::Duration;
use swarm_protocol::codec::Link as Block;
use swarm_protocol::statement::Signed;
use tokio::time::Instant;

const FETCH_TIMEOUT: Duration = Duration::from_secs(20);
/// How long to ask for what nobody has: an operator may be starting again.
const PATIENCE: Duration = Duration::from_secs(5);

pub(in crate::client) enum Source {
    Network(Box<Connection>, Option<Mutex<Saving>>),
    Archive(Archive, PathBuf),
}

/// What is read goes into an archive too.
pub(in crate::client) struct Saving {
    partial: Partial,
    archive: CarWriter<BufWriter<File>>,
    saved: BTreeSet<Cid>,
}

impl Saving {
    /// An archive of a sealed epoch; its second root is what the operator signed of it.
    pub fn begin(path: &Path, header: Block, sealed: &Signed) -> Result<Self> {
        let (partial, file) = Partial::create(path)?;
        let snapshot = sealed.encode();
        let signed = Block::of(&snapshot).cid();
        let archive = CarWriter::new(BufWriter::new(file), &[header.cid(), signed])
            .map_err(|error| unwritable(path, &error))?;
        let mut saving = Self { partial, archive, saved: BTreeSet::new() };
        saving.put(&signed, &snapshot)?;
        Ok(saving)
    }

    fn put(&mut self, cid: &Cid, block: &[u8]) -> Result<()> {
        if self.saved.insert(*cid) {
            self.archive.put(cid, block)?;
        }
        Ok(())
    }

    fn keep(self) -> Result<PathBuf> {
        let file = self.archive.finish()?.into_inner().map_err(|error| anyhow!("{}", error.error()))?;
        file.sync_all()?;
        Ok(self.partial.keep()?)
    }
}

impl Source {
    pub fn archive(path: &Path) -> Result<Self, UserError> {
        match Archive::open(path) {
            Ok(archive) => Ok(Self::Archive(archive, path.to_owned())),
            Err(error @ CarError::Io(_)) => Err(UserError::misuse(format!("{}: {error}", path.display()))
                .hint("name an archive that verify --save has written")),
            Err(error) => Err(UserError::input(format!("{}: {error}", path.display()))
                .hint("somebody has changed it, or it is not whole: get it again")),
        }
    }

    pub async fn block(&self, cid: &Cid) -> Result<Vec<u8>> {
        match self {
            Self::Archive(archive, path) => {
                archive.block(cid)?.ok_or_else(|| anyhow!("{cid} is not in {}", path.display()))
            }
            Self::Network(connection, saving) => {
                let from: Vec<_> = connection.link.peer().into_iter().collect();
                let now = Instant::now();
                let until = Until { found: now + PATIENCE, fetched: now + FETCH_TIMEOUT };
                let block = connection.link.network().fetch(cid, &from, MAX_BLOCK, until).await?;
                if let Some(saving) = saving {
                    saving.lock().unwrap_or_else(PoisonError::into_inner).put(cid, &block)?;
                }
                Ok(block)
            }
        }
    }

    /// Leaves the network; what was to be saved gets its name, which is given.
    pub async fn close(self) -> Result<Option<PathBuf>> {
        let Self::Network(connection, saving) = self else { return Ok(None) };
        connection.link.network().shutdown().await;
        saving.map(|saving| saving.into_inner().unwrap_or_else(PoisonError::into_inner).keep()).transpose()
    }
}
