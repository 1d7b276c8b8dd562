//! A receipt against its own epoch: its leaf under the header's root, its record among the epoch's.

use super::{Check, Connection, EPOCH, MAX_WALK, RECORDS, Source, no, open, yes};
use crate::link::Link;
use anyhow::{Result, anyhow};
use swarm_crypto::digest::Digest;
use swarm_crypto::merkle;
use swarm_protocol::codec;
use swarm_protocol::pool::{Entry, EpochHeader, MAX_PAGE_LEAVES, Record, RecordReader};
use swarm_protocol::query::{Answer, Query};
use swarm_protocol::statement::{Body, EpochSealed, Receipt, Statement};

/// Pages of records that are fetched to check one receipt: half a GiB.
const MAX_RECORD_PAGES: usize = 1024;

pub(super) async fn against_epoch(connection: Connection, receipt: &Receipt) -> Vec<Check> {
    let (asked, source) =
        (sealed(&connection.link, receipt).await, Source::Network(Box::new(connection), None));
    let unavailable = |what, error: anyhow::Error| open(what, format!("unavailable: {error}"));
    let header = match asked {
        Ok(Ok(newest)) => walk_back(&source, &newest, receipt.epoch).await.map(Ok),
        Ok(Err(unsealed)) => Ok(Err(unsealed)),
        Err(error) => Err(error),
    };
    let checks = match header {
        Ok(Err(unsealed)) => vec![unsealed],
        Ok(Ok(header)) => vec![
            in_leaves(&source, &header, receipt).await.unwrap_or_else(|error| unavailable(EPOCH, error)),
            in_records(&source, &header, receipt).await.unwrap_or_else(|error| unavailable(RECORDS, error)),
        ],
        Err(error) => vec![unavailable(EPOCH, error)],
    };
    // Nothing was to be saved.
    let _ = source.close().await;
    checks
}

/// The newest sealed epoch, or why the receipt's is none yet.
async fn sealed(link: &Link, receipt: &Receipt) -> Result<Result<EpochSealed, Check>> {
    let Some(Answer::Sealed(sealed)) = link.ask(Query::Sealed).await else {
        return Err(anyhow!("the operator does not answer"));
    };
    let Some(signed) = sealed else { return Ok(Err(open(EPOCH, "no epoch is sealed yet"))) };
    link.check(&signed)?;
    let Body::EpochSealed(newest) = Statement::decode(&signed.payload)?.body else {
        return Err(anyhow!("the operator sent no sealed epoch"));
    };
    if newest.epoch < receipt.epoch {
        let text = format!("epoch {} is not sealed yet; verify again later", receipt.epoch);
        return Ok(Err(open(EPOCH, text)));
    }
    Ok(Ok(newest))
}

async fn in_leaves(source: &Source, header: &EpochHeader, receipt: &Receipt) -> Result<Check> {
    let index = usize::try_from(receipt.index)?;
    let Some(page) = header.leaf_pages.get(index / MAX_PAGE_LEAVES) else {
        return Ok(no(
            EPOCH,
            format!("index {} is beyond the {} leaves", receipt.index, header.counts.accepted),
        ));
    };
    let mut leaves: Vec<Digest> = Vec::new();
    for page in &header.leaf_pages {
        leaves.extend(codec::decode::<Vec<Digest>>(&source.block(&page.cid()).await?)?);
    }
    if merkle::root(&leaves) != header.proofs_root {
        return Ok(no(EPOCH, format!("the leaves of page {page} do not give the root of the header")));
    }
    Ok(match leaves.get(index) {
        Some(leaf) if *leaf == receipt.leaf => {
            yes(EPOCH, format!("leaf {} of {} in sealed epoch {}", index, leaves.len(), receipt.epoch))
        }
        Some(_) => no(EPOCH, format!("epoch {} holds another leaf at index {index}", receipt.epoch)),
        None => no(EPOCH, format!("index {index} is beyond the {} leaves", leaves.len())),
    })
}

/// Chains the epoch's published records from the header before to this one, and looks for the acceptance on the way.
async fn in_records(source: &Source, header: &EpochHeader, receipt: &Receipt) -> Result<Check> {
    if header.record_pages.len() > MAX_RECORD_PAGES {
        return Ok(open(RECORDS, format!("not checked: {} pages are too many", header.record_pages.len())));
    }
    let before = match &header.previous {
        Some(previous) => codec::decode::<EpochHeader>(&source.block(&previous.cid()).await?)?.range_hash,
        None => Digest::ZERO,
    };
    let (mut reader, mut accepted) = (RecordReader::new(header.first_seq, before), false);
    let is_this = |entry: &Entry| match &entry.record {
        Record::Accepted { job, proof, units, .. } => {
            (*job, proof.id(), *units) == (receipt.job, receipt.proof, receipt.units)
        }
        _ => false,
    };
    for page in &header.record_pages {
        match reader.supply(&source.block(&page.cid()).await?) {
            Ok(rows) => accepted |= rows.iter().any(|row| is_this(&row.entry)),
            Err(fault) => return Ok(no(RECORDS, fault.to_string())),
        }
    }
    let (_boundary, next, head) = match reader.finish() {
        Ok(end) => end,
        Err(fault) => return Ok(no(RECORDS, fault.to_string())),
    };
    if (next, head) != (header.end_seq + 1, header.range_hash) {
        return Ok(no(
            RECORDS,
            format!("the records end in {head} before {next}, the header says otherwise"),
        ));
    }
    let text = format!("records {} to {} chain to the header", header.first_seq, header.end_seq);
    Ok(if accepted {
        yes(RECORDS, text)
    } else {
        no(RECORDS, format!("{text}, but none accepts this proof"))
    })
}

async fn walk_back(source: &Source, newest: &EpochSealed, wanted: u64) -> Result<EpochHeader> {
    let mut cid = newest.header;
    for epoch in (wanted..=newest.epoch).rev().take(usize::try_from(MAX_WALK)?) {
        let header: EpochHeader = codec::decode(&source.block(&cid.cid()).await?)?;
        if header.epoch != epoch {
            return Err(anyhow!("header {cid} is not the one of epoch {epoch}"));
        }
        if epoch == wanted {
            return Ok(header);
        }
        cid = header.previous.ok_or_else(|| anyhow!("the chain of headers ends at epoch {epoch}"))?;
    }
    Err(anyhow!("epoch {wanted} is too far back"))
}
