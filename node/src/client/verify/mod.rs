//! Checking receipts, and whole pools, without trusting the operator's word.

mod checks;
mod quick;
mod source;
mod whole;

use super::output::receipt_of;
use super::saved::{read_answer, read_receipt};
use super::{Connection, Session};
use crate::cli::{Exit, Subject, UserError, VerifyArgs};
use crate::home::home_root;
use crate::storage::pins::{KNOWN_OPERATORS_FILE, known_operator};
use crate::workload::Models;
use anyhow::{Result, anyhow};
use checks::{Check, Found, no, open, report, yes};
use quick::against_epoch;
use source::{Saving, Source};
use std::path::Path;
use swarm_crypto::address::{Address, PoolId};
use swarm_protocol::codec::{self, Link as Cid};
use swarm_protocol::money::FeeSplit;
use swarm_protocol::pool::{HELD_EPOCHS, Leaf};
use swarm_protocol::query::{Answer, Query};
use swarm_protocol::statement::{Body, EpochSealed, Intake, Receipt, Signed, Statement};
use whole::Whole;

/// Sealed epochs whose transcripts an operator still has.
const TRANSCRIPT_EPOCHS: u64 = HELD_EPOCHS;
/// Headers walked back at most: ten years of hours.
const MAX_WALK: u64 = 100_000;

const CHAIN: &str = "chain";
const EPOCH: &str = "epoch";
const RECORDS: &str = "records";

pub(super) async fn verify(session: Session, args: &VerifyArgs) -> Result<Exit> {
    let whole = args.whole || args.car.is_some() || args.save.is_some();
    match &args.subject {
        Some(Subject::File(path)) if whole => whole_pool(session, args, None, Some(path)).await,
        Some(Subject::File(path)) => file(session, path).await,
        Some(Subject::Link(link)) => match session.saved.receipt_path(link)? {
            Some(path) if whole => whole_pool(session, args, None, Some(&path)).await,
            Some(path) => file(session, &path).await,
            None => whole_pool(session, args, Some(*link), None).await,
        },
        None => whole_pool(session, args, None, None).await,
    }
}

/// A receipt from a file, and what can be said of it without the pool.
struct Kept {
    receipt: Receipt,
    checks: Vec<Check>,
}

fn read(session: &Session, path: &Path) -> Result<Kept> {
    let (signed, differs) = read_receipt(path)?;
    let Some((receipt, operator)) = receipt_of(&signed) else {
        let error = UserError::input(format!("{} holds a statement, but no receipt", path.display()));
        return Err(error.hint("give verify the file that submit named").into());
    };
    let mut checks = vec![signature(session, &signed, operator)?, split(&receipt), leaf(&receipt)];
    checks.push(match differs {
        None => yes("file", "its fields are those of the signed receipt"),
        Some(name) => no("file", format!("its field '{name}' is not what was signed")),
    });
    if let Some(answer) = read_answer(path).filter(|answer| !answer.is_empty()) {
        checks.push(output(&receipt, &answer));
    }
    Ok(Kept { receipt, checks })
}

async fn file(session: Session, path: &Path) -> Result<Exit> {
    let Kept { receipt, mut checks, .. } = read(&session, path)?;
    checks.extend(match session.connect().await {
        Ok(connection) => against_epoch(connection, &receipt).await,
        Err(error) => vec![open(EPOCH, format!("not checked: {error}"))],
    });
    report(&session, ("receipt", receipt.job.to_string().into()), &checks, hint)
}

fn hint(what: &str) -> &'static str {
    match what {
        "signature" | "file" | "answer" => {
            "somebody has changed it since the operator signed: get it again with swarm-client wait"
        }
        _ => "the operator signed it all the same: keep the file, it is evidence",
    }
}

fn epoch_hint(what: &str) -> &'static str {
    match what {
        CHAIN => "name the CID of an epoch's header, or a job whose receipt is kept here",
        "signature" | "sealed" => "name the operator whom you trust with --operator",
        _ => "keep what you have, verify --save makes a file of it: it is evidence",
    }
}

/// Everything from the first record on, up to an epoch or to the newest; of a receipt too, if there is one.
async fn whole_pool(
    session: Session,
    args: &VerifyArgs,
    asked: Option<Cid>,
    receipt: Option<&Path>,
) -> Result<Exit> {
    let kept = receipt.map(|path| read(&session, path)).transpose()?;
    let models = if args.answers { Some(Models::load(&[])?) } else { None };
    let (source, newest, sealed) = begin(&session, args, asked).await?;
    let mut checks = vec![sealed];
    checks.extend(
        Whole {
            session: &session,
            source: &source,
            newest,
            asked: asked.unwrap_or(newest),
            receipt: kept.as_ref().map(|kept| &kept.receipt),
            models,
        }
        .check()
        .await,
    );
    if let Some(path) = source.close().await? {
        session.printer.note(&format!("what was checked is in {}", path.display()));
    }
    let partly = checks.iter().any(|check| check.what == CHAIN && matches!(check.found, Found::Open(_)));
    let asked = asked.unwrap_or(newest).to_string();
    match kept {
        None => report(&session, ("epoch", asked.into()), &checks, epoch_hint)?,
        Some(mut kept) => {
            kept.checks.append(&mut checks);
            report(&session, ("receipt", kept.receipt.job.to_string().into()), &kept.checks, hint)?
        }
    };
    if partly {
        let error =
            UserError::input("not all of the pool's records were at hand; nothing of what was is wrong");
        return Err(error.hint("try again, or with another archive").into());
    }
    Ok(Exit::Done)
}

/// Where the blocks come from, the newest header there, and whether the operator signed it.
async fn begin(session: &Session, args: &VerifyArgs, asked: Option<Cid>) -> Result<(Source, Cid, Check)> {
    const WHAT: &str = "sealed";
    if let Some(path) = &args.car {
        let source = Source::archive(path)?;
        let (newest, signed) = archived(&source, path, asked).await?;
        let check = match signed {
            None => open(WHAT, format!("{newest}; the archive holds no signature of an operator over it")),
            Some((signed, sealed, by)) if sealed.header == newest => seal(session, &signed, &sealed, by)?,
            Some((_, sealed, _)) => no(WHAT, format!("the archive's signature is over {}", sealed.header)),
        };
        return Ok((source, newest, check));
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
    Ok((source, newest.header, seal(session, &signed, &newest, by)?))
}

fn no_receipt(link: &Cid) -> anyhow::Error {
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

type SignedSeal = (Signed, EpochSealed, Address);

/// The header that an archive is about, and what an operator signed of it.
async fn archived(source: &Source, path: &Path, asked: Option<Cid>) -> Result<(Cid, Option<SignedSeal>)> {
    let Source::Archive(archive, _) = source else { return Err(anyhow!("an archive was opened")) };
    let link = |cid: &cid::Cid| cid.to_string().parse::<Cid>().ok();
    let first = archive.roots().first().and_then(link).or(asked);
    let newest = first.ok_or_else(|| {
        UserError::input(format!("{} does not say which epoch it is about", path.display()))
            .hint("name the CID of an epoch's header")
    })?;
    let mut signed = None;
    for root in archive.roots().iter().skip(1) {
        let Some(snapshot) = archive.block(root)?.and_then(|block| Signed::decode(&block).ok()) else {
            continue;
        };
        if let Ok(Statement { header, body: Body::EpochSealed(sealed) }) =
            Statement::decode(&snapshot.payload)
        {
            signed = Some((snapshot, sealed, header.by));
        }
    }
    Ok((newest, signed))
}

fn signature(session: &Session, signed: &Signed, operator: Address) -> Result<Check> {
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
    Ok(match intake.verify(None, &signed.encode(), session.clock.now()) {
        Ok(_) => yes(WHAT, format!("by the operator of {name}, {operator}")),
        Err(rejection) => no(WHAT, rejection.to_string()),
    })
}

fn split(receipt: &Receipt) -> Check {
    let due = FeeSplit::of(receipt.price);
    let text = format!("{} = {} + {} USDC", receipt.price, receipt.miner_part, receipt.operator_part);
    if due.miner == receipt.miner_part && due.operator == receipt.operator_part {
        yes("split", text)
    } else {
        no("split", format!("{text}, but {} + {} are due", due.miner, due.operator))
    }
}

fn leaf(receipt: &Receipt) -> Check {
    let Receipt { job, proof, wallet, price, units, mode, .. } = receipt.clone();
    if (Leaf { job, proof, wallet, price, units, mode }).hash() == receipt.leaf {
        yes("leaf", format!("{} follows from job, proof, wallet, price, units", receipt.leaf))
    } else {
        no("leaf", "it does not follow from the receipt's own fields")
    }
}

fn output(receipt: &Receipt, answer: &[u8]) -> Check {
    if codec::names(&receipt.output, answer) && answer.len() as u64 == receipt.output_bytes {
        yes("answer", format!("the kept answer is {}", receipt.output))
    } else {
        no("answer", format!("the kept answer is not {}", receipt.output))
    }
}
