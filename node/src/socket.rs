//! Sockets by which a running node answers its owner: each in the node's own folder, of mode 0600.

use crate::storage::home::DataDir;
use std::fs::{File, Permissions};
use std::io::{Error, ErrorKind};
use std::os::fd::AsRawFd;
use std::os::unix::fs::PermissionsExt;
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::net::{UnixListener, UnixStream};
use tokio::task::JoinHandle;

/// The longest path that a socket's address holds, with room to spare.
const MAX_PATH: usize = 100;
/// How long a listener waits when no descriptor is free, most likely; there will be one.
const FULL_PAUSE: Duration = Duration::from_secs(1);

/// Answers whoever connects, one after the other, until it is dropped.
#[derive(Debug)]
pub struct Answering {
    task: JoinHandle<()>,
    path: PathBuf,
}

impl Drop for Answering {
    fn drop(&mut self) {
        self.task.abort();
        // Another may have removed it; nobody listens any more either way.
        let _ = std::fs::remove_file(&self.path);
    }
}

/// Begins to answer; the folder is this process's own. A node that cannot be asked works all the same, and the log says
/// which command will not.
pub fn answer<F>(
    directory: &DataDir,
    file: &str,
    command: &str,
    mut each: impl FnMut(UnixStream) -> F + Send + 'static,
) -> Option<Answering>
where
    F: Future<Output = ()> + Send,
{
    let path = directory.file(file);
    let listener = bind(&path)
        .inspect_err(|error| {
            tracing::warn!("swarm-node {command} will not work: {}: {error}", path.display())
        })
        .ok()?;
    let task = tokio::spawn(async move {
        loop {
            match listener.accept().await {
                Ok((asker, _)) => each(asker).await,
                Err(_) => tokio::time::sleep(FULL_PAUSE).await,
            }
        }
    });
    Some(Answering { task, path })
}

fn bind(path: &Path) -> std::io::Result<UnixListener> {
    match std::fs::remove_file(path) {
        Err(error) if error.kind() != ErrorKind::NotFound => return Err(error),
        _ => {}
    }
    let (address, _folder) = reachable(path)?;
    let listener = UnixListener::bind(address)?;
    std::fs::set_permissions(path, Permissions::from_mode(0o600))?;
    Ok(listener)
}

/// Connects to a node's socket.
pub async fn connect(path: &Path) -> std::io::Result<UnixStream> {
    let (address, _folder) = reachable(path)?;
    UnixStream::connect(address).await
}

/// A path that fits into a socket's address; it leads there for as long as the file is open.
fn reachable(path: &Path) -> std::io::Result<(PathBuf, Option<File>)> {
    if path.as_os_str().len() <= MAX_PATH {
        return Ok((path.to_owned(), None));
    }
    let folder = File::open(path.parent().ok_or(Error::from(ErrorKind::NotFound))?)?;
    let short = PathBuf::from(format!("/proc/self/fd/{}", folder.as_raw_fd()))
        .join(path.file_name().unwrap_or_default());
    Ok((short, Some(folder)))
}
