//! Content by its CID, from whoever in the pool has it.

use super::{Connection, Session};
use crate::cli::{Exit, GetArgs, UserError};
use crate::content::car::CarWriter;
use crate::content::{Reader, UnixFsError};
use crate::network::{MAX_BLOCK, Until};
use anyhow::Result;
use cid::Cid;
use std::fs::File;
use std::io::{BufWriter, IntoInnerError, Write};
use std::path::{Path, PathBuf};
use std::time::Duration;

/// For each block; the operator may be starting again.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);
const MIB: u64 = 1 << 20;
const DAG_PB: u64 = 0x70;
const RAW: u64 = 0x55;

/// Where fetched blocks go.
enum Sink {
    /// The bytes of the file, to a pipe or a device.
    Stream(Box<dyn Write + Send>),
    /// The bytes of the file, to a file.
    File(BufWriter<File>),
    /// The blocks.
    Archive(CarWriter<BufWriter<File>>),
}

impl Sink {
    fn take(&mut self, cid: &Cid, block: &[u8], content: &[u8]) -> std::io::Result<()> {
        match self {
            Sink::Stream(out) => out.write_all(content),
            Sink::File(out) => out.write_all(content),
            Sink::Archive(archive) => archive.put(cid, block),
        }
    }

    fn finish(self) -> std::io::Result<()> {
        let out = match self {
            Sink::Stream(mut out) => return out.flush(),
            Sink::File(out) => out,
            Sink::Archive(archive) => archive.finish()?,
        };
        let file = out.into_inner().map_err(IntoInnerError::into_error)?;
        // A pipe or a device has nothing to be made durable.
        if file.metadata()?.is_file() { file.sync_all() } else { Ok(()) }
    }
}

/// A file under a name of its own until it is whole; what is dropped before is gone.
struct Partial {
    path: PathBuf,
    target: PathBuf,
}

impl Partial {
    fn create(target: &Path) -> Result<(Self, File), UserError> {
        let mut number = [0; 8];
        let drawn = getrandom::fill(&mut number).map_err(std::io::Error::other);
        let name = target.file_name().unwrap_or_default().to_string_lossy().into_owned();
        let path = target.with_file_name(format!(".{name}.{}", hex::encode(number)));
        let file =
            drawn.and_then(|()| File::create_new(&path)).map_err(|error| unwritable(target, &error))?;
        Ok((Self { path, target: target.to_owned() }, file))
    }

    fn keep(self) -> Result<(), UserError> {
        std::fs::rename(&self.path, &self.target).map_err(|error| unwritable(&self.target, &error))
    }
}

impl Drop for Partial {
    fn drop(&mut self) {
        // Gone already if it was kept.
        let _ = std::fs::remove_file(&self.path);
    }
}

pub(super) async fn content(session: Session, args: &GetArgs) -> Result<Exit> {
    let (sink, partial) = open(args)?;
    let connection = session.connect().await?;
    let fetched = fetch(&session, &connection, args, sink).await;
    connection.link.network().shutdown().await;
    session.printer.finish();
    let bytes = fetched?;
    if let Some(partial) = partial {
        let target = partial.target.clone();
        partial.keep()?;
        session.printer.note(&format!("{bytes} bytes of {} are in {}", args.cid, target.display()));
    }
    Ok(Exit::Done)
}

fn open(args: &GetArgs) -> Result<(Sink, Option<Partial>), UserError> {
    let Some(target) = args.car.as_ref().or(args.out.as_ref()) else {
        return Ok((Sink::Stream(Box::new(std::io::stdout())), None));
    };
    let there = std::fs::metadata(target);
    let (partial, file) = match &there {
        Ok(there) if there.is_dir() => {
            let error = std::io::Error::from(std::io::ErrorKind::IsADirectory);
            return Err(unwritable(target, &error));
        }
        // A pipe or a device is written to, not replaced.
        Ok(there) if !there.is_file() => {
            (None, File::options().write(true).open(target).map_err(|error| unwritable(target, &error))?)
        }
        _ => Partial::create(target).map(|(partial, file)| (Some(partial), file))?,
    };
    let out = BufWriter::new(file);
    let sink = match &args.car {
        None => Sink::File(out),
        Some(_) => {
            CarWriter::new(out, &[args.cid]).map(Sink::Archive).map_err(|error| unwritable(target, &error))?
        }
    };
    Ok((sink, partial))
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
    let until = Until::within(FETCH_TIMEOUT);
    tokio::select! {
        fetched = connection.link.network().fetch(cid, &from, MAX_BLOCK, until) => fetched.map_err(|error| {
            UserError::input(format!("{cid} was not fetched: {error}"))
                .hint("only what nodes of the pool keep can be had, and for as long as they keep it")
                .into()
        }),
        () = session.stop.cancelled() => {
            Err(UserError::input("interrupted before all of it was there").hint("run it again").into())
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
