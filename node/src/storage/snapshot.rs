//! A database as it was at one moment, copied into a file of its own while the process goes on writing.

use super::disk::DiskError;
use redb::{Database, Key, ReadTransaction, ReadableTable, TableDefinition, Value};
use std::path::{Path, PathBuf};

/// Rows of one commit of the copy.
pub(super) const ROWS_AT_ONCE: usize = 4096;

/// One moment of a database.
pub struct Snapshot {
    transaction: ReadTransaction,
    path: PathBuf,
    copy: fn(&ReadTransaction, &Database) -> Result<(), redb::Error>,
}

impl std::fmt::Debug for Snapshot {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Snapshot").field("path", &self.path).finish_non_exhaustive()
    }
}

impl Snapshot {
    pub(super) fn of(
        transaction: ReadTransaction,
        path: &Path,
        copy: fn(&ReadTransaction, &Database) -> Result<(), redb::Error>,
    ) -> Self {
        Self { transaction, path: path.to_owned(), copy }
    }

    /// Writes it to a new file, durably.
    pub fn write(&self, target: &Path) -> Result<(), DiskError> {
        let written = Database::create(target).map_err(redb::Error::from);
        written
            .and_then(|database| (self.copy)(&self.transaction, &database))
            .map_err(|error| DiskError::database(target, error))
    }
}

/// A row of a table that is being copied.
pub(super) type Insert<'a, K, V> = dyn FnMut(
        &mut redb::Table<'_, K, V>,
        <K as Value>::SelfType<'_>,
        <V as Value>::SelfType<'_>,
    ) -> Result<(), redb::Error>
    + 'a;

/// Copies a table, some rows to a commit.
pub(super) fn copy_table<K: Key + 'static, V: Value + 'static>(
    from: &ReadTransaction,
    to: &Database,
    table: TableDefinition<'_, K, V>,
    insert: &mut Insert<'_, K, V>,
) -> Result<(), redb::Error> {
    let source = from.open_table(table)?;
    let mut rows = source.iter()?;
    loop {
        let transaction = to.begin_write()?;
        let mut copied = 0;
        {
            let mut target = transaction.open_table(table)?;
            while copied < ROWS_AT_ONCE
                && let Some(row) = rows.next()
            {
                let (key, value) = row?;
                insert(&mut target, key.value(), value.value())?;
                copied += 1;
            }
        }
        transaction.commit()?;
        if copied < ROWS_AT_ONCE {
            return Ok(());
        }
    }
}
