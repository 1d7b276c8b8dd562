//! What became of a client's money, recomputed from what the pool has sealed.

use super::Session;
use super::checks::{Check, Found};
use super::recompute::{Recomputation, begin};
use crate::cli::{Exit, HistoryArgs, UserError};
use crate::tables::{Column, column, table};
use crate::words::short_job;
use anyhow::Result;
use serde_json::json;
use swarm_crypto::address::Address;
use swarm_protocol::Timestamp;
use swarm_protocol::money::{Account, MicroUsdc};
use swarm_protocol::pool::verify::{Movement, Verifier};
use time::OffsetDateTime;

const COLUMNS: [Column; 6] = [
    column("epoch", 8, 0),
    column("when (UTC)", 19, 0),
    column("what", 18, 0),
    column("job", 16, 0),
    column("USDC", 16, 0),
    column("free after", 16, 0),
];

/// One line of the history.
struct Line {
    movement: Movement,
    /// What the free money changed by, and what it is after.
    change: i128,
    free: i128,
}

pub(super) async fn history(session: Session, args: &HistoryArgs) -> Result<Exit> {
    let wallet = session.key.address();
    let (verifier, movements) = read(&session, &args.sealed, wallet).await?;
    let lines = lines(movements, wallet);
    let (header, link) = verifier.header().expect("at least one epoch was read");
    let state = verifier.state().expect("at least one epoch was read");
    let (free, reserved) = (Account::ClientFree(wallet), Account::ClientReserved(wallet));
    let (free, reserved) = (state.accounts().amount(&free), state.accounts().amount(&reserved));
    if session.printer.is_json() {
        let rows: Vec<_> = lines.iter().map(Line::json).collect();
        session.printer.object(&json!({
            "wallet": wallet.to_string(), "epoch": header.epoch, "header": link.to_string(), "movements": rows,
            "free_usdc": free.to_string(), "reserved_usdc": reserved.to_string(),
        }));
    } else if args.csv {
        let rows: String = lines.iter().map(Line::csv).collect();
        session.printer.answer(format!("epoch,at_ms,record,what,job,usdc,free_usdc\n{rows}").as_bytes());
    } else {
        let from = lines.len().saturating_sub(args.last as usize);
        let rows: Vec<_> = lines[from..].iter().map(Line::cells).collect();
        let mut text = table(&COLUMNS, &rows);
        if from > 0 {
            text.push_str(&format!("  {from} earlier movements: --last shows more, --csv all\n"));
        }
        text.push_str(&format!(
            "recomputed up to epoch {}: {free} USDC free, {reserved} USDC reserved; what is not sealed yet is not in it",
            header.epoch
        ));
        session.printer.answer(text.as_bytes());
    }
    Ok(Exit::Done)
}

/// Recomputes the pool, and what moved a wallet's money in it.
async fn read(
    session: &Session,
    sealed: &crate::cli::SealedArgs,
    wallet: Address,
) -> Result<(Verifier, Vec<Movement>)> {
    let pool = begin(session, sealed, None).await?;
    must_be_sealed(&pool)?;
    let (mut verifier, mut movements) = (Verifier::watching(wallet), Vec::new());
    let headers = pool.headers(session, pool.newest).await;
    let read = match headers {
        Ok(headers) => {
            let each = async |verifier: &mut Verifier, _: &_, _| {
                movements.extend(verifier.take_movements());
                Ok(())
            };
            pool.read(session, &headers, &mut verifier, each).await
        }
        Err(stop) => Err(stop),
    };
    pool.close(session).await?;
    session.printer.finish();
    read.map_err(super::recompute::Stop::into_error)?;
    Ok((verifier, movements))
}

/// Only what the operator signed counts.
pub(super) fn must_be_sealed(pool: &Recomputation) -> Result<(), UserError> {
    match &pool.sealed {
        Check { found: Found::True(_), .. } => Ok(()),
        Check { found: Found::False(text) | Found::Open(text), .. } => {
            Err(UserError::input(text.clone()).hint("name the operator whom you trust with --operator"))
        }
    }
}

fn lines(movements: Vec<Movement>, wallet: Address) -> Vec<Line> {
    let mut free = 0;
    let is_free = |account: Account| account == Account::ClientFree(wallet);
    let line = |movement: Movement| {
        let amount = i128::from(movement.transfer.amount.0);
        let change = match (is_free(movement.transfer.from), is_free(movement.transfer.to)) {
            (true, false) => -amount,
            (false, true) => amount,
            _ => 0,
        };
        free += change;
        Line { movement, change, free }
    };
    movements.into_iter().map(line).collect()
}

impl Line {
    /// In words: what the record did to this client.
    fn what(&self) -> &'static str {
        let Movement { record, transfer, .. } = &self.movement;
        match (*record, transfer.to) {
            ("credited", _) => "test credit",
            ("admitted", _) => "job sent",
            ("accepted", Account::OperatorHeld(_)) => "answered, fee",
            ("accepted", _) => "answered",
            ("expired" | "cancelled" | "unrunnable", _) => "refunded",
            (other, _) => other,
        }
    }

    fn cells(&self) -> Vec<String> {
        let moved = match self.change {
            0 => format!("({})", self.movement.transfer.amount),
            change => signed(change),
        };
        vec![
            self.movement.epoch.to_string(),
            when(self.movement.at),
            self.what().to_owned(),
            self.movement.job.as_ref().map(short_job).unwrap_or_default(),
            moved,
            signed(self.free),
        ]
    }

    fn csv(&self) -> String {
        let Movement { epoch, at, seq, job, transfer, .. } = &self.movement;
        let job = job.map(|job| job.to_string()).unwrap_or_default();
        let usdc = if self.change == 0 { format!("({})", transfer.amount) } else { signed(self.change) };
        format!("{epoch},{},{seq},{},{job},{usdc},{}\n", at.0, self.what(), signed(self.free))
    }

    fn json(&self) -> serde_json::Value {
        let Movement { epoch, at, seq, record, job, transfer } = &self.movement;
        json!({
            "epoch": epoch, "at_ms": at.0, "record": seq, "kind": record, "job": job.map(|job| job.to_string()),
            "from": transfer.from, "to": transfer.to, "usdc": transfer.amount.to_string(),
            "free_usdc": signed(self.free),
        })
    }
}

/// An amount with its sign.
fn signed(amount: i128) -> String {
    let absolute = MicroUsdc(u64::try_from(amount.unsigned_abs()).unwrap_or(u64::MAX));
    if amount < 0 { format!("-{absolute}") } else { absolute.to_string() }
}

/// A moment as a date and a time of day, UTC.
fn when(at: Timestamp) -> String {
    let seconds = i64::try_from(at.0 / 1000).ok();
    let Some(at) = seconds.and_then(|seconds| OffsetDateTime::from_unix_timestamp(seconds).ok()) else {
        return "?".to_owned();
    };
    let (date, time) = (at.date(), at.time());
    let (year, month, day) = (date.year(), u8::from(date.month()), date.day());
    format!("{year:04}-{month:02}-{day:02} {:02}:{:02}:{:02}", time.hour(), time.minute(), time.second())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn moments_are_read_as_dates() {
        assert_eq!(when(Timestamp(1_800_000_000_000)), "2027-01-15 08:00:00");
        assert_eq!(when(Timestamp(u64::MAX)), "?");
    }
}
