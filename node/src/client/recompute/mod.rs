//! Everything that a pool has sealed, read from its first record on: `protocol::pool::verify` decides what holds, this
//! brings what it decides on.

mod ahead;
mod source;

pub(super) use source::Source;

use super::Session;
use super::checks::{Check, Found, no, open, yes};
use crate::cli::{SealedArgs, UserError};
use crate::home::home_root;
use crate::storage::pins::{KNOWN_OPERATORS_FILE, known_operator};
use ahead::Workers;
use anyhow::{Result, anyhow};
use futures::stream::{self, StreamExt, TryStreamExt};
use source::Saving;
use std::path::Path;
use swarm_crypto::address::{Address, PoolId};
use swarm_protocol::codec::{self, Link};
use swarm_protocol::pool::EpochHeader;
use swarm_protocol::pool::verify::{Fault, Verifier};
use swarm_protocol::query::{Answer, Query};
use swarm_protocol::statement::{Body, EpochSealed, Intake, Signed, Statement};

/// Headers walked back at most: ten years of hours.
pub(super) const MAX_WALK: u64 = 100_000;
/// Blocks that are asked for at once.
pub(super) const AT_ONCE: usize = 8;

/// Why a reading ended before its time.
pub(super) enum Stop {
    /// The records do not hold.
    Fault(Fault),
    /// Something else does not.
    Wrong(&'static str, String),
    /// Something could not be had.
    Missing(anyhow::Error),
    Interrupted,
}

impl Stop {
    /// What a command that wanted to know something else says of it.
    pub fn into_error(self) -> UserError {
        match self {
            Stop::Fault(fault) => UserError::input(format!("the pool's records do not hold: {fault}"))
                .hint("swarm-client verify --save keeps them: they are evidence"),
            Stop::Wrong(_, what) => UserError::input(what).hint("swarm-client verify says more"),
            Stop::Missing(error) => {
                UserError::input(format!("not all of the pool's records could be had: {error}"))
                    .hint("try again, or with an archive of them (--car)")
            }
            Stop::Interrupted => UserError::input("interrupted before all was read").hint("run it again"),
        }
    }
}

/// A header and its block.
pub(super) type Sealed = (EpochHeader, Vec<u8>);

/// What a pool has sealed, found.
pub(super) struct Recomputation {
    source: Source,
    /// The newest header at hand.
    pub newest: Link,
    /// Whether its operator signed that.
    pub sealed: Check,
}

/// Finds the newest header, in an archive or at the operator. `asked` is what the caller was asked about.
pub(super) async fn begin(
    session: &Session,
    args: &SealedArgs,
    asked: Option<Link>,
) -> Result<Recomputation> {
    const WHAT: &str = "sealed";
    if let Some(path) = &args.car {
        let source = Source::archive(path)?;
        let (newest, signed) = archived(&source, path, asked).await?;
        let check = match signed {
            None => unsigned(WHAT, &newest, asked.as_ref()),
            Some((signed, sealed, by)) if sealed.header == newest => seal(session, &signed, &sealed, by)?,
            Some((_, sealed, _)) => no(WHAT, format!("the archive's signature is over {}", sealed.header)),
        };
        return Ok(Recomputation { source, newest, sealed: check });
    }
    let connection = Box::new(session.connect().await?);
    let Some(Answer::Sealed(sealed)) = connection.link.ask(Query::Sealed).await else {
        connection.link.network().shutdown().await;
        return Err(super::no_answer());
    };
    let newest = sealed.map(|signed| {
        connection.link.check(&signed)?;
        match Statement::decode(&signed.payload)? {
            Statement { header, body: Body::EpochSealed(newest) } => Ok((signed, newest, header.by)),
            _ => Err(anyhow!("the operator sent no sealed epoch")),
        }
    });
    let Some((signed, newest, by)) = newest.transpose()? else {
        connection.link.network().shutdown().await;
        return Err(match asked {
            None => UserError::input("no epoch is sealed yet").hint("wait for the first one").into(),
            Some(link) => no_receipt(&link),
        });
    };
    let saving = args.save.as_ref().map(|path| Saving::begin(path, newest.header, &signed));
    let source = Source::Network(connection, saving.transpose()?.map(std::sync::Mutex::new));
    let sealed = seal(session, &signed, &newest, by)?;
    Ok(Recomputation { source, newest: newest.header, sealed })
}

impl Recomputation {
    /// Where blocks come from.
    pub fn source(&self) -> &Source {
        &self.source
    }

    /// Every header from the first on to the one asked for.
    pub async fn headers(&self, session: &Session, asked: Link) -> Result<Vec<Sealed>, Stop> {
        let (mut headers, mut next, mut found) = (Vec::new(), Some(self.newest), false);
        while let Some(link) = next {
            found |= link == asked;
            let block = self.source.block(&link.cid()).await.map_err(Stop::Missing)?;
            let Ok(header) = codec::decode::<EpochHeader>(&block) else {
                return Err(Stop::Wrong("chain", format!("{link} is not the header of an epoch")));
            };
            if header.epoch >= MAX_WALK || headers.len() as u64 > MAX_WALK {
                return Err(Stop::Wrong("chain", format!("more than {MAX_WALK} epochs are not read")));
            }
            next = header.previous;
            session.printer.stage(format!("reading headers, epoch {}", header.epoch));
            if found {
                headers.push((header, block));
            }
        }
        headers.reverse();
        match found {
            true => Ok(headers),
            false => Err(Stop::Wrong(
                "chain",
                format!("{asked} is not among the headers that the operator signed"),
            )),
        }
    }

    /// Reads all records of these epochs. `each` is called after every page, and once more when its epoch holds.
    pub async fn read(
        &self,
        session: &Session,
        headers: &[Sealed],
        verifier: &mut Verifier,
        mut each: impl AsyncFnMut(&mut Verifier, &EpochHeader, bool) -> Result<(), Stop>,
    ) -> Result<(), Stop> {
        let workers = Workers::default();
        for (header, block) in headers {
            session.printer.stage(format!("recomputing epoch {} of {}", header.epoch, headers.len() - 1));
            verifier.begin(block).map_err(Stop::Fault)?;
            let pages = stream::iter(&header.record_pages).map(|page| {
                let (cid, workers) = (page.cid(), &workers);
                async move { workers.prove(self.source.block(&cid).await?).await }
            });
            let mut pages = pages.buffered(AT_ONCE);
            while let Some((page, proven)) = pages.try_next().await.map_err(Stop::Missing)? {
                if session.stop.is_cancelled() {
                    return Err(Stop::Interrupted);
                }
                verifier.page_with(&page, proven).map_err(Stop::Fault)?;
                each(verifier, header, false).await?;
            }
            verifier.finish().map_err(Stop::Fault)?;
            each(verifier, header, true).await?;
        }
        Ok(())
    }

    /// Leaves the network; what was to be saved gets its name.
    pub async fn close(self, session: &Session) -> Result<()> {
        if let Some(path) = self.source.close().await? {
            session.printer.note(&format!("what was checked is in {}", path.display()));
        }
        Ok(())
    }
}

fn no_receipt(link: &Link) -> anyhow::Error {
    UserError::input(format!("no receipt of {link} is kept here, and no sealed epoch has that header"))
        .hint(format!("get a receipt with swarm-client wait {link}"))
        .into()
}

/// Whether the operator has signed an epoch's header.
fn seal(session: &Session, signed: &Signed, sealed: &EpochSealed, by: Address) -> Result<Check> {
    let found = match signature(session, signed, by)?.found {
        Found::True(text) => Found::True(format!("epoch {}, {}, {text}", sealed.epoch, sealed.header)),
        other => other,
    };
    Ok(Check { what: "sealed", found })
}

/// What a header without its operator's signature is worth: whoever was given its CID may trust that, nobody else.
fn unsigned(what: &'static str, newest: &Link, asked: Option<&Link>) -> Check {
    let text = format!("{newest}; the archive holds no signature of an operator over it");
    match asked {
        Some(_) => open(what, text),
        None => no(what, format!("{text}, and nobody named a header whose CID they trust")),
    }
}

type SignedSeal = (Signed, EpochSealed, Address);

/// The header that an archive is about, and what an operator signed of it.
async fn archived(source: &Source, path: &Path, asked: Option<Link>) -> Result<(Link, Option<SignedSeal>)> {
    let Source::Archive(archive, _) = source else { return Err(anyhow!("an archive was opened")) };
    let link = |cid: &cid::Cid| cid.to_string().parse::<Link>().ok();
    let first = archive.roots().first().and_then(link).or(asked);
    let newest = first.ok_or_else(|| {
        UserError::input(format!("{} does not say which epoch it is about", path.display()))
            .hint("name the CID of an epoch's header")
    })?;
    let mut signed = None;
    for root in archive.roots().iter().skip(1) {
        let Some(block) = archive.block(root)? else {
            let text = format!("{}: {root} is one of its roots and not in it", path.display());
            return Err(UserError::input(text).hint("somebody has changed it: get it again").into());
        };
        let Ok(snapshot) = Signed::decode(&block) else { continue };
        if let Ok(Statement { header, body: Body::EpochSealed(sealed) }) =
            Statement::decode(&snapshot.payload)
        {
            signed = Some((snapshot, sealed, header.by));
        }
    }
    Ok((newest, signed))
}

/// Whether the operator who is known here has signed a statement.
pub(super) fn signature(session: &Session, signed: &Signed, operator: Address) -> Result<Check> {
    const WHAT: &str = "signature";
    let name = &session.args.pool.pool;
    let known = match session.args.pool.operator {
        Some(address) => Some(address.to_string()),
        None => known_operator(&home_root(&session.args.files)?.join(KNOWN_OPERATORS_FILE), name)?,
    };
    let Some(known) = known else {
        let text = format!(
            "signed by {operator}, but no operator of {name} is known here; name one with --operator"
        );
        return Ok(no(WHAT, text));
    };
    if !known.eq_ignore_ascii_case(&operator.to_string()) {
        return Ok(no(WHAT, format!("signed by {operator}, the operator of {name} is {known}")));
    }
    let pool = PoolId::derive(name, operator, 0, Address::ZERO);
    let mut intake = Intake::new(pool, operator);
    let now = session.clock.now();
    // A signature does not age: what is too old to be taken was signed all the same.
    let at = Statement::decode(&signed.payload).map_or(now, |statement| statement.header.at.min(now));
    Ok(match intake.verify(None, &signed.encode(), at) {
        Ok(_) => yes(WHAT, format!("by the operator of {name}, {operator}")),
        Err(rejection) => no(WHAT, rejection.to_string()),
    })
}
