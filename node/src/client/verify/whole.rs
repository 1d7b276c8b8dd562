//! A whole pool, as far as it is sealed, and what was found of it.

use super::super::checks::{Check, no, open, yes};
use super::super::recompute::{AT_ONCE, Recomputation, Sealed, Source, Stop};
use super::{CHAIN, Session, TRANSCRIPT_EPOCHS};
use crate::content::Reader;
use crate::models::Lookup;
use crate::words::clean;
use anyhow::{Result, anyhow};
use futures::stream::{self, StreamExt};
use swarm_protocol::acceptance::AcceptanceFault;
use swarm_protocol::codec::Link;
use swarm_protocol::pool::EpochHeader;
use swarm_protocol::pool::verify::{Accepted, Fault, Subject, Tally, Verifier, Wrong};
use swarm_protocol::statement::{Input, Receipt};

/// What became of answers.
#[derive(Default)]
struct Answers {
    good: u64,
    missing: u64,
    why: Option<String>,
}

pub(super) struct Whole<'a> {
    pub session: &'a Session,
    pub pool: &'a Recomputation,
    /// The header up to which all is recomputed.
    pub asked: Link,
    pub receipt: Option<&'a Receipt>,
    /// The models whose answers are recomputed; none if they are not.
    pub models: Option<Lookup>,
}

impl Whole<'_> {
    pub async fn check(&self) -> Vec<Check> {
        let headers = match self.pool.headers(self.session, self.asked).await {
            Ok(headers) => headers,
            Err(stop) => return vec![stopped_at(CHAIN, &stop)],
        };
        let verifier = Verifier::new();
        let mut verifier = if self.models.is_some() { verifier.with_answers() } else { verifier };
        let (mut answers, mut receipt) = (Answers::default(), None);
        let stopped = self.epochs(&headers, &mut verifier, &mut answers, &mut receipt).await.err();
        let read =
            format!("{} of {} epochs, from the first record on", verifier.tally().epochs, headers.len());
        let mut checks = vec![if stopped.is_none() { yes(CHAIN, read) } else { open(CHAIN, read) }];
        checks.extend(stopped.as_ref().map(|stop| stopped_at("records", stop)));
        checks.extend(tally_checks(&verifier.tally()));
        if let (None, Some(_)) = (&stopped, &self.models) {
            checks.push(answers.check());
        }
        if let Some(said) = self.receipt {
            let unsealed = format!("epoch {} is not sealed yet; verify again later", said.epoch);
            checks.push(receipt.unwrap_or_else(|| open("receipt", unsealed)));
        }
        checks
    }

    async fn epochs(
        &self,
        headers: &[Sealed],
        verifier: &mut Verifier,
        answers: &mut Answers,
        receipt: &mut Option<Check>,
    ) -> Result<(), Stop> {
        let last = headers.len() as u64;
        let archived = matches!(self.pool.source(), Source::Archive(..));
        let each = async |verifier: &mut Verifier, header: &EpochHeader, sealed: bool| {
            let kept = archived || header.epoch + TRANSCRIPT_EPOCHS >= last;
            self.answers(verifier.take_accepted(), kept, answers).await?;
            if let Some(said) = self.receipt.filter(|said| sealed && said.epoch == header.epoch) {
                *receipt = Some(match verifier.receipt(said) {
                    Ok(()) => yes(
                        "receipt",
                        format!("acceptance {} of epoch {}, as recorded", said.index, said.epoch),
                    ),
                    Err(fault) => no("receipt", fault.to_string()),
                });
            }
            Ok(())
        };
        self.pool.read(self.session, headers, verifier, each).await
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
                    return Err(Stop::Wrong(
                        "answers",
                        format!("record {seq} counts {units} work units, {due} were done"),
                    ));
                }
                Ok(Err(why)) => {
                    return Err(Stop::Wrong("answers", format!("record {seq} accepts a bad proof: {why}")));
                }
                Err(error) => {
                    answers.missing += 1;
                    answers.why.get_or_insert(error.to_string());
                }
            }
        }
        Ok(())
    }

    /// The work units of an answer, or why it should not have been accepted.
    async fn answer(&self, accepted: &Accepted, models: &Lookup) -> Result<Result<u64, String>> {
        let Accepted { job, proof, .. } = accepted;
        let model = models.get(&job.model).await?;
        let transcript = self.pool.source().block(&proof.transcript.cid()).await?;
        let output = self.pool.source().block(&proof.output).await?;
        let linked = self.linked(&job.input).await?;
        let units = model.accept(job, linked.as_deref(), &[], (proof, &transcript, &output))?;
        // By weights of another digest nothing can be said.
        match units {
            Err(AcceptanceFault::ModelDigest) => Err(anyhow!(
                "the model {} here has other weights than the proof's: pull the pool's, then run this again",
                clean(&job.model)
            )),
            other => Ok(other.map_err(|fault| fault.to_string())),
        }
    }

    async fn linked(&self, input: &Input) -> Result<Option<String>> {
        let Input::Linked { cid, bytes } = input else { return Ok(None) };
        let (mut reader, mut text) = (Reader::new(*cid, *bytes)?, Vec::new());
        while let Some(cid) = reader.wanted() {
            let block = self.pool.source().block(&cid).await?;
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
        checks.push(open("word", format!("{} deposits are on the operator's word", tally.unproven)));
    }
    checks
}

fn stopped_at(what: &'static str, stop: &Stop) -> Check {
    match stop {
        Stop::Fault(fault) => no(place(fault), fault.to_string()),
        Stop::Wrong(what, text) => no(what, text.clone()),
        Stop::Missing(error) => open(what, format!("unavailable: {error}")),
        Stop::Interrupted => open(what, "interrupted; run it again"),
    }
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
