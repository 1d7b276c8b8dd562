//! Which nodes of the pool's tree the daemon was asked to pin: what is let go here is to be let go there, also if a
//! restart lies between the two, and nothing that somebody else has pinned.

use crate::storage::disk::{DiskError, open_database, survive_damage};
use cid::Cid;
use redb::{Database, ReadableDatabase, ReadableTable, TableDefinition};
use std::path::{Path, PathBuf};

const LENT: TableDefinition<'_, &[u8], ()> = TableDefinition::new("lent");
const CACHE_BYTES: usize = 1 << 20;

/// A durable set of CIDs.
#[derive(Debug)]
pub struct Lent {
    database: Database,
    path: PathBuf,
}

impl Lent {
    /// Opens or creates the set in this file.
    pub fn open(path: &Path) -> Result<Self, DiskError> {
        let database = open_database(path, CACHE_BYTES)?;
        survive_damage(path, || {
            let lent = Self { database, path: path.to_owned() };
            lent.change(&[], &[])?;
            Ok(lent)
        })
    }

    /// Adds and removes; durable when it returns.
    pub fn change(&self, add: &[Cid], remove: &[Cid]) -> Result<(), DiskError> {
        let write = || -> Result<(), redb::Error> {
            let transaction = self.database.begin_write()?;
            {
                let mut lent = transaction.open_table(LENT)?;
                for cid in add {
                    lent.insert(cid.to_bytes().as_slice(), ())?;
                }
                for cid in remove {
                    lent.remove(cid.to_bytes().as_slice())?;
                }
            }
            Ok(transaction.commit()?)
        };
        write().map_err(|error| DiskError::database(&self.path, error))
    }

    /// Those of these that are in it.
    pub fn of(&self, cids: &[Cid]) -> Result<Vec<Cid>, DiskError> {
        let read = || -> Result<Vec<Cid>, redb::Error> {
            let lent = self.database.begin_read()?.open_table(LENT)?;
            let mut found = Vec::new();
            for cid in cids {
                if lent.get(cid.to_bytes().as_slice())?.is_some() {
                    found.push(*cid);
                }
            }
            Ok(found)
        };
        read().map_err(|error| DiskError::database(&self.path, error))
    }

    /// At most so many of those for which this is true.
    pub fn which(&self, most: usize, is_wanted: impl Fn(&Cid) -> bool) -> Result<Vec<Cid>, DiskError> {
        let read = || -> Result<Vec<Cid>, redb::Error> {
            let lent = self.database.begin_read()?.open_table(LENT)?;
            let mut found = Vec::new();
            for row in lent.iter()? {
                let cid = Cid::try_from(row?.0.value());
                let cid = cid.map_err(|error| redb::Error::Corrupted(error.to_string()))?;
                if found.len() < most && is_wanted(&cid) {
                    found.push(cid);
                }
            }
            Ok(found)
        };
        read().map_err(|error| DiskError::database(&self.path, error))
    }
}
