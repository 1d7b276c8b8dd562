//! Recomputing a pool from its first record on: `protocol::pool::verify` decides, this reads what it is to decide on.

use super::checks::{Check, no, open, yes};
use super::source::Source;
use super::{CHAIN, MAX_WALK, Session, TRANSCRIPT_EPOCHS};
use crate::content::Reader;
use crate::workload::Models;
use anyhow::{Result, anyhow};
use futures::stream::{self, StreamExt, TryStreamExt};
use swarm_protocol::acceptance;
use swarm_protocol::codec::{self, Link};
use swarm_protocol::pool::EpochHeader;
use swarm_protocol::pool::verify::{Accepted, Fault, Subject, Tally, Verifier, Wrong};
use swarm_protocol::statement::{Input, Receipt};

/// Blocks that are asked for at once.
const AT_ONCE: usize = 8;

/// What became of answers.
#[derive(Default)]
struct Answers {
    good: u64,
    missing: u64,
    why: Option<String>,
}

/// Why the reading ended before its time.
enum Stop {
    Fault(Fault),
    Answer(String),
    Missing(anyhow::Error),
    Interrupted,
}

pub(super) struct Whole<'a> {
    pub session: &'a Session,
    pub source: &'a Source,
    /// The newest header at hand, which the operator signed.
    pub newest: Link,
    /// The header up to which all is recomputed.
    pub asked: Link,
    pub receipt: Option<&'a Receipt>,
    /// The models whose answers are recomputed; none if they are not.
    pub models: Option<Models>,
}

impl Whole<'_> {
    pub async fn check(&self) -> Vec<Check> {
        let headers = match self.headers().await {
            Ok(headers) => headers,
            Err(check) => return vec![check],
        };
        let (mut verifier, mut answers) = (Verifier::new(), Answers::default());
        let mut receipt = self.receipt.map(|_| None);
        let stopped = self.epochs(&headers, &mut verifier, &mut answers, &mut receipt).await.err();
        let mut checks = Vec::new();
        match &stopped {
            Some(Stop::Interrupted) => checks.push(open("records", "interrupted; run it again")),
            Some(Stop::Missing(error)) => checks.push(open("records", format!("unavailable: {error}"))),
            Some(Stop::Answer(text)) => checks.push(no("answers", text.clone())),
            Some(Stop::Fault(fault)) => checks.push(no(place(fault), fault.to_string())),
            None => {}
        }
        let read =
            format!("{} of {} epochs, back to the first record", verifier.tally().epochs, headers.len());
        checks.insert(0, if stopped.is_none() { yes(CHAIN, read) } else { open(CHAIN, read) });
        checks.extend(tally_checks(&verifier.tally()));
        if let (None, Some(_)) = (&stopped, &self.models) {
            checks.push(answers.check());
        }
        checks.extend(receipt.flatten());
        checks
    }

    /// Every header from the first on to the one asked for, with its block.
    async fn headers(&self) -> Result<Vec<(EpochHeader, Vec<u8>)>, Check> {
        let (mut headers, mut next, mut found) = (Vec::new(), Some(self.newest), false);
        while let Some(link) = next {
            found |= link == self.asked;
            let unavailable = |error: anyhow::Error| open(CHAIN, format!("unavailable: {error}"));
            let block = self.source.block(&link.cid()).await.map_err(unavailable)?;
            let header: EpochHeader = codec::decode(&block)
                .map_err(|_| no(CHAIN, format!("{link} is not the header of an epoch")))?;
            if headers.is_empty() && header.epoch >= MAX_WALK {
                return Err(open(CHAIN, format!("not checked: {} epochs are too many", header.epoch)));
            }
            next = header.previous;
            self.session.printer.stage(format!("reading headers, epoch {}", header.epoch));
            if found {
                headers.push((header, block));
            }
            if headers.len() as u64 > MAX_WALK {
                return Err(no(CHAIN, "the chain of headers does not end"));
            }
        }
        headers.reverse();
        match found {
            true => Ok(headers),
            false => {
                Err(no(CHAIN, format!("{} is not among the headers that the operator signed", self.asked)))
            }
        }
    }

    async fn epochs(
        &self,
        headers: &[(EpochHeader, Vec<u8>)],
        verifier: &mut Verifier,
        answers: &mut Answers,
        receipt: &mut Option<Option<Check>>,
    ) -> Result<(), Stop> {
        let last = headers.len() as u64;
        for (header, block) in headers {
            self.session.printer.stage(format!("recomputing epoch {} of {}", header.epoch, last - 1));
            verifier.begin(block).map_err(Stop::Fault)?;
            let kept = header.epoch + TRANSCRIPT_EPOCHS >= last || matches!(self.source, Source::Archive(..));
            let pages = stream::iter(&header.record_pages).map(|page| {
                let cid = page.cid();
                async move { self.source.block(&cid).await }
            });
            let mut pages = pages.buffered(AT_ONCE);
            while let Some(page) = pages.try_next().await.map_err(Stop::Missing)? {
                if self.session.stop.is_cancelled() {
                    return Err(Stop::Interrupted);
                }
                verifier.page(&page).map_err(Stop::Fault)?;
                self.answers(verifier.take_accepted(), kept, answers).await?;
            }
            verifier.finish().map_err(Stop::Fault)?;
            self.answers(verifier.take_accepted(), kept, answers).await?;
            if let (Some(said), Some(check)) =
                (self.receipt.filter(|said| said.epoch == header.epoch), &mut *receipt)
            {
                *check = Some(match verifier.receipt(said) {
                    Ok(()) => yes(
                        "receipt",
                        format!("acceptance {} of epoch {}, as recorded", said.index, said.epoch),
                    ),
                    Err(fault) => no("receipt", fault.to_string()),
                });
            }
        }
        if let (Some(said), Some(check @ None)) = (self.receipt, receipt) {
            *check =
                Some(open("receipt", format!("epoch {} is not sealed yet; verify again later", said.epoch)));
        }
        Ok(())
    }

    async fn answers(&self, accepted: Vec<Accepted>, kept: bool, answers: &mut Answers) -> Result<(), Stop> {
        let Some(models) = &self.models else { return Ok(()) };
        if !kept {
            answers.missing += accepted.len() as u64;
            return Ok(());
        }
        let checked = stream::iter(&accepted).map(|accepted| self.answer(accepted, models)).buffered(AT_ONCE);
        let mut checked = std::pin::pin!(checked);
        let mut number = 0;
        while let Some(outcome) = checked.next().await {
            let (seq, units) = (accepted[number].seq, accepted[number].units);
            number += 1;
            match outcome {
                Ok(Ok(due)) if due == units => answers.good += 1,
                Ok(Ok(due)) => {
                    return Err(Stop::Answer(format!(
                        "record {seq} counts {units} work units, {due} were done"
                    )));
                }
                Ok(Err(why)) => return Err(Stop::Answer(format!("record {seq} accepts a bad proof: {why}"))),
                Err(error) => {
                    answers.missing += 1;
                    answers.why.get_or_insert(error.to_string());
                }
            }
        }
        Ok(())
    }

    /// The work units of an answer, or why it should not have been accepted.
    async fn answer(&self, accepted: &Accepted, models: &Models) -> Result<Result<u64, String>> {
        let Accepted { job, proof, .. } = accepted;
        let model =
            models.get(&job.model).ok_or_else(|| anyhow!("the model {} is not known here", job.model))?;
        let transcript = self.source.block(&proof.transcript.cid()).await?;
        let output = self.source.block(&proof.output).await?;
        let linked = self.linked(&job.input).await?;
        let opened = match acceptance::open(proof, &transcript) {
            Ok(opened) => opened,
            Err(fault) => return Ok(Err(fault.to_string())),
        };
        let facts = model.facts(job, linked.as_deref(), &opened)?;
        let units = acceptance::check(job, &[], &opened, &output, &facts);
        Ok(units.map(|units| units.0).map_err(|fault| fault.to_string()))
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

impl Answers {
    fn check(self) -> Check {
        let text = format!("{} recomputed from their transcripts", self.good);
        match (self.missing, self.why) {
            (0, _) => yes("answers", text),
            (missing, Some(why)) => open("answers", format!("{text}, {missing} not at hand ({why})")),
            (missing, None) => {
                open("answers", format!("{text}, {missing} too old to be kept by the operator"))
            }
        }
    }
}

fn tally_checks(tally: &Tally) -> Vec<Check> {
    let mut checks = vec![
        yes("records", format!("{} follow from those before by the rules", tally.records)),
        yes("signatures", format!("{} of clients and miners", tally.signatures)),
        yes("races", format!("{} leases by {} draws from {} seeds", tally.leases, tally.draws, tally.seeds)),
        yes(
            "money",
            format!("{} acceptances, {} movements, all due, none more", tally.acceptances, tally.transfers),
        ),
        yes("roots", format!("of proofs, payouts, debits and totals in {} headers", tally.epochs)),
    ];
    if tally.unproven > 0 {
        checks
            .push(open("word", format!("{} deposits and audits are on the operator's word", tally.unproven)));
    }
    checks
}

/// The line that a fault belongs to.
fn place(fault: &Fault) -> &'static str {
    match (&fault.subject, &fault.wrong) {
        (Subject::Receipt, _) => "receipt",
        (_, Wrong::Signature(..)) => "signatures",
        (_, Wrong::Lease(_) | Wrong::Beaten(_) | Wrong::Seed) => "races",
        (_, Wrong::Transfers | Wrong::Money(_) | Wrong::Rates) => "money",
        (Subject::Header, _) => "roots",
        (Subject::Page(_) | Subject::Record(_), _) => "records",
    }
}
