//! Checking receipts, and whole pools, without trusting the operator's word.

mod quick;
mod whole;

use super::checks::{Check, Found, no, open, report, yes};
use super::output::receipt_of;
use super::recompute::{MAX_WALK, Recomputation, Source, begin, signature};
use super::saved::{read_answer, read_evidence, read_receipt};
use super::{Connection, Session};
use crate::cli::{Exit, Subject, UserError, VerifyArgs};
use crate::evidence::EvidenceFile;
use crate::models::Lookup;
use anyhow::Result;
use quick::against_epoch;
use std::path::Path;
use swarm_crypto::address::Address;
use swarm_protocol::codec::{self, Link as Cid};
use swarm_protocol::evidence::contradiction;
use swarm_protocol::money::FeeSplit;
use swarm_protocol::pool::{HELD_EPOCHS, Leaf};
use swarm_protocol::statement::{Body, Intake, Receipt, Signed, Statement};
use whole::Whole;

/// Sealed epochs whose transcripts an operator still has.
const TRANSCRIPT_EPOCHS: u64 = HELD_EPOCHS;

const CHAIN: &str = "chain";
const EPOCH: &str = "epoch";
const RECORDS: &str = "records";

pub(super) async fn verify(session: Session, args: &VerifyArgs) -> Result<Exit> {
    let whole = args.whole || args.sealed.car.is_some() || args.sealed.save.is_some();
    if let Some(Subject::File(path)) = &args.subject
        && let Some(file) = read_evidence(path)
    {
        return evidence(&session, &file);
    }
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

/// Two statements that one operator cannot both have signed in good faith.
fn evidence(session: &Session, file: &EvidenceFile) -> Result<Exit> {
    let read = |text: &String| -> Option<(Signed, Statement)> {
        let signed = Signed::decode(&hex::decode(text).ok()?).ok()?;
        let statement = Statement::decode(&signed.payload).ok()?;
        Some((signed, statement))
    };
    let (Some((first, one)), Some((second, other))) = (read(&file.statements[0]), read(&file.statements[1]))
    else {
        return Err(UserError::input("the file holds no two signed statements")
            .hint("it is no evidence")
            .into());
    };
    let mut checks = vec![signature(session, &first, one.header.by)?];
    checks.push(match &other.body {
        // What an auditor was told of it is the operator's word, the proof is its miner's.
        Body::Proof(_) => provers(&second, &other),
        _ => signature(session, &second, other.header.by)?,
    });
    checks.push(match contradiction(&one, &other) {
        Some(found) => yes("evidence", format!("{found}, signed by {}", one.header.by)),
        None => no("evidence", "the two statements do not contradict each other"),
    });
    report(
        session,
        ("evidence", file.evidence.clone().into()),
        &checks,
        |_| "it proves nothing against the operator",
    )
}

fn provers(signed: &Signed, proof: &Statement) -> Check {
    const WHAT: &str = "proof";
    let mut intake = Intake::new(proof.header.pool, Address::ZERO);
    // By its own clock: it may be old.
    match intake.verify(None, &signed.encode(), proof.header.at) {
        Ok(_) => yes(WHAT, format!("signed by its miner, {}", proof.header.by)),
        Err(rejection) => no(WHAT, rejection.to_string()),
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
    let models = if args.answers { Some(Lookup::of(&session.args.files)?) } else { None };
    let pool = begin(&session, &args.sealed, asked).await?;
    let asked = asked.unwrap_or(pool.newest);
    let receipt = kept.as_ref().map(|kept| &kept.receipt);
    let mut checks = Whole { session: &session, pool: &pool, asked, receipt, models }.check().await;
    let Recomputation { sealed, .. } = &pool;
    checks.insert(0, sealed.clone());
    pool.close(&session).await?;
    let partly = checks.iter().any(|check| check.what == CHAIN && matches!(check.found, Found::Open(_)));
    let asked = asked.to_string();
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
