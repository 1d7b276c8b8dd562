//! Files that are whole or absent, free space, and errors that say what to do.

use redb::{Builder, Database};
use std::fs::{File, OpenOptions};
use std::io::{self, ErrorKind, Write};
use std::os::unix::fs::OpenOptionsExt;
use std::panic::AssertUnwindSafe;
use std::path::{Path, PathBuf};
use std::sync::Arc;

/// The least free space, in bytes, with which a node starts.
pub const MIN_FREE_BYTES: u64 = 64 << 20;

const PRIVATE_FILE: u32 = 0o600;

/// Why something on disk could not be read or written.
#[derive(Debug, Clone, thiserror::Error)]
pub enum DiskError {
    #[error(
        "disk full: {path} could not be written; free at least {} MiB and start again: nothing acknowledged is lost",
        MIN_FREE_BYTES >> 20
    )]
    Full { path: PathBuf },
    #[error("{path} is damaged or not what it should be: {reason}; move it away and copy a good one back")]
    Damaged { path: PathBuf, reason: String },
    #[error("{path} is in use by another process; stop that process first")]
    InUse { path: PathBuf },
    #[error("{path} was closed after an earlier disk error; start the node again")]
    Closed { path: PathBuf },
    #[error("cannot {doing} {path}: {cause}; check that the disk is healthy and the path is yours to write")]
    Io { doing: &'static str, path: PathBuf, cause: Arc<io::Error> },
}

impl DiskError {
    pub(crate) fn io(doing: &'static str, path: &Path, cause: io::Error) -> Self {
        let path = path.to_owned();
        match cause.kind() {
            ErrorKind::StorageFull | ErrorKind::QuotaExceeded | ErrorKind::FileTooLarge => {
                Self::Full { path }
            }
            _ => Self::Io { doing, path, cause: Arc::new(cause) },
        }
    }

    pub(crate) fn damaged(path: &Path, reason: impl Into<String>) -> Self {
        Self::Damaged { path: path.to_owned(), reason: reason.into() }
    }

    pub(crate) fn database(path: &Path, error: impl Into<redb::Error>) -> Self {
        match error.into() {
            redb::Error::Io(cause) => match cause.kind() {
                ErrorKind::InvalidData | ErrorKind::InvalidInput | ErrorKind::UnexpectedEof => {
                    Self::damaged(path, cause.to_string())
                }
                _ => Self::io("use the database", path, cause),
            },
            redb::Error::DatabaseAlreadyOpen => Self::InUse { path: path.to_owned() },
            redb::Error::PreviousIo | redb::Error::DatabaseClosed | redb::Error::LockPoisoned(_) => {
                Self::Closed { path: path.to_owned() }
            }
            other => Self::damaged(path, other.to_string()),
        }
    }

    /// Whether freeing space on the disk is the remedy.
    pub fn is_full(&self) -> bool {
        matches!(self, Self::Full { .. })
    }
}

/// Bytes that an unprivileged process may still write on the file system that holds `path`.
pub fn available_bytes(path: &Path) -> io::Result<u64> {
    let stat = rustix::fs::statvfs(path)?;
    Ok(stat.f_bavail.saturating_mul(stat.f_frsize))
}

/// Refuses a file system that holds fewer than [`MIN_FREE_BYTES`] free bytes.
pub fn check_free_space(path: &Path) -> Result<(), DiskError> {
    let available = available_bytes(path).map_err(|cause| DiskError::io("measure", path, cause))?;
    match available >= MIN_FREE_BYTES {
        true => Ok(()),
        false => Err(DiskError::Full { path: path.to_owned() }),
    }
}

/// Replaces a file by another of mode 0600, whole and durable when it returns.
pub fn write_atomic(path: &Path, bytes: &[u8]) -> Result<(), DiskError> {
    let temporary = write_temporary(path, bytes)?;
    std::fs::rename(&temporary, path).map_err(|cause| DiskError::io("replace", path, cause))?;
    sync_parent(path)
}

/// Creates a file of mode 0600, whole and durable when it returns; `false`, and nothing changed, if it exists.
pub fn create_atomic(path: &Path, bytes: &[u8]) -> Result<bool, DiskError> {
    let temporary = write_temporary(path, bytes)?;
    let linked = std::fs::hard_link(&temporary, path);
    let removed = std::fs::remove_file(&temporary);
    match linked {
        Err(cause) if cause.kind() == ErrorKind::AlreadyExists => return Ok(false),
        linked => linked.and(removed).map_err(|cause| DiskError::io("create", path, cause))?,
    }
    sync_parent(path)?;
    Ok(true)
}

/// Opens a redb file, or creates it so that a power cut leaves it whole or absent.
pub(crate) fn open_database(path: &Path, cache_bytes: usize) -> Result<Database, DiskError> {
    let failed = |error: redb::DatabaseError| DiskError::database(path, error);
    let mut builder = Builder::new();
    builder.set_cache_size(cache_bytes);
    let is_there = path.metadata().is_ok_and(|file| file.len() > 0);
    if !is_there {
        let unfinished = path.with_added_extension("new");
        std::fs::remove_file(&unfinished).ok();
        drop(builder.create(&unfinished).map_err(failed)?);
        std::fs::rename(&unfinished, path).map_err(|cause| DiskError::io("create", path, cause))?;
        sync_parent(path)?;
    }
    survive_damage(path, || builder.open(path).map_err(failed))
}

/// Runs the opening of a database file; redb panics on some damage that it does not expect.
pub(crate) fn survive_damage<T, E: From<DiskError>>(
    path: &Path,
    open: impl FnOnce() -> Result<T, E>,
) -> Result<T, E> {
    std::panic::catch_unwind(AssertUnwindSafe(open))
        .unwrap_or_else(|_| Err(DiskError::damaged(path, "its inner structure is broken").into()))
}

/// Makes a file's entry in its directory durable.
pub(crate) fn sync_parent(path: &Path) -> Result<(), DiskError> {
    let parent = match path.parent() {
        Some(parent) if !parent.as_os_str().is_empty() => parent,
        _ => Path::new("."),
    };
    File::open(parent)
        .and_then(|directory| directory.sync_all())
        .map_err(|cause| DiskError::io("sync", parent, cause))
}

fn write_temporary(path: &Path, bytes: &[u8]) -> Result<PathBuf, DiskError> {
    let temporary = temporary_name(path);
    let write = || {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(PRIVATE_FILE).open(&temporary)?;
        file.write_all(bytes)?;
        file.sync_all()
    };
    write().map_err(|cause| {
        std::fs::remove_file(&temporary).ok();
        DiskError::io("write", path, cause)
    })?;
    Ok(temporary)
}

fn temporary_name(path: &Path) -> PathBuf {
    use std::sync::atomic::{AtomicU64, Ordering};
    static NEXT: AtomicU64 = AtomicU64::new(0);
    let mut name = path.as_os_str().to_owned();
    let number = NEXT.fetch_add(1, Ordering::Relaxed);
    name.push(format!(".{}.{number}.tmp", std::process::id()));
    PathBuf::from(name)
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::PermissionsExt;

    fn only_file(directory: &Path) -> PathBuf {
        let files: Vec<_> =
            std::fs::read_dir(directory).unwrap().map(|entry| entry.unwrap().path()).collect();
        assert_eq!(files.len(), 1, "left behind: {files:?}");
        files[0].clone()
    }

    #[test]
    fn a_write_replaces_the_whole_file_and_leaves_nothing_else() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("mark");
        write_atomic(&path, b"a long first version").unwrap();
        write_atomic(&path, b"second").unwrap();
        assert_eq!(std::fs::read(only_file(directory.path())).unwrap(), b"second");
        assert_eq!(path.metadata().unwrap().permissions().mode() & 0o777, 0o600);
    }

    #[test]
    fn creation_never_overwrites() {
        let directory = tempfile::tempdir().unwrap();
        let path = directory.path().join("key");
        assert!(create_atomic(&path, b"first").unwrap());
        assert!(!create_atomic(&path, b"second").unwrap());
        assert_eq!(std::fs::read(only_file(directory.path())).unwrap(), b"first");
    }

    #[test]
    fn a_full_disk_is_named_as_such() {
        for errno in [rustix::io::Errno::NOSPC, rustix::io::Errno::DQUOT, rustix::io::Errno::FBIG] {
            let error = DiskError::io("write", Path::new("ledger.redb"), errno.into());
            assert!(error.is_full());
            assert!(error.to_string().starts_with("disk full: ledger.redb"), "{error}");
        }
        let denied = DiskError::io("write", Path::new("x"), rustix::io::Errno::ACCESS.into());
        assert!(!denied.is_full());
    }

    #[test]
    fn a_device_without_space_is_a_full_disk() {
        let mut full = OpenOptions::new().write(true).open("/dev/full").unwrap();
        let cause = full.write_all(b"x").unwrap_err();
        assert!(DiskError::io("write", Path::new("/dev/full"), cause).is_full());
    }

    #[test]
    fn free_space_is_measured() {
        let directory = tempfile::tempdir().unwrap();
        assert!(available_bytes(directory.path()).unwrap() > 0);
        assert!(available_bytes(&directory.path().join("absent")).is_err());
    }
}
