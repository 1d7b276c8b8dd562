//! Content by its CID, from whoever in the pool has it.

use super::partial::{Partial, unwritable};
use super::{Connection, Session};
use crate::cli::{Exit, GetArgs, UserError};
use crate::content::car::CarWriter;
use crate::content::{
    Listing, MAX_FOREIGN_LINKS, Reader, Resolver, UnixFsError, Walk, WalkError, decode_folder, read_ahead,
};
use crate::network::{MAX_BLOCK, Until};
use anyhow::Result;
use cid::Cid;
use futures::stream::{FuturesOrdered, StreamExt};
use serde_json::json;
use std::fs::File;
use std::io::{BufWriter, IntoInnerError, Write};
use std::path::PathBuf;
use std::time::Duration;
use swarm_protocol::codec;

/// For each block; the operator may be starting again.
const FETCH_TIMEOUT: Duration = Duration::from_secs(30);
const MIB: u64 = 1 << 20;
const DAG_PB: u64 = 0x70;
const DAG_CBOR: u64 = 0x71;
/// Blocks of a walk that are asked for at once.
const MAX_AT_ONCE: usize = 16;

/// Where fetched blocks go.
enum Sink {
    /// The bytes of the file, to a pipe or a device.
    Stream(Box<dyn Write + Send>),
    /// The bytes of the file, to a file.
    File(BufWriter<File>),
    /// The blocks.
    Archive(CarWriter<BufWriter<File>>),
}

/// Where content is to go, before it is known what it is.
enum Target {
    Stream,
    File(BufWriter<File>),
    Archive(BufWriter<File>, PathBuf),
}

impl Target {
    fn begin(self, root: &Cid) -> Result<Sink, UserError> {
        Ok(match self {
            Target::Stream => Sink::Stream(Box::new(std::io::stdout())),
            Target::File(out) => Sink::File(out),
            Target::Archive(out, path) => {
                Sink::Archive(CarWriter::new(out, &[*root]).map_err(|error| unwritable(&path, &error))?)
            }
        })
    }
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

pub(super) async fn content(session: Session, args: &GetArgs) -> Result<Exit> {
    let (target, partial) = open(args)?;
    let connection = session.connect().await?;
    let fetched = fetch(&session, &connection, args, target).await;
    connection.link.network().shutdown().await;
    session.printer.finish();
    let bytes = fetched?;
    if let Some(partial) = partial {
        let target = partial.keep()?;
        session.printer.note(&format!("{bytes} bytes of {} are in {}", args.content, target.display()));
    }
    Ok(Exit::Done)
}

fn open(args: &GetArgs) -> Result<(Target, Option<Partial>), UserError> {
    let Some(target) = args.car.as_ref().or(args.out.as_ref()) else {
        return Ok((Target::Stream, None));
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
    let target = match &args.car {
        None => Target::File(out),
        Some(path) => Target::Archive(out, path.clone()),
    };
    Ok((target, partial))
}

/// Fetches what lies at the path; says how many bytes it has.
async fn fetch(session: &Session, connection: &Connection, args: &GetArgs, target: Target) -> Result<u64> {
    let max_bytes = u64::from(args.max_mib) * MIB;
    let mut resolver = Resolver::new(args.content.root, args.content.path.iter().cloned());
    while let Some(cid) = resolver.wanted() {
        let block = block(session, connection, &cid).await?;
        resolver.supply(&block).map_err(|error| {
            UserError::input(error.to_string()).hint("list what is there: leave the last name out")
        })?;
    }
    let root = resolver.at();
    let is_folder = root.codec() == DAG_PB
        && decode_folder(&block(session, connection, &root).await?, MAX_FOREIGN_LINKS).is_ok();
    let sink = target.begin(&root)?;
    match (&args.car, is_folder) {
        (Some(_), true) => walk(session, connection, root, max_bytes, sink).await,
        (Some(_), false) if root.codec() == DAG_CBOR => {
            walk(session, connection, root, max_bytes, sink).await
        }
        (None, true) => list(session, connection, root, sink).await,
        (_, false) if root.codec() == DAG_CBOR => one(session, connection, root, sink).await,
        (_, false) => file(session, connection, root, max_bytes, sink).await,
    }
}

/// Fetches a file block after block.
async fn file(
    session: &Session,
    connection: &Connection,
    root: Cid,
    max_bytes: u64,
    mut sink: Sink,
) -> Result<u64> {
    let fetch = |cid| async move { block(session, connection, &cid).await };
    let mut so_far = 0;
    let take = |cid: &Cid, block: &[u8], content: &[u8]| {
        sink.take(cid, block, content)?;
        so_far += content.len() as u64;
        session.printer.stage(format!("{} MiB fetched", so_far / MIB));
        Ok(())
    };
    let total = read_ahead(Reader::at_most(root, max_bytes)?, fetch, take).await;
    let total = total.map_err(|error| match error.downcast::<UnixFsError>() {
        Ok(error) => unreadable(&root, &error).into(),
        Err(error) => error,
    })?;
    sink.finish()?;
    Ok(total)
}

/// Fetches all blocks below a root, some at once; the archive has them in the order in which they were asked for.
async fn walk(
    session: &Session,
    connection: &Connection,
    root: Cid,
    max_bytes: u64,
    mut sink: Sink,
) -> Result<u64> {
    let (mut walk, mut total, mut count) = (Walk::new(root, max_bytes), 0, 0u64);
    let mut coming = FuturesOrdered::new();
    loop {
        while coming.len() < MAX_AT_ONCE
            && let Some(cid) = walk.wanted()
        {
            coming.push_back(async move { block(session, connection, &cid).await.map(|block| (cid, block)) });
        }
        let Some(came) = coming.next().await else { break };
        let (cid, block) = came?;
        walk.supply(&cid, &block).map_err(|error| {
            let told = UserError::input(error.to_string());
            match error {
                WalkError::TooLong(_) => told.hint("allow more with --max-mib"),
                _ => told.hint("whoever made it made it wrong; ask them"),
            }
        })?;
        sink.take(&cid, &block, &block)?;
        (total, count) = (total + block.len() as u64, count + 1);
        session.printer.stage(format!("{count} blocks fetched"));
    }
    sink.finish()?;
    Ok(total)
}

/// Lists a folder: a line for each name, or one JSON object.
async fn list(session: &Session, connection: &Connection, folder: Cid, mut sink: Sink) -> Result<u64> {
    let (mut listing, mut names) = (Listing::new(folder), Vec::new());
    while let Some(cid) = listing.wanted() {
        let block = block(session, connection, &cid).await?;
        names.extend(listing.supply(&block).map_err(|error| unreadable(&folder, &error))?);
    }
    names.sort();
    let text = match session.printer.is_json() {
        true => {
            let names: serde_json::Map<_, _> =
                names.into_iter().map(|(name, cid)| (name, json!({ "/": cid.to_string() }))).collect();
            format!("{}\n", serde_json::Value::Object(names))
        }
        false => names.iter().map(|(name, cid)| format!("{cid} {name}\n")).collect(),
    };
    sink.take(&folder, text.as_bytes(), text.as_bytes())?;
    sink.finish()?;
    Ok(text.len() as u64)
}

/// Fetches one block: as it is, or as DAG-JSON.
async fn one(session: &Session, connection: &Connection, cid: Cid, mut sink: Sink) -> Result<u64> {
    let block = block(session, connection, &cid).await?;
    let content = match session.printer.is_json() {
        true => format!("{}\n", codec::to_dag_json(&block).map_err(anyhow::Error::new)?).into_bytes(),
        false => block,
    };
    sink.take(&cid, &content, &content)?;
    sink.finish()?;
    Ok(content.len() as u64)
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
