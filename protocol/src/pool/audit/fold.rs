//! The audits of acceptances whose money is held, as a fold: what has come makes what is due next.

use super::audit_price;
use crate::audit::{auditors, is_picked};
use crate::codec::{JobId, Link};
use crate::distance::Measure;
use crate::finding::{AuditEnd, Finding, Outcome, is_error, outcome};
use crate::money::MicroUsdc;
use crate::pool::held::HELD_EPOCHS;
use crate::pool::record::{Boundary, LeafAt, Record};
use crate::pool::{SETTLEMENT_VERSION, Stage, State};
use crate::statement::{AuditPicked, Body, JobType, Proof, Signed, Statement, Word};
use serde::{Deserialize, Serialize};
use swarm_crypto::address::Address;
use swarm_crypto::digest::Digest;

/// The boundary of M + 4 closes the audits of epoch M that are open still.
pub const AUDIT_EPOCHS: u64 = 4;
/// An auditor has at least one whole epoch to seal: until the boundary of the epoch after the one in which it was drawn.
/// It has another to open, as others may take all of that time to seal.
const SEAT_EPOCHS: u64 = 1;

/// The audit of one acceptance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Audit {
    /// Who may look, as drawn; the first so many have been asked.
    pub order: Vec<Address>,
    /// Who was asked, in that order.
    pub seats: Vec<Seat>,
    /// What they are to look at.
    pub subject: Subject,
    /// Whether somebody is to speak yet; until then the acceptance's money waits.
    pub open: bool,
    /// How it ended last.
    pub end: Option<AuditEnd>,
}

/// What an auditor looks at.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Subject {
    /// The block of the client's snapshot of the job.
    pub asked: Link,
    /// The proof's id.
    pub id: Link,
    /// The proof.
    pub proof: Proof,
}

/// An auditor of one acceptance.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Seat {
    /// Who.
    pub auditor: Address,
    /// The epoch in which it was asked.
    pub since: u64,
    /// What it has said.
    pub said: Said,
    /// The challenger who asked for it; none if the pool did.
    pub challenge: Option<Paying>,
    /// Whether it has said what, as the audit ended last, it cannot have seen.
    pub erred: bool,
}

/// What an auditor has said.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Said {
    /// Nothing yet.
    Nothing,
    /// The seal of its finding.
    Sealed(Digest),
    /// Its finding.
    Opened(Finding),
    /// Nothing in time.
    Lapsed,
}

/// A challenger's money.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Paying {
    /// Whose.
    pub challenger: Address,
    /// What it signed: the same statement pays once.
    pub challenge: Link,
    /// In which epoch it was paid to the auditor.
    pub paid: Option<u64>,
    /// Whether the challenger has it back.
    pub returned: bool,
}

impl Paying {
    /// What a challenger owes for what it signed.
    pub(in crate::pool) fn of(challenger: Address, challenge: Link) -> Self {
        Self { challenger, challenge, paid: None, returned: false }
    }
}

impl Seat {
    /// Whether it is to speak yet.
    pub fn is_live(&self) -> bool {
        matches!(self.said, Said::Nothing | Said::Sealed(_))
    }

    /// The boundary at which it is too late for the word that is missing.
    pub fn until(&self) -> u64 {
        match self.said {
            Said::Nothing => self.since + SEAT_EPOCHS,
            Said::Sealed(_) | Said::Opened(_) | Said::Lapsed => self.since + 2 * SEAT_EPOCHS,
        }
    }
}

impl Audit {
    /// Who would be asked next.
    pub fn next(&self) -> Option<Address> {
        self.order.get(self.seats.len()).copied()
    }

    /// The seat of a wallet.
    pub fn seat(&self, auditor: &Address) -> Option<&Seat> {
        self.seats.iter().find(|seat| seat.auditor == *auditor)
    }

    fn seat_mut(&mut self, auditor: &Address) -> &mut Seat {
        self.seats.iter_mut().find(|seat| seat.auditor == *auditor).expect("only who was asked speaks")
    }

    /// Whether what is sealed may be opened: once nobody can learn anything from it.
    pub fn is_sealed(&self) -> bool {
        !self.seats.iter().any(|seat| seat.said == Said::Nothing)
    }

    /// Whether the pool asked first, not a challenger.
    fn is_asked_by_pool(&self) -> bool {
        self.seats.first().is_none_or(|seat| seat.challenge.is_none())
    }

    fn is_waiting(&self) -> bool {
        self.seats.iter().any(Seat::is_live)
    }

    fn findings(&self) -> Vec<Finding> {
        let found = |seat: &Seat| match seat.said {
            Said::Opened(finding) => Some(finding),
            Said::Nothing | Said::Sealed(_) | Said::Lapsed => None,
        };
        self.seats.iter().filter_map(found).collect()
    }
}

impl State {
    /// The audit of an acceptance, if it was asked for.
    pub fn audit(&self, at: LeafAt) -> Option<&Audit> {
        self.held.get(&at.epoch)?.audits.get(&at.index)
    }

    fn audit_mut(&mut self, at: LeafAt) -> &mut Audit {
        let held = self.held.get_mut(&at.epoch).expect("what is audited is held");
        held.audits.get_mut(&at.index).expect("an audit was asked for")
    }

    /// The record that audits ask for before any other may come.
    pub fn due_audit(&self) -> Option<&Record> {
        self.due.front()
    }

    /// Audits that are open so late that the open epoch's boundary closes them.
    pub fn late_audits(&self) -> impl Iterator<Item = LeafAt> {
        let late = self.held.iter().filter(|(epoch, _)| self.is_late(**epoch));
        late.flat_map(|(epoch, held)| held.open_audits().map(|index| LeafAt { epoch: *epoch, index }))
    }

    /// Whether the open epoch's boundary closes this audit.
    pub fn is_late_audit(&self, at: LeafAt) -> bool {
        self.is_late(at.epoch) && self.audit(at).is_some_and(|audit| audit.open)
    }

    fn is_late(&self, epoch: u64) -> bool {
        epoch + AUDIT_EPOCHS <= self.epoch.number
    }

    /// Who audits an acceptance next, if it can be audited at all: its epoch's draw is known and its money is held.
    pub fn next_auditor(&self, at: LeafAt) -> Option<Address> {
        match self.audit(at) {
            Some(audit) => audit.next(),
            None => self.auditors(at).into_iter().next(),
        }
    }

    /// Whether an acceptance can be challenged: its epoch posts a rate of audits and its header is fixed, its money is
    /// held, it stands, and nobody is looking.
    pub fn may_challenge(&self, at: LeafAt) -> bool {
        let fixed = self.last_header.is_some_and(|(epoch, _)| at.epoch <= epoch);
        let audited = self.held.get(&at.epoch).is_some_and(|held| held.secret.is_some());
        let held = at.epoch + HELD_EPOCHS >= self.epoch.number;
        let stands = self.find_leaf(at).is_some_and(|leaf| !leaf.overturned);
        let idle = match self.audit(at) {
            Some(audit) => !audit.open,
            None => self.find_leaf(at).is_some_and(|leaf| self.subject(at.epoch, &leaf.job).is_some()),
        };
        fixed && audited && held && stands && idle
    }

    fn auditors(&self, at: LeafAt) -> Vec<Address> {
        let Some(leaf) = self.find_leaf(at) else { return Vec::new() };
        let Some(secret) = self.held[&at.epoch].secret else { return Vec::new() };
        let roster = &self.rosters[&at.epoch].0;
        let barred = [leaf.wallet, leaf.client, self.genesis.operator];
        auditors(&secret, &leaf.lease, roster, &self.models[leaf.model as usize], &barred)
    }

    /// What an epoch's secret picks of its acceptances, noted with the boundary that reveals it. Where the epoch posts no
    /// rate nobody audits, not even for money.
    pub(in crate::pool) fn pick(&mut self, boundary: &Boundary, rate: u32) {
        let Boundary { epoch, secret, settlement, .. } = *boundary;
        let Some(held) = self.held.get_mut(&epoch).filter(|_| rate > 0) else { return };
        held.settlement = settlement;
        let held = &self.held[&epoch];
        let picked = held.leaves.iter().zip(0..).filter(|(leaf, _)| is_picked(&secret, &leaf.lease, rate));
        let picked =
            picked.filter_map(|(leaf, index)| Some((index, self.subject(epoch, &leaf.job)?))).collect();
        let held = self.held.get_mut(&epoch).expect("it was just there");
        (held.secret, held.picked) = (Some(secret), picked);
    }

    /// With an epoch's header come its picks, and others take the place of auditors who were silent.
    pub(in crate::pool) fn ask_auditors(&mut self, epoch: u64) {
        let late: Vec<LeafAt> = self.lapsing().collect();
        for at in late {
            self.lapse(at);
        }
        let Some(held) = self.held.get(&epoch) else { return };
        for index in held.picked.keys().copied().collect::<Vec<_>>() {
            let leaf = LeafAt { epoch, index };
            let first = self.open_audit(leaf).next();
            self.due.push_back(match first {
                Some(auditor) => Record::AuditPicked { leaf, auditor },
                None => Record::AuditClosed { leaf, end: AuditEnd::Unserved },
            });
        }
    }

    fn lapsing(&self) -> impl Iterator<Item = LeafAt> {
        let late = |seat: &Seat| seat.is_live() && seat.until() < self.epoch.number;
        self.held.iter().flat_map(move |(epoch, held)| {
            let audits = held.audits.iter().filter(move |(_, audit)| audit.seats.iter().any(late));
            audits.map(|(index, _)| LeafAt { epoch: *epoch, index: *index })
        })
    }

    fn lapse(&mut self, at: LeafAt) {
        let open = self.epoch.number;
        self.silence(at, |seat| seat.until() < open);
        if !self.audit_mut(at).is_waiting() {
            self.conclude(at);
        }
    }

    /// Who has not spoken and is too late will not speak any more; whoever has paid for that has the money back.
    fn silence(&mut self, at: LeafAt, is_late: impl Fn(&Seat) -> bool) {
        let amount = audit_price(self.leaf(at).price);
        let mut unpaid = Vec::new();
        for seat in self.audit_mut(at).seats.iter_mut().filter(|seat| seat.is_live() && is_late(seat)) {
            seat.said = Said::Lapsed;
            unpaid.extend(seat.challenge.map(|paying| paying.challenger));
        }
        let back = |challenger| Record::ChallengeReturned { leaf: at, challenger, amount };
        self.due.extend(unpaid.into_iter().map(back));
    }

    fn open_audit(&mut self, at: LeafAt) -> &mut Audit {
        let order = if self.audit(at).is_none() { self.auditors(at) } else { Vec::new() };
        let known = self.subject(at.epoch, &self.leaf(at).job);
        let held = self.held.get_mut(&at.epoch).expect("what is audited is held");
        let subject = held.picked.remove(&at.index).or(known);
        let audit = held.audits.entry(at.index).or_insert_with(|| Audit {
            order,
            seats: Vec::new(),
            subject: subject.expect("only what is remembered is audited"),
            open: true,
            end: None,
        });
        audit.open = true;
        audit
    }

    /// What an auditor would look at; nothing where the rules of its epoch do not say how to compute it again.
    fn subject(&self, epoch: u64, job: &JobId) -> Option<Subject> {
        let entry = self.jobs.get(job)?;
        let is_audited = match self.held.get(&epoch)?.settlement {
            SETTLEMENT_VERSION.. => Measure::of(entry.job_type).is_some(),
            _ => entry.job_type == JobType::LlmGen,
        };
        match &entry.stage {
            Stage::Accepted(_) if !is_audited => None,
            Stage::Accepted(accepted) => {
                let (asked, id, proof) = (accepted.asked, accepted.proof, accepted.body.clone());
                Some(Subject { asked, id, proof })
            }
            Stage::Pending | Stage::Leased(_) | Stage::Expired | Stage::Cancelled | Stage::Unrunnable => None,
        }
    }

    pub(in crate::pool) fn seat(&mut self, at: LeafAt, auditor: Address, challenge: Option<Paying>) {
        let since = self.epoch.number;
        let seat = Seat { auditor, since, said: Said::Nothing, challenge, erred: false };
        self.open_audit(at).seats.push(seat);
    }

    /// An auditor's word; once all have spoken, what follows from it is due.
    pub(in crate::pool) fn attest(&mut self, at: LeafAt, attestation: &Signed) {
        let (auditor, word) = word_of(attestation);
        let amount = audit_price(self.leaf(at).price);
        let audit = self.audit_mut(at);
        match word {
            Word::Sealed(seal) => audit.seat_mut(&auditor).said = Said::Sealed(seal),
            Word::Opened { finding, .. } => {
                audit.seat_mut(&auditor).said = Said::Opened(finding);
                let waits = audit.is_waiting();
                self.due.push_back(Record::AuditPaid { leaf: at, auditor, amount });
                if !waits {
                    self.conclude(at);
                }
            }
        }
    }

    /// Nobody is to speak: the audit ends, or others are asked.
    fn conclude(&mut self, at: LeafAt) {
        let audit = self.audit_mut(at);
        let findings = audit.findings();
        let left = audit.order.get(audit.seats.len()..).unwrap_or_default();
        let closed = |end| vec![Record::AuditClosed { leaf: at, end }];
        let due = match outcome(&findings) {
            Outcome::Decided(end) => closed(end),
            // Who challenges pays for one look, and not for others to look in its place.
            Outcome::Open(_) if left.is_empty() || findings.is_empty() && !audit.is_asked_by_pool() => {
                closed(AuditEnd::Unserved)
            }
            Outcome::Open(more) => {
                let next = left.iter().take(more);
                next.map(|auditor| Record::AuditPicked { leaf: at, auditor: *auditor }).collect()
            }
        };
        self.due.extend(due);
    }

    /// What the end of an audit brings: a look at the wallet's score, the acceptance overturned, challengers repaid.
    pub(in crate::pool) fn close_audit(&mut self, at: LeafAt, end: AuditEnd) {
        self.silence(at, |_| true);
        let audit = self.audit_mut(at);
        let before = audit.end;
        audit.end = if end == AuditEnd::Unserved { before.or(Some(end)) } else { Some(end) };
        audit.open = false;
        let right: Vec<Address> = audit.seats.iter().filter_map(Seat::repaid_if_right).collect();
        let asked_by_pool = audit.is_asked_by_pool();
        let (leaf, mut overturn) = (self.leaf(at), end == AuditEnd::Contradicts);
        let (wallet, amount) = (leaf.wallet, audit_price(leaf.price));
        let stands = !leaf.overturned;
        self.judge_auditors(at, end);
        match end {
            AuditEnd::Unserved => self.epoch.unserved += 1,
            _ if before == Some(end) => {}
            // Nobody makes its score better by having its own proofs looked at.
            AuditEnd::Holds if !asked_by_pool => {}
            AuditEnd::Holds | AuditEnd::Contradicts | AuditEnd::Differs => {
                overturn |= self.score(wallet, end == AuditEnd::Differs);
            }
        }
        if overturn && stands {
            self.due.push_back(Record::Overturned { leaf: at });
        }
        if matches!(end, AuditEnd::Contradicts | AuditEnd::Differs) && before != Some(end) {
            let back = |challenger| Record::ChallengeReturned { leaf: at, challenger, amount };
            self.due.extend(right.into_iter().map(back));
        }
    }

    /// Notes who has erred, as this end shows; what an earlier end showed and this one does not is taken back.
    fn judge_auditors(&mut self, at: LeafAt, end: AuditEnd) {
        if end == AuditEnd::Unserved {
            return;
        }
        let audit = self.audit_mut(at);
        let (findings, mut news) = (audit.findings(), Vec::new());
        for seat in &mut audit.seats {
            let Said::Opened(finding) = seat.said else { continue };
            let erred = is_error(finding, end, &findings);
            if std::mem::replace(&mut seat.erred, erred) != erred {
                news.push((seat.auditor, erred));
            }
        }
        for (auditor, erred) in news {
            self.standings.entry(auditor).or_default().judge_auditor(self.epoch.number, erred);
        }
    }

    /// Notes how an audit of a wallet's proof ended; true if it missed and has missed too often.
    fn score(&mut self, wallet: Address, differs: bool) -> bool {
        if differs {
            self.standings.entry(wallet).or_default();
        }
        let Some(standing) = self.standings.get_mut(&wallet) else { return false };
        standing.audited(self.epoch.number, differs);
        differs && standing.is_condemned()
    }

    /// An auditor is paid: whose money that was is the challenger's debit.
    pub(in crate::pool) fn paid_auditor(&mut self, at: LeafAt, auditor: Address, amount: MicroUsdc) {
        let epoch = self.epoch.number;
        let challenge = self.audit_mut(at).seat_mut(&auditor).challenge.as_mut();
        let challenger = challenge.map(|paying| {
            paying.paid = Some(epoch);
            paying.challenger
        });
        self.hold_for_auditor(auditor, challenger, amount);
    }

    pub(in crate::pool) fn return_challenge(&mut self, at: LeafAt, challenger: Address, amount: MicroUsdc) {
        let open = self.epoch.number;
        let seats = &mut self.audit_mut(at).seats;
        let mut paying = seats.iter_mut().filter_map(|seat| seat.challenge.as_mut());
        let paying = paying.rfind(|paying| paying.challenger == challenger && !paying.returned);
        let paying = paying.expect("only what was paid is returned");
        paying.returned = true;
        // Once it was released with the auditor's pay it stays a debit.
        if let Some(paid) = paying.paid.filter(|paid| paid + HELD_EPOCHS >= open) {
            self.undo_debit(paid, challenger, amount);
        }
    }

    /// Whose money a seat costs, and whether it was paid to the auditor.
    pub(in crate::pool) fn unreturned(&self, at: LeafAt, challenger: &Address) -> Option<Paying> {
        let mut paying = self.audit(at)?.seats.iter().filter_map(|seat| seat.challenge);
        paying.rfind(|paying| paying.challenger == *challenger && !paying.returned)
    }

    /// What an auditor is told.
    pub fn audit_picked(&self, at: LeafAt, auditor: &Address) -> Option<AuditPicked> {
        let (leaf, audit) = (self.find_leaf(at)?, self.audit(at)?);
        let seat = audit.seat(auditor).filter(|seat| seat.is_live())?;
        let Subject { asked, id, proof } = &audit.subject;
        Some(AuditPicked {
            epoch: at.epoch,
            index: at.index,
            auditor: *auditor,
            job: leaf.job,
            asked: *asked,
            proof: *id,
            wallet: leaf.wallet,
            lease: leaf.lease,
            transcript: proof.transcript,
            transcript_bytes: proof.transcript_bytes,
            output: proof.output,
            output_bytes: proof.output_bytes,
            open: audit.is_sealed(),
            until: seat.until().min(at.epoch + AUDIT_EPOCHS),
            challenge: seat.challenge.map(|paying| paying.challenge),
        })
    }

    /// Every auditor that is to speak, and of what.
    pub(in crate::pool) fn live_seats(&self) -> impl Iterator<Item = (Address, LeafAt)> {
        self.held.iter().flat_map(|(epoch, held)| {
            held.audits.iter().flat_map(move |(index, audit)| {
                let live = audit.seats.iter().filter(|seat| seat.is_live());
                live.map(move |seat| (seat.auditor, LeafAt { epoch: *epoch, index: *index }))
            })
        })
    }
}

impl Seat {
    /// The challenger, if its money went to the auditor and has not come back.
    fn repaid_if_right(&self) -> Option<Address> {
        let paid = self.challenge.filter(|paying| paying.paid.is_some() && !paying.returned);
        paid.map(|paying| paying.challenger)
    }
}

/// Who attests, and what.
fn word_of(signed: &Signed) -> (Address, Word) {
    let statement = Statement::reread(&signed.payload).expect("recorded attestations were decoded before");
    match statement.body {
        Body::Attestation(attestation) => (statement.header.by, attestation.word),
        _ => panic!("only attestations are recorded as such"),
    }
}
