//! Which operator stands behind a pool's name, as found at first contact.

use super::disk::{DiskError, write_atomic};
use std::collections::BTreeMap;
use std::fs::{File, OpenOptions};
use std::os::unix::fs::OpenOptionsExt;
use std::path::Path;

/// The usual name of the file.
pub const KNOWN_OPERATORS_FILE: &str = "known_operators.json";
/// The most pools in one file.
pub const MAX_KNOWN_OPERATORS: usize = 4096;

/// Why an operator is not accepted.
#[derive(Debug, Clone, thiserror::Error)]
pub enum PinError {
    #[error(
        "the operator of {pool} has changed: {known} is known, {found} answers; if the pool has announced this change, confirm it with --accept-operator {found}, if not, do not go on (the one known is in {file})"
    )]
    Changed { pool: String, known: String, found: String, file: String },
    #[error("{file} already names {MAX_KNOWN_OPERATORS} pools; remove those no longer used")]
    TooMany { file: String },
    #[error(transparent)]
    Disk(#[from] DiskError),
}

/// What a pin found.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Pinned {
    /// The pool was not known; from now on it is.
    First,
    /// The pool is known by this operator.
    Same,
}

type Operators = BTreeMap<String, String>;

/// The operator known for a pool.
pub fn known_operator(path: &Path, pool: &str) -> Result<Option<String>, PinError> {
    Ok(read(path)?.remove(pool))
}

/// Accepts the operator that is known for this pool, or whoever comes first; refuses another.
pub fn pin_operator(path: &Path, pool: &str, operator: &str) -> Result<Pinned, PinError> {
    let _lock = lock(path)?;
    let operators = read(path)?;
    match operators.get(pool) {
        Some(known) if known.eq_ignore_ascii_case(operator) => Ok(Pinned::Same),
        Some(known) => Err(PinError::Changed {
            pool: pool.to_owned(),
            known: known.clone(),
            found: operator.to_owned(),
            file: path.display().to_string(),
        }),
        None => write(path, operators, pool, operator).map(|()| Pinned::First),
    }
}

/// Makes this the pool's operator because the user said so.
pub fn confirm_operator(path: &Path, pool: &str, operator: &str) -> Result<(), PinError> {
    let _lock = lock(path)?;
    write(path, read(path)?, pool, operator)
}

fn read(path: &Path) -> Result<Operators, PinError> {
    match std::fs::read(path) {
        Ok(bytes) => serde_json::from_slice(&bytes).map_err(|error| {
            DiskError::damaged(path, format!("it is no list of operators ({error})")).into()
        }),
        Err(cause) if cause.kind() == std::io::ErrorKind::NotFound => Ok(Operators::new()),
        Err(cause) => Err(DiskError::io("read", path, cause).into()),
    }
}

fn write(path: &Path, mut operators: Operators, pool: &str, operator: &str) -> Result<(), PinError> {
    operators.insert(pool.to_owned(), operator.to_owned());
    if operators.len() > MAX_KNOWN_OPERATORS {
        return Err(PinError::TooMany { file: path.display().to_string() });
    }
    let text = serde_json::to_vec_pretty(&operators).expect("a map of strings is JSON");
    Ok(write_atomic(path, &text)?)
}

/// Serialises the processes of one user; the lock ends with the file handle.
fn lock(path: &Path) -> Result<File, DiskError> {
    let path = path.with_extension("lock");
    let failed = |cause| DiskError::io("lock", &path, cause);
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(&path)
        .map_err(failed)?;
    rustix::fs::flock(&file, rustix::fs::FlockOperation::LockExclusive)
        .map_err(|errno| failed(errno.into()))?;
    Ok(file)
}

#[cfg(test)]
mod tests {
    use super::*;

    const ALICE: &str = "0x70997970C51812dc3A010C7d01b50e0d17dc79C8";
    const MALLORY: &str = "0x3C44CdDdB6a900fa2b585dd299e03d12FA4293BC";

    #[test]
    fn the_first_operator_is_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(KNOWN_OPERATORS_FILE);
        assert_eq!(known_operator(&path, "pool.eth").unwrap(), None);
        assert_eq!(pin_operator(&path, "pool.eth", ALICE).unwrap(), Pinned::First);
        assert_eq!(pin_operator(&path, "pool.eth", ALICE).unwrap(), Pinned::Same);
        assert_eq!(pin_operator(&path, "pool.eth", &ALICE.to_lowercase()).unwrap(), Pinned::Same);
        assert_eq!(pin_operator(&path, "other.eth", MALLORY).unwrap(), Pinned::First);
        assert_eq!(known_operator(&path, "pool.eth").unwrap().as_deref(), Some(ALICE));
    }

    #[test]
    fn a_change_is_refused_until_it_is_confirmed() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(KNOWN_OPERATORS_FILE);
        pin_operator(&path, "pool.eth", ALICE).unwrap();
        for _ in 0..2 {
            let message = pin_operator(&path, "pool.eth", MALLORY).unwrap_err().to_string();
            for part in
                ["pool.eth", ALICE, &format!("--accept-operator {MALLORY}"), &path.display().to_string()]
            {
                assert!(message.contains(part), "{part} is not in: {message}");
            }
        }
        confirm_operator(&path, "pool.eth", MALLORY).unwrap();
        assert_eq!(pin_operator(&path, "pool.eth", MALLORY).unwrap(), Pinned::Same);
        assert!(matches!(pin_operator(&path, "pool.eth", ALICE), Err(PinError::Changed { .. })));
    }

    #[test]
    fn processes_that_pin_at_once_lose_nothing() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(KNOWN_OPERATORS_FILE);
        std::thread::scope(|scope| {
            for n in 0..8 {
                let path = &path;
                scope.spawn(move || pin_operator(path, &format!("pool{n}.eth"), ALICE).unwrap());
            }
        });
        assert_eq!(read(&path).unwrap().len(), 8);
    }

    #[test]
    fn a_damaged_file_is_refused_and_kept() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join(KNOWN_OPERATORS_FILE);
        for text in ["", "[]", "{\"pool.eth\": 1}"] {
            std::fs::write(&path, text).unwrap();
            let refused = pin_operator(&path, "pool.eth", ALICE).unwrap_err();
            assert!(refused.to_string().contains("damaged"), "{refused}");
            assert_eq!(std::fs::read_to_string(&path).unwrap(), text);
        }
    }
}
