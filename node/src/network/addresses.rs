//! The files by which nodes of one machine find each other.
//!
//! Each node keeps one JSON file in a directory that belongs to the user alone, and looks at the others
//! every second. Files of processes that no longer run are removed by whoever sees them.

use std::fs::{self, DirBuilder, File, OpenOptions};
use std::io::{self, Read, Write};
use std::os::unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt};
use std::path::{Path, PathBuf};
use std::time::Duration;

use libp2p::multiaddr::Protocol;
use libp2p::{Multiaddr, PeerId};
use rustix::fs::OFlags;
use rustix::io::Errno;
use rustix::process::{Pid, geteuid, test_kill_process};
use serde::{Deserialize, Serialize};
use tokio::sync::{mpsc, watch};
use tokio::task::{JoinHandle, spawn_blocking};
use tokio::time::{MissedTickBehavior, interval};

/// Environment variable that names the directory.
pub const DIRECTORY_VARIABLE: &str = "SWARMPOOL_RUNTIME_DIR";

const POLL_INTERVAL: Duration = Duration::from_secs(1);
const MAX_FILES: usize = 256;
const MAX_FILE: u64 = 16 * 1024;
const MAX_ADDRESSES: usize = 16;

/// Why the directory or the file in it cannot be used.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    #[error("{} must be a directory of this user's own that nobody else may enter ; run chmod 700 on it, or name another with {DIRECTORY_VARIABLE}", .0.display())]
    NotPrivate(PathBuf),
    #[error("{}: {source}", path.display())]
    Io { path: PathBuf, source: io::Error },
}

/// What a node says about itself to others on its machine.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Entry {
    pub pool: String,
    pub peer_id: String,
    pub role: String,
    pub pid: i32,
    pub addresses: Vec<String>,
}

/// `$SWARMPOOL_RUNTIME_DIR`, else `$XDG_RUNTIME_DIR/swarmpool`, else `/tmp/swarmpool-<uid>`.
pub fn runtime_directory() -> PathBuf {
    let variable = |name| std::env::var_os(name).filter(|v| !v.is_empty()).map(PathBuf::from);
    variable(DIRECTORY_VARIABLE)
        .or_else(|| variable("XDG_RUNTIME_DIR").map(|d| d.join("swarmpool")))
        .unwrap_or_else(|| PathBuf::from(format!("/tmp/swarmpool-{}", geteuid().as_raw())))
}

/// The nodes of a pool that run on this machine, with the loopback first among their addresses. A
/// directory that does not exist holds none.
pub fn scan(directory: &Path, pool: &str) -> Result<Vec<Entry>, Error> {
    match check_private(directory) {
        Err(Error::Io { source, .. }) if source.kind() == io::ErrorKind::NotFound => {
            return Ok(Vec::new());
        }
        checked => checked?,
    }
    let files = fs::read_dir(directory).map_err(|source| io_error(directory, source))?;
    let mut entries: Vec<Entry> = files
        .filter_map(|file| Some(file.ok()?.path()))
        .filter(|path| path.extension().is_some_and(|e| e == "json"))
        .take(MAX_FILES)
        .filter_map(|path| live_entry(&path))
        .filter(|entry| entry.pool == pool)
        .collect();
    entries.sort_by(|a, b| a.peer_id.cmp(&b.peer_id));
    Ok(entries)
}

fn live_entry(path: &Path) -> Option<Entry> {
    let mut entry = read(path)?;
    if !is_running(entry.pid) {
        // Another node may have removed it first.
        let _ = fs::remove_file(path);
        return None;
    }
    entry.addresses.truncate(MAX_ADDRESSES);
    Some(entry)
}

fn read(path: &Path) -> Option<Entry> {
    let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK;
    let file = OpenOptions::new().read(true).custom_flags(flags.bits().cast_signed()).open(path).ok()?;
    let metadata = file.metadata().ok()?;
    if !metadata.is_file() || metadata.uid() != geteuid().as_raw() || metadata.len() > MAX_FILE {
        return None;
    }
    let mut text = String::new();
    file.take(MAX_FILE).read_to_string(&mut text).ok()?;
    serde_json::from_str(&text).ok()
}

fn is_running(pid: i32) -> bool {
    match Pid::from_raw(pid).filter(|_| pid > 0) {
        Some(pid) => matches!(test_kill_process(pid), Ok(()) | Err(Errno::PERM)),
        None => false,
    }
}

fn create_private(directory: &Path) -> Result<(), Error> {
    DirBuilder::new()
        .recursive(true)
        .mode(0o700)
        .create(directory)
        .map_err(|source| io_error(directory, source))?;
    check_private(directory)
}

fn check_private(directory: &Path) -> Result<(), Error> {
    let metadata = fs::symlink_metadata(directory).map_err(|source| io_error(directory, source))?;
    if !metadata.is_dir() || metadata.uid() != geteuid().as_raw() || metadata.mode() & 0o077 != 0 {
        return Err(Error::NotPrivate(directory.to_owned()));
    }
    Ok(())
}

fn io_error(path: &Path, source: io::Error) -> Error {
    Error::Io { path: path.to_owned(), source }
}

fn write(path: &Path, entry: &Entry) -> Result<(), Error> {
    let temporary = path.with_extension("tmp");
    let written = || -> io::Result<()> {
        match fs::remove_file(&temporary) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            Ok(()) | Err(_) => {}
        }
        let mut file: File = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temporary)?;
        file.write_all(&serde_json::to_vec(entry)?)?;
        fs::rename(&temporary, path)
    };
    written().map_err(|source| io_error(path, source))
}

pub(super) type Found = Vec<(PeerId, Vec<Multiaddr>)>;

/// Keeps this node's file and reports the others'.
#[derive(Debug)]
pub(super) struct Watcher {
    own: watch::Sender<Vec<Multiaddr>>,
    task: JoinHandle<()>,
}

impl Watcher {
    pub(super) fn spawn(
        directory: &Path,
        pool: &str,
        role: &str,
        peer: PeerId,
    ) -> Result<(Self, mpsc::Receiver<Found>), Error> {
        create_private(directory)?;
        let (own, addresses) = watch::channel(Vec::new());
        let (sender, found) = mpsc::channel(1);
        let pid = std::process::id().cast_signed();
        // A process may hold several nodes, hence the peer id.
        let peer_id = peer.to_base58();
        let name = format!("{pool}-{pid}-{}.json", &peer_id[peer_id.len() - 8..]);
        let entry =
            Entry { pool: pool.to_owned(), peer_id, role: role.to_owned(), pid, addresses: Vec::new() };
        let task = tokio::spawn(watch_files(directory.join(name), entry, addresses, sender));
        Ok((Self { own, task }, found))
    }

    pub(super) fn set_addresses(&self, addresses: Vec<Multiaddr>) {
        self.own.send_if_modified(|own| {
            let changed = *own != addresses;
            *own = addresses;
            changed
        });
    }

    /// Removes the file and ends.
    pub(super) async fn close(self) {
        drop(self.own);
        // It can only fail by a panic, which has been reported.
        let _ = self.task.await;
    }
}

async fn watch_files(
    path: PathBuf,
    mut entry: Entry,
    mut own: watch::Receiver<Vec<Multiaddr>>,
    sender: mpsc::Sender<Found>,
) {
    let mut poll = interval(POLL_INTERVAL);
    poll.set_missed_tick_behavior(MissedTickBehavior::Delay);
    let mut reported = Found::new();
    loop {
        let changed = tokio::select! {
            changed = own.changed() => match changed {
                Ok(()) => true,
                Err(_) => break,
            },
            _ = poll.tick() => false,
        };
        entry.addresses = own.borrow_and_update().iter().map(Multiaddr::to_string).collect();
        let (file, current) = (path.clone(), entry.clone());
        let looked = spawn_blocking(move || keep_and_scan(&file, &current, changed)).await;
        match looked {
            Ok(Ok(found)) if found != reported => {
                if sender.try_send(found.clone()).is_ok() {
                    reported = found;
                }
            }
            Ok(Ok(_)) => {}
            Ok(Err(error)) => tracing::warn!(%error, "nodes on this machine cannot be found"),
            Err(_) => break,
        }
    }
    // Nothing is left to do if it is gone already.
    let _ = fs::remove_file(&path);
}

fn keep_and_scan(path: &Path, entry: &Entry, changed: bool) -> Result<Found, Error> {
    // Somebody who does not see our process, in a container say, may have taken the file for stale.
    if !entry.addresses.is_empty()
        && (changed || !path.exists())
        && let Err(error) = write(path, entry)
    {
        tracing::warn!(%error, "other nodes on this machine cannot find this one");
    }
    let directory = path.parent().unwrap_or(Path::new("."));
    let others = scan(directory, &entry.pool)?.into_iter().filter(|e| e.peer_id != entry.peer_id);
    Ok(others.filter_map(|e| parse(&e)).collect())
}

fn parse(entry: &Entry) -> Option<(PeerId, Vec<Multiaddr>)> {
    let peer = entry.peer_id.parse().ok()?;
    let mut addresses: Vec<Multiaddr> = entry.addresses.iter().filter_map(|a| a.parse().ok()).collect();
    addresses.sort_by_key(|a| (!is_loopback(a), a.iter().any(|p| matches!(p, Protocol::Udp(_)))));
    Some((peer, addresses)).filter(|(_, addresses)| !addresses.is_empty())
}

fn is_loopback(address: &Multiaddr) -> bool {
    match address.iter().next() {
        Some(Protocol::Ip4(ip)) => ip.is_loopback(),
        Some(Protocol::Ip6(ip)) => ip.is_loopback(),
        _ => false,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use std::os::unix::fs::{PermissionsExt, symlink};

    fn entry(pid: i32) -> Entry {
        Entry {
            pool: "test.eth".to_owned(),
            peer_id: PeerId::random().to_base58(),
            role: "miner".to_owned(),
            pid,
            addresses: vec!["/ip4/10.0.0.1/tcp/1".to_owned(), "/ip4/127.0.0.1/tcp/1".to_owned()],
        }
    }

    fn own_pid() -> i32 {
        std::process::id().cast_signed()
    }

    #[test]
    fn entries_of_live_processes_of_the_pool_are_found_and_stale_ones_removed() {
        let directory = tempfile::tempdir().unwrap();
        fs::set_permissions(directory.path(), fs::Permissions::from_mode(0o700)).unwrap();
        let live = entry(own_pid());
        write(&directory.path().join("live.json"), &live).unwrap();
        write(&directory.path().join("other.json"), &Entry { pool: "other".into(), ..entry(own_pid()) })
            .unwrap();
        // Above the largest pid that Linux gives out.
        let stale = directory.path().join("stale.json");
        write(&stale, &entry(i32::MAX)).unwrap();
        fs::write(directory.path().join("torn.json"), b"{").unwrap();
        symlink(directory.path().join("live.json"), directory.path().join("link.json")).unwrap();

        assert_eq!(scan(directory.path(), "test.eth").unwrap(), [live]);
        assert!(!stale.exists());
    }

    #[test]
    fn a_directory_that_others_may_enter_or_a_link_to_one_is_refused() {
        let parent = tempfile::tempdir().unwrap();
        let open = parent.path().join("open");
        fs::create_dir(&open).unwrap();
        fs::set_permissions(&open, fs::Permissions::from_mode(0o755)).unwrap();
        assert!(matches!(create_private(&open), Err(Error::NotPrivate(_))));

        let private = parent.path().join("private");
        create_private(&private).unwrap();
        assert_eq!(fs::metadata(&private).unwrap().mode() & 0o777, 0o700);
        let link = parent.path().join("link");
        symlink(&private, &link).unwrap();
        assert!(matches!(create_private(&link), Err(Error::NotPrivate(_))));
        assert!(matches!(scan(&link, "test.eth"), Err(Error::NotPrivate(_))));
        assert!(scan(&parent.path().join("none"), "test.eth").unwrap().is_empty());
    }

    #[test]
    fn the_loopback_is_dialled_first() {
        let (_, addresses) = parse(&entry(own_pid())).unwrap();
        assert!(is_loopback(&addresses[0]) && !is_loopback(&addresses[1]));
    }
}
