//! What may follow in a ledger. Each rule is the one by which the operator's machine acts, as far as the ledger shows
//! what it acted on: who was alive, which claims came, and whether content could be had, it does not show.

use super::fault::{Wrong, wrong_unless as check};
use super::{Proven, Tally};
use crate::Timestamp;
use crate::codec::JobId;
use crate::finding::AuditEnd;
use crate::money::{Account, MIN_PRICE, MicroUsdc};
use crate::pool::arbitration::{FREE_RELEASE, lease_end};
use crate::pool::audit::Attesting;
use crate::pool::epoch::MAX_ROSTER;
use crate::pool::{Boundary, Close, Entry, Granted, JobEntry, LeafAt, Record, Stage, State};
use crate::pool::{SETTLEMENT_BEFORE, SETTLEMENT_OF_TEXT, SETTLEMENT_VERSION};
use crate::race::{self, MAX_WINDOW, Rank, RosterEntry};
use crate::statement::{Body, EndCause, MAX_JOB_LIFE, MAX_MODELS, MAX_NAMED_CLAIMS, SKEW, Signed, Statement};
use crate::workload::check_input;
use std::collections::BTreeMap;
use swarm_crypto::address::Address;
use swarm_crypto::digest::Digest;
use swarm_crypto::keyring::Keyring;

type Verdict = Result<(), Wrong>;

/// One row that is being checked against the state before it.
pub(super) struct Reading<'a> {
    pub state: &'a State,
    pub keyring: &'a mut Keyring,
    /// Statements that need not be checked again.
    pub proven: &'a mut Proven,
    pub tally: &'a mut Tally,
    /// Live leases by wallet.
    pub holders: &'a BTreeMap<Address, u32>,
}

pub(super) fn genesis(entry: &Entry) -> Verdict {
    check(matches!(entry.record, Record::Genesis(_)), || Wrong::Misplaced)?;
    check(entry.transfers.is_empty(), || Wrong::Transfers)
}

impl Reading<'_> {
    pub(super) fn check(&mut self, entry: &Entry) -> Verdict {
        let (state, at) = (self.state, entry.at);
        if let Some(due) = state.due_audit() {
            return check(*due == entry.record, || Wrong::Audit("another record is due first"));
        }
        match &entry.record {
            Record::Genesis(_) => Err(Wrong::Misplaced),
            Record::Credited { client } => {
                let new = !state.clients.contains_key(client) && state.posted.test_credit.0 > 0;
                check(new, || Wrong::Money("a client has its test credit once"))?;
                check(state.may_come_in(state.posted.test_credit), || Wrong::Money("the pool is full"))
            }
            Record::Deposited { amount, reference, .. } => {
                self.tally.unproven += 1;
                let new = amount.0 > 0 && !state.deposits.contains_key(reference);
                check(new, || Wrong::Money("a deposit counts once"))?;
                check(state.may_come_in(*amount), || Wrong::Money("the pool is full"))
            }
            Record::DepositUndone { reference } => {
                self.tally.unproven += 1;
                check(state.deposits.contains_key(reference), || Wrong::Money("there is no such deposit"))
            }
            Record::ReserveFunded { amount } => {
                let free = state.accounts.amount(&Account::ClientFree(state.genesis.operator));
                let covered = amount.0 > 0 && *amount <= free;
                check(covered, || Wrong::Money("the operator has no such money"))
            }
            Record::Admitted { job, .. } => self.admitted(job, at),
            Record::Bound { name, wallet, confirmed } => {
                let free = state
                    .names
                    .get(name)
                    .is_none_or(|(bound, was)| (*confirmed && !was) || (bound == wallet && confirmed != was));
                check(free, || Wrong::Name)
            }
            Record::Leased { job, term, wallet, window, claims, until } => {
                self.leased(job, (*term, *wallet), (*window, *until), claims, at)
            }
            Record::LeaseEnded { job, cause, .. } => self.lease_ended(job, *cause, at),
            Record::Accepted { job, lease, proof, .. } => self.accepted(job, lease, proof),
            Record::Closed { job, end } => self.closed(job, end, at),
            Record::AuditPicked { .. }
            | Record::AuditPaid { .. }
            | Record::ChallengeReturned { .. }
            | Record::Overturned { .. } => Err(Wrong::Audit("nothing of the kind is due")),
            Record::AuditClosed { leaf, end } => {
                let late = *end == AuditEnd::Unserved && state.is_late_audit(*leaf);
                let over = at >= state.epoch.opened_at + state.posted.epoch;
                check(late && over, || Wrong::Audit("it is not over"))
            }
            Record::Attested { leaf, attestation } => self.attested(*leaf, attestation),
            Record::Challenged { leaf, challenge, challenger, auditor, amount } => {
                self.challenged(*leaf, challenge, *challenger, (*auditor, *amount))
            }
            Record::Boundary(boundary) => self.boundary(boundary, at),
            Record::HeaderFixed { epoch, header } => {
                let due = state.sealing.as_ref().map(|sealing| (sealing.header.epoch, sealing.header.link()));
                check(due == Some((*epoch, *header)), || Wrong::OtherHeader)
            }
        }
    }

    /// The statement of a snapshot that `by`, if given, or else whoever it names, has signed for this pool.
    fn signed(
        &mut self,
        what: &'static str,
        signed: &Signed,
        by: Option<Address>,
    ) -> Result<Statement, Wrong> {
        let proven = self.proven.take(signed);
        let is_proven = proven.is_some();
        let read = || Statement::decode(&signed.payload).map_err(|_| Wrong::Statement(what));
        let statement = proven.map_or_else(read, Ok)?;
        check(statement.header.pool == self.state.pool, || Wrong::Statement(what))?;
        let signer = by.unwrap_or(statement.header.by);
        let right = signer == statement.header.by
            && (is_proven || signed.check_signature(self.keyring, &statement).is_ok());
        check(right, || Wrong::Signature(what, signer))?;
        self.tally.signatures += 1;
        Ok(statement)
    }

    fn job(&self, id: &JobId) -> Result<&JobEntry, Wrong> {
        self.state.job(id).ok_or(Wrong::Stage("known"))
    }

    fn admitted(&mut self, signed: &Signed, at: Timestamp) -> Verdict {
        let Statement { header, body: Body::Job(job) } = self.signed("job", signed, None)? else {
            return Err(Wrong::Statement("job"));
        };
        let state = self.state;
        let may = |holds, why| check(holds, || Wrong::Admission(why));
        let open = state.clients.get(&header.by).map_or(0, |client| client.open);
        let free = state.accounts.amount(&Account::ClientFree(header.by));
        may(!state.jobs.contains_key(&signed.id()), "it was admitted before")?;
        may(!state.nonces.contains(&(header.by, header.nonce)), "its nonce was used before")?;
        may(check_input(&job).is_ok(), "its workload is not built, or not asked for this")?;
        may(job.price >= MIN_PRICE, "its price is too low")?;
        may(job.not_after > at, "its time has passed")?;
        may(header.at <= at + SKEW, "it was signed later")?;
        may(job.not_after <= header.at + MAX_JOB_LIFE, "it lives longer than a day")?;
        may(open < state.posted.max_open_jobs, "its client has too many open jobs")?;
        may(job.price <= free, "its client has not so much money")?;
        may(state.accounts.balance(&Account::Shortfall) == 0, "the pool lacks money")
    }

    fn leased(
        &mut self,
        id: &JobId,
        (term, wallet): (u32, Address),
        (window, until): (u32, Timestamp),
        claims: &[Signed],
        at: Timestamp,
    ) -> Verdict {
        let due = |holds, why| check(holds, || Wrong::Lease(why));
        let state = self.state;
        let entry = state.job(id).ok_or(Wrong::Stage("known"))?;
        check(entry.stage == Stage::Pending && entry.attempt == term, || Wrong::Stage("pending"))?;
        due(entry.not_after > at, "the job's time has passed")?;
        due(
            window == race::window_index(entry.listed_at, at, state.posted.window),
            "it is of another window",
        )?;
        due(until == lease_end(entry, &state.posted, at), "it ends at another time")?;
        due((1..=MAX_NAMED_CLAIMS).contains(&claims.len()), "it names no claims, or too many")?;
        let mut ranks = Vec::with_capacity(claims.len());
        for claim in claims {
            let statement = self.signed("claim", claim, None)?;
            let names =
                matches!(&statement.body, Body::Claim(claim) if claim.job == *id && claim.attempt == term);
            due(names, "a claim that it names is for something else")?;
            ranks.push(self.rank(id, entry, statement.header.by, at)?);
        }
        due(ranks[0].wallet == wallet, "its holder is not the first that it names")?;
        let ordered = ranks.windows(2).all(|pair| pair[0] < pair[1]);
        check(ordered, || Wrong::Beaten(wallet))?;
        self.tally.leases += 1;
        Ok(())
    }

    /// The place of a wallet in the race, which it may take part in.
    fn rank(&mut self, id: &JobId, entry: &JobEntry, wallet: Address, at: Timestamp) -> Result<Rank, Wrong> {
        let may = |holds, why| check(holds, || Wrong::Lease(why));
        let barred = entry.barred.iter().any(|(barred, _)| *barred == wallet);
        may(!barred, "a wallet that it names has lost the job before")?;
        let cooled = self.state.standings.get(&wallet).is_none_or(|standing| standing.cooled_until() <= at);
        may(cooled, "a wallet that it names cools down")?;
        let rostered = self.state.rosters[&entry.epoch].0.get(&wallet);
        let established = rostered.is_some_and(|entry| entry.established);
        may(
            established || !self.holders.contains_key(&wallet),
            "a wallet that it names holds a lease already",
        )?;
        self.tally.draws += 1;
        Ok(Rank::of(&entry.seed, id, wallet, rostered, race::opens_class_1(&entry.seed)))
    }

    fn lease_ended(&mut self, id: &JobId, cause: EndCause, at: Timestamp) -> Verdict {
        let Stage::Leased(granted) = &self.job(id)?.stage else { return Err(Wrong::Stage("leased")) };
        let Granted { leased_at, until, .. } = **granted;
        let early = at.since(leased_at) <= FREE_RELEASE;
        let may = |holds, why| check(holds, || Wrong::End(why));
        match cause {
            EndCause::TimedOut => may(at >= until, "its time was not over"),
            EndCause::Released => may(early, "a release so late costs half a loss"),
            EndCause::ReleasedLate => may(!early, "a release so early costs nothing"),
            EndCause::NoProgress | EndCause::BadProof | EndCause::EngineFailure => Ok(()),
        }
    }

    fn accepted(&mut self, id: &JobId, lease: &Digest, proof: &Signed) -> Verdict {
        let holder = self.job(id)?.holder(lease).ok_or(Wrong::Stage("under that lease"))?;
        let Statement { body: Body::Proof(proof), .. } = self.signed("proof", proof, Some(holder))? else {
            return Err(Wrong::Statement("proof"));
        };
        let same = proof.job == *id && proof.lease == *lease;
        check(same, || Wrong::Acceptance("it is for another job or lease"))?;
        self.tally.acceptances += 1;
        Ok(())
    }

    fn closed(&mut self, id: &JobId, end: &Close, at: Timestamp) -> Verdict {
        let entry = self.job(id)?;
        check(entry.stage == Stage::Pending, || Wrong::Stage("pending"))?;
        let client = entry.client;
        match end {
            Close::Expired => check(entry.not_after <= at, || Wrong::Closing("its time had not passed")),
            Close::Unrunnable => check(self.state.is_unrunnable(id), || Wrong::Closing("it could be run")),
            Close::Cancelled(signed) => {
                let statement = self.signed("cancel", signed, Some(client))?;
                let this = matches!(&statement.body, Body::Cancel(cancel) if cancel.job == *id);
                check(this, || Wrong::Statement("cancel"))
            }
        }
    }

    fn attested(&mut self, at: LeafAt, signed: &Signed) -> Verdict {
        let statement = self.signed("attestation", signed, None)?;
        let Body::Attestation(attestation) = &statement.body else {
            return Err(Wrong::Statement("attestation"));
        };
        let same = at == LeafAt { epoch: attestation.epoch, index: attestation.index };
        check(same, || Wrong::Audit("it is of another proof"))?;
        match self.state.may_attest(at, &statement.header.by, attestation) {
            Attesting::Now => Ok(()),
            Attesting::Known => Err(Wrong::Audit("it was said before")),
            Attesting::Early => Err(Wrong::Audit("another auditor has to seal first")),
            Attesting::Never(why) => Err(Wrong::Audit(why)),
        }
    }

    fn challenged(
        &mut self,
        at: LeafAt,
        signed: &Signed,
        challenger: Address,
        due: (Address, MicroUsdc),
    ) -> Verdict {
        let statement = self.signed("challenge", signed, Some(challenger))?;
        let Body::Challenge(challenge) = &statement.body else { return Err(Wrong::Statement("challenge")) };
        let same = at == LeafAt { epoch: challenge.epoch, index: challenge.index };
        check(same, || Wrong::Audit("it is of another proof"))?;
        check(!self.state.is_paid_challenge(at, &signed.id()), || Wrong::Audit("it was paid for before"))?;
        let may = self.state.challengeable(at, &challenge.job, &challenger);
        let may = may.map_err(|(_, why)| Wrong::Audit(why))?;
        self.state.affords(&challenger, may.1).map_err(|(_, why)| Wrong::Audit(why))?;
        check(may == due, || Wrong::Audit("its auditor is not the next drawn, or it has another price"))
    }

    fn boundary(&mut self, boundary: &Boundary, at: Timestamp) -> Verdict {
        let state = self.state;
        let right = |holds, why| check(holds, || Wrong::Boundary(why));
        right(boundary.epoch == state.epoch.number, "it is of another epoch")?;
        right(boundary.end_seq == state.seq, "it has another place")?;
        right(state.sealing.is_none(), "the header before was not fixed")?;
        right(at >= state.epoch.opened_at + state.posted.epoch, "it comes early")?;
        let revealed = race::secret_commitment(&boundary.secret) == state.epoch.secret_hash;
        right(revealed, "its secret is not the one committed to")?;
        // A pool that posts a rate of audits cannot settle by the rules that had none.
        let least = if state.posted.audit_rate == 0 { SETTLEMENT_BEFORE } else { SETTLEMENT_OF_TEXT };
        let known = (least..=SETTLEMENT_VERSION).contains(&boundary.settlement);
        right(known, "it settles by other rules")?;
        right(state.late_audits().next().is_none(), "an audit is open too long")?;
        right(boundary.posted.window <= MAX_WINDOW, "its window is too long")?;
        check(boundary.rates == state.next_rates(&state.settlement()), || Wrong::Rates)?;
        let roster = &boundary.roster.0;
        right(roster.len() <= MAX_ROSTER, "its roster is too long")?;
        let sorted = roster.windows(2).all(|pair| pair[0].wallet < pair[1].wallet);
        right(sorted, "its roster is not in order")?;
        for entry in roster {
            check(self.follows(entry), || Wrong::Roster(entry.wallet))?;
        }
        self.tally.rostered += roster.len() as u64;
        Ok(())
    }

    fn follows(&self, entry: &RosterEntry) -> bool {
        let posted = &self.state.posted;
        let standing = self.state.standings.get(&entry.wallet).cloned().unwrap_or_default();
        let (fee, losses) = (standing.fee(), standing.loss_halves());
        entry.w == standing.weight(posted)
            && (entry.fee168, entry.loss24) == (fee, losses)
            && entry.established == standing.is_established(posted)
            && entry.models.len() <= MAX_MODELS
    }
}
