use super::live::{Examined, proof_of};
use super::{Examination, ExamineFault, Pool, PoolEffect, PoolStory, Record, Stage, State};
use crate::codec::{JobId, Link};
use crate::money::FeeSplit;
use crate::planted::{self, Bug};
use crate::statement::{EndCause, Proof, Reason, Receipt, Topic, Verified};
use crate::{Millis, Timestamp};
use swarm_crypto::digest::Digest;

impl Pool {
    pub(super) fn handle_proof(&mut self, verified: &Verified, proof: &Proof, now: Timestamp) {
        let id = proof.job;
        let Some(entry) = self.state.jobs.get(&id) else {
            let detail = "no such job in this pool".to_owned();
            return self.refuse(Topic::Proofs, now, verified.id(), id, Reason::UnknownJob, detail);
        };
        let repeat = matches!(&entry.stage, Stage::Accepted(accepted) if accepted.proof == verified.id());
        if repeat && !planted::is(Bug::DoubleAccept) {
            return self.repeat_fate(&id, now);
        }
        if self.live.is_examined(&id) {
            return;
        }
        let Some(wallet) =
            entry.holder(&proof.lease).filter(|holder| *holder == verified.statement().header.by)
        else {
            let detail = "the lease is not one that can still be proven".to_owned();
            return self.refuse(Topic::Proofs, now, verified.id(), id, Reason::StaleLease, detail);
        };
        let Some(job) = self.job(&id) else { return };
        let until = now + self.state.posted.fetch;
        let (progress, suspends) = self.suspend(&id, &proof.lease, until);
        let (signed, lease) = (verified.signed().clone(), proof.lease);
        let examined = Examined { id: verified.id(), signed, lease, until, suspends };
        self.live.begin_examination(id, examined);
        let proof_id = verified.id();
        let examination = Examination { id, job, proof_id, proof: proof.clone(), wallet, progress };
        self.effects.push_back(PoolEffect::Examine(Box::new(examination)));
    }

    /// The progress reported under a live lease, and whether its clock stands still from here until the verdict,
    /// which it does once.
    fn suspend(&mut self, id: &JobId, lease: &Digest, until: Timestamp) -> (Vec<(u64, Digest)>, bool) {
        let is_live = matches!(&self.state.jobs[id].stage, Stage::Leased(granted) if granted.lease == *lease);
        let Some(run) = self.live.runs.get_mut(id).filter(|_| is_live) else { return (Vec::new(), false) };
        let first = !std::mem::replace(&mut run.suspended, true);
        let (progress, deadline) = (run.progress.clone(), run.deadline);
        if first {
            self.live.set_deadline(*id, deadline.max(until + Millis(1)));
        }
        (progress, first)
    }

    pub(super) fn handle_examined(
        &mut self,
        id: JobId,
        proof: Link,
        outcome: Result<u64, ExamineFault>,
        now: Timestamp,
    ) {
        if self.live.examined.get(&id).is_none_or(|examined| examined.id != proof) {
            return;
        }
        let Some(examined) = self.live.end_examination(&id) else { return };
        let still = self.state.jobs.get(&id).and_then(|entry| entry.holder(&examined.lease)).is_some();
        match outcome {
            Ok(units) if still => self.accept(id, examined, units, now),
            Ok(_) => {
                let detail = "the lease ended while its proof was checked".to_owned();
                self.refuse(Topic::Proofs, now, proof, id, Reason::StaleLease, detail);
            }
            Err(ExamineFault::Unavailable(why)) => {
                self.refuse(Topic::Proofs, now, proof, id, Reason::ContentUnavailable, why);
                self.resume(id, &examined, now);
            }
            Err(ExamineFault::Unacceptable(why)) => {
                self.refuse(Topic::Proofs, now, proof, id, Reason::Unacceptable, why);
                self.discredit(id, &examined, now);
            }
        }
    }

    fn accept(&mut self, id: JobId, examined: Examined, units: u64, now: Timestamp) {
        let entry = &self.state.jobs[&id];
        let (wallet, price) = (entry.holder(&examined.lease).expect("it was just checked"), entry.price);
        let index_before = self.state.epoch.tree.len().saturating_sub(1);
        match &entry.stage {
            Stage::Leased(granted) => self.live.lease_over(&id, &granted.wallet),
            _ => self.unlist(&id),
        }
        self.record(now, Record::Accepted { job: id, lease: examined.lease, proof: examined.signed, units });
        if planted::is(Bug::ReceiptFromMemory)
            && let Some(mut receipt) = self.state.receipt(&id)
        {
            receipt.index = index_before;
            return self.say(Topic::Proofs, now, receipt);
        }
        self.tell(PoolStory::Accepted { job: id, wallet, price, units });
        self.repeat_fate(&id, now);
    }

    /// The verdict is late: the proof may come again, the lease's clock runs on.
    pub(super) fn examination_late(&mut self, id: JobId, now: Timestamp) {
        let Some(examined) = self.live.end_examination(&id) else { return };
        let detail = "its content could not be fetched in time".to_owned();
        self.refuse(Topic::Proofs, now, examined.id, id, Reason::ContentUnavailable, detail);
        self.resume(id, &examined, now);
    }

    fn resume(&mut self, id: JobId, examined: &Examined, now: Timestamp) {
        let entry = &self.state.jobs[&id];
        match &entry.stage {
            Stage::Leased(granted) if examined.suspends => {
                let next = (now + self.state.posted.progress).min(granted.until);
                self.live.set_deadline(id, next.max(now));
            }
            Stage::Pending if entry.not_after <= now => self.close(id, super::Close::Expired, now),
            Stage::Leased(_)
            | Stage::Pending
            | Stage::Accepted(_)
            | Stage::Expired
            | Stage::Cancelled
            | Stage::Unrunnable => {}
        }
    }

    fn discredit(&mut self, id: JobId, examined: &Examined, now: Timestamp) {
        match &self.state.jobs[&id].stage {
            Stage::Leased(granted) if granted.lease == examined.lease => {
                self.end_lease(id, EndCause::BadProof, now);
            }
            _ => self.resume(id, examined, now),
        }
    }

    /// The proof being checked for a job, if one is.
    pub fn proof_in_hand(&self, id: &JobId) -> Option<Proof> {
        self.live.examined.get(id).map(|examined| proof_of(&examined.signed))
    }
}

impl State {
    /// The receipt of an accepted job, from its durable record.
    pub fn receipt(&self, id: &JobId) -> Option<Receipt> {
        let entry = self.jobs.get(id)?;
        let Stage::Accepted(accepted) = &entry.stage else { return None };
        let split = FeeSplit::of(entry.price);
        Some(Receipt {
            job: *id,
            proof: accepted.proof,
            client: entry.client,
            wallet: accepted.wallet,
            epoch: accepted.epoch,
            index: accepted.index,
            leaf: accepted.leaf,
            price: entry.price,
            miner_part: split.miner,
            operator_part: split.operator,
            units: accepted.units,
            mode: accepted.mode,
            asset: self.genesis.asset.clone(),
            output: accepted.body.output,
            output_bytes: accepted.body.output_bytes,
            held_until: accepted.epoch + super::HELD_EPOCHS,
            pps: accepted.pps,
        })
    }
}
