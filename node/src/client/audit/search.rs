//! An accepted proof in what a pool has sealed, and what it names: searched from the newest epoch back.

use super::evidence::LeaseTerms;
use super::{Recorded, Subject};
use crate::cli::UserError;
use crate::client::Session;
use crate::client::recompute::{Recomputation, Source};
use crate::content::Reader;
use anyhow::{Result, anyhow};
use swarm_protocol::codec::{self, JobId, Link};
use swarm_protocol::pool::{EpochHeader, Record, RecordReader, Row};
use swarm_protocol::statement::{Body, Input, Job, Proof, Signed, Statement};

/// Pages of records that are read at most: 2 GiB.
const MAX_PAGES: usize = 4096;

/// Reads epoch after epoch, each checked against the header that the operator signed.
struct Search<'a> {
    session: &'a Session,
    source: &'a Source,
    pages: usize,
}

pub(super) async fn find(session: &Session, pool: &Recomputation, proof: &Link) -> Result<Subject> {
    let mut search = Search { session, source: pool.source(), pages: 0 };
    let mut next = Some(pool.newest);
    while let Some(link) = next {
        let header = search.header(&link).await?;
        session.printer.stage(format!("looking for the proof in epoch {}", header.epoch));
        // Its place among the acceptances is how many come before it.
        let mut index = 0;
        let is_it = |record: &Record| {
            let Record::Accepted { proof: found, .. } = record else { return None };
            index += 1;
            (found.id() == *proof).then_some(index - 1)
        };
        if let Some((index, row)) = search.rows(&header, is_it).await?.pop()
            && let Record::Accepted { job, proof, units, .. } = row.entry.record
        {
            let recorded = Recorded { epoch: header.epoch, index, units };
            let (job, lease) = search.lease(header, &job).await?;
            return search.subject(job, proof, lease, recorded).await;
        }
        next = header.previous;
    }
    Err(UserError::input(format!("no sealed epoch has accepted a proof {proof}"))
        .hint("take the proof's id from a receipt or the pool's tree, and wait until its epoch is sealed")
        .into())
}

impl Search<'_> {
    async fn header(&self, link: &Link) -> Result<EpochHeader> {
        codec::decode(&self.source.block(&link.cid()).await?)
            .map_err(|_| anyhow!("{link} is not the header of an epoch"))
    }

    /// The epoch's records that are wanted, in order, and what they are wanted for.
    async fn rows<T>(
        &mut self,
        header: &EpochHeader,
        mut wanted: impl FnMut(&Record) -> Option<T>,
    ) -> Result<Vec<(T, Row)>> {
        let before = match &header.previous {
            Some(previous) => self.header(previous).await?.range_hash,
            None => swarm_crypto::digest::Digest::ZERO,
        };
        let (mut reader, mut found) = (RecordReader::new(header.first_seq, before), Vec::new());
        for page in &header.record_pages {
            self.pages += 1;
            if self.pages > MAX_PAGES {
                return Err(anyhow!("more than {MAX_PAGES} pages of records are not read"));
            }
            if self.session.stop.is_cancelled() {
                return Err(UserError::input("interrupted before the proof was found")
                    .hint("run it again")
                    .into());
            }
            let rows = reader.supply(&self.source.block(&page.cid()).await?)?;
            found.extend(rows.into_iter().filter_map(|row| Some((wanted(&row.entry.record)?, row))));
        }
        let (_boundary, next, head) = reader.finish()?;
        if (next, head) != (header.end_seq + 1, header.range_hash) {
            return Err(UserError::input(format!(
                "the records of epoch {} are not those of its header",
                header.epoch
            ))
            .hint("swarm-client verify says more")
            .into());
        }
        Ok(found)
    }

    /// The job as its client signed it, and what its last lease was made of, from this epoch or those before.
    async fn lease(&mut self, mut header: EpochHeader, job: &JobId) -> Result<(Signed, LeaseTerms)> {
        let (mut holder, mut draw) = (None, None);
        loop {
            let of_job = |record: &Record| {
                let is_its = match record {
                    Record::Admitted { job: signed, .. } => signed.id() == *job,
                    Record::Leased { job: of, .. } | Record::LeaseEnded { job: of, .. } => of == job,
                    _ => false,
                };
                is_its.then_some(())
            };
            for ((), row) in self.rows(&header, of_job).await?.into_iter().rev() {
                match row.entry.record {
                    Record::Leased { term, wallet, .. } => _ = holder.get_or_insert((term, wallet)),
                    Record::LeaseEnded { seed, .. } if holder.is_some() => _ = draw.get_or_insert(seed),
                    Record::Admitted { job, seed } => {
                        let (term, wallet) = holder.ok_or_else(|| anyhow!("the job was never leased"))?;
                        return Ok((job, LeaseTerms { term, wallet, seed: draw.unwrap_or(seed) }));
                    }
                    _ => {}
                }
            }
            let previous = header.previous.ok_or_else(|| anyhow!("the job was never admitted"))?;
            header = self.header(&previous).await?;
        }
    }

    async fn subject(
        &self,
        job: Signed,
        proof: Signed,
        lease: LeaseTerms,
        recorded: Recorded,
    ) -> Result<Subject> {
        self.session.printer.stage("fetching transcript and output".to_owned());
        let (_, terms) = job_of(&job)?;
        let (_, claim) = proof_of(&proof)?;
        Ok(Subject {
            transcript: self.source.block(&claim.transcript.cid()).await?,
            output: self.source.block(&claim.output).await?,
            linked: self.linked(&terms.input).await?,
            job,
            proof,
            lease,
            recorded: Some(recorded),
        })
    }

    async fn linked(&self, input: &Input) -> Result<Option<String>> {
        let Input::Linked { cid, bytes } = input else { return Ok(None) };
        let (mut reader, mut text) = (Reader::new(*cid, *bytes)?, Vec::new());
        while let Some(cid) = reader.wanted() {
            let block = self.source.block(&cid).await?;
            text.extend_from_slice(reader.supply(&block)?);
        }
        Ok(Some(String::from_utf8(text)?))
    }
}

/// What a client signed.
pub(super) fn job_of(signed: &Signed) -> Result<(Statement, Job)> {
    let statement = Statement::decode(&signed.payload)?;
    match statement.body.clone() {
        Body::Job(job) => Ok((statement, job)),
        _ => Err(anyhow!("the job is none")),
    }
}

/// What a miner signed.
pub(super) fn proof_of(signed: &Signed) -> Result<(Statement, Proof)> {
    let statement = Statement::decode(&signed.payload)?;
    match statement.body.clone() {
        Body::Proof(proof) => Ok((statement, proof)),
        _ => Err(anyhow!("the proof is none")),
    }
}
