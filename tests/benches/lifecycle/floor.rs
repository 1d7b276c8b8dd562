//! The bare stores: records of the same sizes in the same batches, and nothing else.

use crate::support::timed;
use anyhow::Result;
use std::path::Path;
use std::time::Duration;

/// Sizes of the records of one durable append.
pub type Batch = Vec<usize>;

const TABLE: redb::TableDefinition<'_, u64, &[u8]> = redb::TableDefinition::new("records");
const APPEND: &str = r"
for i = 1, #ARGV do redis.call('XADD', KEYS[1], '*', 'record', ARGV[i]) end
return 'done'";

/// Bytes that nothing can compress.
fn noise(batches: &[Batch]) -> Result<Vec<u8>> {
    let longest = batches.iter().flatten().copied().max().unwrap_or(0);
    let mut bytes = vec![0; longest];
    getrandom::fill(&mut bytes)?;
    Ok(bytes)
}

/// A redb commit for each batch, in two phases as the ledger's.
pub fn redb(folder: &Path, batches: &[Batch]) -> Result<Duration> {
    let database = redb::Database::create(folder.join("floor.redb"))?;
    let bytes = noise(batches)?;
    let (done, time) = timed(|| -> Result<()> {
        let mut key = 0;
        for batch in batches {
            let mut transaction = database.begin_write()?;
            transaction.set_two_phase_commit(true);
            let mut table = transaction.open_table(TABLE)?;
            for length in batch {
                table.insert(key, &bytes[..*length])?;
                key += 1;
            }
            drop(table);
            transaction.commit()?;
        }
        Ok(())
    });
    done?;
    Ok(time)
}

/// A script for each batch, that adds an entry of a stream for each record.
pub fn redis(connection: &mut redis::Connection, batches: &[Batch]) -> Result<Duration> {
    let (script, bytes) = (redis::Script::new(APPEND), noise(batches)?);
    let (done, time) = timed(|| -> Result<()> {
        for batch in batches {
            let mut call = script.prepare_invoke();
            call.key("floor");
            for length in batch {
                call.arg(&bytes[..*length]);
            }
            call.invoke::<String>(connection)?;
        }
        Ok(())
    });
    done?;
    Ok(time)
}
