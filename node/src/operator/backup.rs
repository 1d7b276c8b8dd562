//! A copy of a running operator's folder: of its ledger at one moment, and of all content that the ledger names then.

use crate::cli::{Exit, NodeArgs, UserError};
use crate::home::home_root;
use crate::socket::{self, Answering};
use crate::storage::blocks::BlockStore;
use crate::storage::crash::crash_point;
use crate::storage::disk::write_atomic;
use crate::storage::high_water::{Mark, RecordMark};
use crate::storage::home::DataDir;
use crate::storage::sequencer::LedgerWriter;
use anyhow::{Context, Result, anyhow, bail};
use std::fs::{DirBuilder, File};
use std::os::unix::fs::DirBuilderExt;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use std::time::Duration;
use tokio::io::{AsyncBufReadExt, AsyncReadExt, AsyncWriteExt, BufReader};
use tokio::net::UnixStream;
use tokio::time::timeout;

/// The socket, in the operator's folder.
const SOCKET_FILE: &str = "backup.sock";
/// The longest path of a folder.
const MAX_PATH_BYTES: u64 = 4096;
/// How soon whoever connects must say which folder it wants.
const ASK_TIMEOUT: Duration = Duration::from_secs(5);
/// What is copied as it is; the rest is taken from the databases.
const FILES: [&str; 3] = ["key", "pool.secret", "peer.key"];

/// What a copy is made of.
#[derive(Clone)]
struct Source {
    folder: PathBuf,
    writer: LedgerWriter,
    blocks: Arc<BlockStore>,
}

/// Begins to make copies for whoever asks.
pub(super) fn serve(
    directory: &DataDir,
    writer: &LedgerWriter,
    blocks: &Arc<BlockStore>,
) -> Option<Answering> {
    let folder = directory.path().to_owned();
    let source = Source { folder, writer: writer.clone(), blocks: blocks.clone() };
    socket::answer(directory, SOCKET_FILE, "backup", move |asker| answer(asker, source.clone()))
}

async fn answer(asker: UnixStream, source: Source) {
    let (from, mut to) = asker.into_split();
    let mut line = String::new();
    let asked = timeout(ASK_TIMEOUT, BufReader::new(from.take(MAX_PATH_BYTES)).read_line(&mut line)).await;
    let Ok(Ok(_)) = asked else { return };
    let told = match source.copy(Path::new(line.trim_end_matches('\n'))).await {
        Ok(records) => format!("ok {records}\n"),
        Err(error) => format!("error {error:#}\n"),
    };
    // Whoever asked may have gone.
    let _ = to.write_all(told.as_bytes()).await;
}

impl Source {
    /// Copies everything to a folder that is not there yet; it appears when it is whole. Says how many records it has.
    async fn copy(&self, target: &Path) -> Result<u64> {
        if target.exists() {
            bail!("{} is there already", target.display());
        }
        let partial = target.with_file_name(format!(
            ".{}.partial",
            target.file_name().context("the folder has no name")?.to_string_lossy()
        ));
        // The ledger first: what it names is in the store by then.
        let (ledger, next_seq, head) = self.writer.snapshot().await?.context("this ledger is in no file")?;
        let blocks = self.blocks.snapshot()?;
        let (source, target) = (self.clone(), target.to_owned());
        let copied = tokio::task::spawn_blocking(move || -> Result<u64> {
            if partial.exists() {
                std::fs::remove_dir_all(&partial)?;
            }
            DirBuilder::new().mode(0o700).create(&partial)?;
            for name in FILES {
                if let Ok(bytes) = std::fs::read(source.folder.join(name)) {
                    write_atomic(&partial.join(name), &bytes)?;
                }
            }
            ledger.write(&partial.join(super::LEDGER_FILE))?;
            crash_point("mid-backup");
            blocks.write(&partial.join("blocks.redb"))?;
            if let Some(seq) = next_seq.checked_sub(1) {
                let mark = Mark { record: Some(RecordMark { seq, hash: head }), header: None };
                write_atomic(&partial.join("high_water"), &serde_json::to_vec_pretty(&mark)?)?;
            }
            File::open(&partial)?.sync_all()?;
            std::fs::rename(&partial, &target)?;
            if let Some(parent) = target.parent() {
                File::open(parent)?.sync_all()?;
            }
            Ok(next_seq)
        });
        copied.await.context("the copy broke off")?
    }
}

/// Asks the operator that runs here for a copy.
pub async fn ask(args: &NodeArgs, target: &Path) -> Result<Exit> {
    let target = std::path::absolute(target)?;
    let folder = match args.data_name() {
        Some(name) => format!("operator-{name}"),
        None => "operator".to_owned(),
    };
    let path = home_root(&args.files)?.join(&args.pool.pool).join(folder).join(SOCKET_FILE);
    let mut stream = socket::connect(&path).await.map_err(|_| {
        UserError::misuse(format!("no operator of {} runs here", args.pool.pool))
            .hint("start it, or copy the folder of one that is stopped")
    })?;
    let line = format!("{}\n", target.to_str().context("the folder's name is not text")?);
    stream.write_all(line.as_bytes()).await?;
    let mut told = String::new();
    stream.read_to_string(&mut told).await?;
    match told.trim_end().split_once(' ') {
        Some(("ok", records)) => {
            eprintln!("{} holds {records} records, and the content that they name", target.display());
            Ok(Exit::Done)
        }
        Some(("error", why)) => {
            Err(UserError::input(format!("no backup was made: {why}")).hint("choose another folder").into())
        }
        _ => Err(anyhow!("the operator ended before the backup was whole; start it and try again")),
    }
}
