//! Content by its CID, from whoever in the pool has it.

use super::{Connection, Session};
use crate::cli::{Exit, GetArgs, UserError};
use crate::content::car::CarWriter;
use crate::content::{Reader, UnixFsError};
use crate::network::MAX_BLOCK;
use anyhow::Result;
use cid::Cid;
use std::fs::File;
use std::io::{BufWriter, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;
use tokio::time::Instant;

/// For each block.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);
const MIB: u64 = 1 << 20;
const DAG_PB: u64 = 0x70;
const RAW: u64 = 0x55;

/// Where fetched blocks go.
enum Sink {
    /// The bytes of the file.
    Content(Box<dyn Write + Send>),
    /// The blocks.
    Archive(CarWriter<BufWriter<File>>),
}

impl Sink {
    fn take(&mut self, cid: &Cid, block: &[u8], content: &[u8]) -> std::io::Result<()> {
        match self {
            Sink::Content(out) => out.write_all(content),
            Sink::Archive(archive) => archive.put(cid, block),
        }
    }

    fn finish(self) -> std::io::Result<()> {
        match self {
            Sink::Content(mut out) => out.flush(),
            Sink::Archive(archive) => {
                archive.finish()?.into_inner().map_err(|error| error.into_error())?.sync_all()
            }
        }
    }
}

pub(super) async fn content(session: Session, args: &GetArgs) -> Result<Exit> {
    let target = args.car.as_ref().or(args.out.as_ref());
    // A name of its own until it is whole.
    let partial = target.map(|path| PathBuf::from(format!("{}.part", path.display())));
    let sink = open(args, partial.as_deref())?;
    let fetched = match session.connect().await {
        Ok(connection) => {
            let fetched = fetch(&session, &connection, args, sink).await;
            connection.link.network().shutdown().await;
            fetched
        }
        Err(error) => Err(error),
    };
    session.printer.finish();
    match (fetched, target, partial) {
        (Ok(bytes), Some(target), Some(partial)) => {
            std::fs::rename(&partial, target).map_err(|error| unwritable(target, &error))?;
            session.printer.note(&format!("{} bytes of {} are in {}", bytes, args.cid, target.display()));
        }
        (Ok(_), ..) => {}
        (Err(error), _, partial) => {
            // Half of it is of no use to anybody.
            partial.map(std::fs::remove_file);
            return Err(error);
        }
    }
    Ok(Exit::Done)
}

fn open(args: &GetArgs, partial: Option<&Path>) -> Result<Sink, UserError> {
    let Some(path) = partial else { return Ok(Sink::Content(Box::new(std::io::stdout()))) };
    let file = File::create(path).map_err(|error| unwritable(path, &error))?;
    let out = BufWriter::new(file);
    match &args.car {
        Some(_) => {
            CarWriter::new(out, &[args.cid]).map(Sink::Archive).map_err(|error| unwritable(path, &error))
        }
        None => Ok(Sink::Content(Box::new(out))),
    }
}

fn unwritable(path: &Path, error: &std::io::Error) -> UserError {
    UserError::misuse(format!("{} cannot be written: {error}", path.display())).hint("choose another file")
}

/// Fetches block after block; says how many bytes the content has.
async fn fetch(session: &Session, connection: &Connection, args: &GetArgs, mut sink: Sink) -> Result<u64> {
    let mut total = 0;
    if !matches!(args.cid.codec(), DAG_PB | RAW) {
        let block = block(session, connection, &args.cid).await?;
        sink.take(&args.cid, &block, &block)?;
        sink.finish()?;
        return Ok(block.len() as u64);
    }
    let mut reader = Reader::at_most(args.cid, u64::from(args.max_mib) * MIB)?;
    while let Some(cid) = reader.wanted() {
        let block = block(session, connection, &cid).await?;
        let content = reader.supply(&block).map_err(|error| unreadable(&args.cid, &error))?;
        sink.take(&cid, &block, content)?;
        total += content.len() as u64;
        session.printer.stage(format!("{} MiB fetched", total / MIB));
    }
    sink.finish()?;
    Ok(total)
}

async fn block(session: &Session, connection: &Connection, cid: &Cid) -> Result<Vec<u8>> {
    let from: Vec<_> = connection.link.peer().into_iter().collect();
    let deadline = Instant::now() + FETCH_TIMEOUT;
    tokio::select! {
        fetched = connection.link.network().fetch(cid, &from, MAX_BLOCK, deadline) => fetched.map_err(|error| {
            UserError::input(format!("{cid} was not fetched: {error}"))
                .hint("only what nodes of the pool keep can be had, and for as long as they keep it")
                .into()
        }),
        () = session.stop.cancelled() => {
            Err(UserError::input("interrupted; nothing was written").hint("run it again").into())
        }
    }
}

fn unreadable(cid: &Cid, error: &UnixFsError) -> UserError {
    let found = UserError::input(format!("{cid} cannot be read: {error}"));
    match error {
        UnixFsError::TooLong(_) => found.hint("allow more with --max-mib"),
        _ => found.hint("whoever made it made it wrong; ask them"),
    }
}
