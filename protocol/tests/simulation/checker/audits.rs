//! Audits, reckoned a second time: which row must come next, who looks, what it comes to, and whose money that moves.

use super::book::{Acceptance, Book, Posting, genuine};
use super::{Law, must};
use crate::mint::Mint;
use std::collections::{BTreeMap, BTreeSet, VecDeque};
use swarm_crypto::address::Address;
use swarm_crypto::digest::{Digest, keyed};
use swarm_protocol::codec::{Link, encode};
use swarm_protocol::finding::{AuditEnd, Finding};
use swarm_protocol::money::{Account, MicroUsdc};
use swarm_protocol::pool::{LeafAt, Record};
use swarm_protocol::statement::{Body, JobType, Signed, Word};

/// The boundary of M + 4 finds no audit of M open.
pub(crate) const LAST: u64 = 4;

/// What audits leave beyond the acceptances.
#[derive(Debug, Default)]
pub(crate) struct Audits {
    due: VecDeque<Record>,
    /// By wallet: the epoch of its newest audit, and whether each differed.
    scores: BTreeMap<Address, (u64, Vec<bool>)>,
    /// By auditor: the audits in which it has erred. No run is long enough to forget them.
    errors: BTreeMap<Address, BTreeSet<LeafAt>>,
}

#[derive(Debug)]
pub(crate) struct Audit {
    order: Vec<Address>,
    pub(crate) seats: Vec<Seat>,
    pub(crate) open: bool,
    end: Option<AuditEnd>,
}

#[derive(Debug)]
pub(crate) struct Seat {
    pub(crate) auditor: Address,
    pub(crate) seq: u64,
    since: u64,
    pub(crate) said: Said,
    challenge: Option<Asking>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Said {
    Nothing,
    Sealed(Digest),
    Opened(Finding),
    Late,
}

/// Somebody's money for one look.
#[derive(Debug, Clone, Copy)]
struct Asking {
    by: Address,
    statement: Link,
    paid_in: Option<u64>,
    returned: bool,
}

impl Seat {
    fn lives(&self) -> bool {
        matches!(self.said, Said::Nothing | Said::Sealed(_))
    }

    fn is_late(&self, open: u64) -> bool {
        let patience = if self.said == Said::Nothing { 1 } else { 2 };
        self.lives() && self.since + patience < open
    }
}

impl Audit {
    fn waits(&self) -> bool {
        self.seats.iter().any(Seat::lives)
    }

    fn pool_asked(&self) -> bool {
        self.seats.first().is_none_or(|seat| seat.challenge.is_none())
    }

    fn opened(&self) -> Vec<(Address, Finding)> {
        let said = self.seats.iter().filter_map(|seat| match seat.said {
            Said::Opened(finding) => Some((seat.auditor, finding)),
            Said::Nothing | Said::Sealed(_) | Said::Late => None,
        });
        said.collect()
    }

    /// Money of challengers that is neither an auditor's nor theirs again.
    pub(crate) fn reserved(&self) -> impl Iterator<Item = Address> {
        let asking = self.seats.iter().filter_map(|seat| seat.challenge);
        asking.filter(|asking| asking.paid_in.is_none() && !asking.returned).map(|asking| asking.by)
    }
}

fn side(finding: Finding) -> AuditEnd {
    match finding {
        Finding::Holds => AuditEnd::Holds,
        Finding::Contradicts => AuditEnd::Contradicts,
        Finding::Differs(_) => AuditEnd::Differs,
    }
}

/// The end, or how many more are asked.
fn verdict(said: &[(Address, Finding)]) -> Result<AuditEnd, usize> {
    let mut votes = BTreeMap::<AuditEnd, usize>::new();
    said.iter().for_each(|(_, finding)| *votes.entry(side(*finding)).or_default() += 1);
    let mut ranked: Vec<(usize, AuditEnd)> = votes.into_iter().map(|(end, count)| (count, end)).collect();
    ranked.sort_unstable_by(|a, b| b.cmp(a));
    match ranked[..] {
        [(1, AuditEnd::Holds)] => Ok(AuditEnd::Holds),
        [(1, _)] => Err(2),
        [(most, end)] if most > 1 => Ok(end),
        [(most, end), (next, _), ..] if most > 1 && most > next => Ok(end),
        _ => Err(1),
    }
}

/// Whether it was called good, and is not by far.
fn errs(found: Finding, end: AuditEnd, said: &[(Address, Finding)]) -> bool {
    let means = said.iter().filter_map(|(_, finding)| match finding {
        Finding::Differs(mean) => Some(*mean),
        _ => None,
    });
    let seen = match end {
        AuditEnd::Contradicts => true,
        AuditEnd::Differs => means.min().is_some_and(|least| least >= 2048),
        AuditEnd::Holds | AuditEnd::Unserved => false,
    };
    seen && found == Finding::Holds
}

pub(crate) fn price(price: u64) -> u64 {
    (price / 4).max(1)
}

impl Book {
    /// A row that audits make due comes at once, and none of its kind at any other time.
    pub(crate) fn must_be_due(&mut self, record: &Record) -> Law {
        if let Some(due) = self.audits.due.pop_front() {
            must!(*record == due, "{record:?} comes where {due:?} is due");
            return Ok(());
        }
        let may = match record {
            Record::AuditPicked { .. }
            | Record::AuditPaid { .. }
            | Record::ChallengeReturned { .. }
            | Record::Overturned { .. } => false,
            Record::AuditClosed { leaf, end } => {
                let late = leaf.epoch + LAST <= self.epoch.number && self.acceptance(*leaf)?.waits();
                late && *end == AuditEnd::Unserved
            }
            _ => true,
        };
        must!(may, "nothing makes {record:?} due");
        Ok(())
    }

    pub(crate) fn acceptance(&self, at: LeafAt) -> Result<&Acceptance, String> {
        let index = usize::try_from(at.index).expect("few acceptances");
        let accepted = self.held.get(&at.epoch).and_then(|held| held.accepted.get(index));
        accepted.ok_or_else(|| format!("{at:?} is no acceptance that is held"))
    }

    fn audit_mut(&mut self, at: LeafAt) -> Result<&mut Audit, String> {
        let index = usize::try_from(at.index).expect("few acceptances");
        let accepted = self.held.get_mut(&at.epoch).and_then(|held| held.accepted.get_mut(index));
        accepted.and_then(|accepted| accepted.audit.as_mut()).ok_or_else(|| format!("{at:?} is not audited"))
    }

    /// Established wallets with the model that have no part in the job, by their draws.
    fn order(&self, at: LeafAt) -> Result<Vec<Address>, String> {
        let accepted = self.acceptance(at)?;
        let secret = self.held[&at.epoch].secret.ok_or("an audit where none are posted")?;
        let roster = &self.rosters[usize::try_from(at.epoch).expect("few epochs")].0;
        let party = [accepted.wallet, accepted.client, self.truth.operator];
        let mut drawn = BTreeMap::new();
        for entry in roster.iter().filter(|entry| entry.established && !party.contains(&entry.wallet)) {
            if entry.models.contains(&accepted.model) {
                let draw = keyed(secret.as_bytes(), &encode(&(accepted.lease, entry.wallet)));
                drawn.insert(draw, entry.wallet);
            }
        }
        Ok(drawn.into_values().take(7).collect())
    }

    /// With a header: silent auditors are replaced, and the epoch's picks are asked for.
    pub(crate) fn ask_auditors(&mut self, epoch: u64) -> Law {
        let open = self.epoch.number;
        let places = |held: &super::book::Held, epoch: u64| {
            let audited = held.accepted.iter().zip(0..).filter(|(accepted, _)| {
                accepted.audit.as_ref().is_some_and(|audit| audit.seats.iter().any(|seat| seat.is_late(open)))
            });
            audited.map(|(_, index)| LeafAt { epoch, index }).collect::<Vec<_>>()
        };
        let late: Vec<LeafAt> = self.held.iter().flat_map(|(epoch, held)| places(held, *epoch)).collect();
        for at in late {
            self.silence(at, |seat| seat.is_late(open))?;
            if !self.audit_mut(at)?.waits() {
                self.conclude(at)?;
            }
        }
        let Some(held) = self.held.get(&epoch) else { return Ok(()) };
        let Some(secret) = held.secret else { return Ok(()) };
        let rate = held.rate;
        let is_picked = |accepted: &Acceptance| {
            let draw = keyed(secret.as_bytes(), &encode(&(accepted.lease,)));
            let share = draw.0.iter().rev().fold(0u64, |low, byte| (u64::from(*byte) * 10_000 + low) / 256);
            share < u64::from(rate) && self.jobs[&accepted.job].body.job_type != JobType::TorchBench
        };
        let picked = held.accepted.iter().zip(0..).filter(|(accepted, _)| is_picked(accepted));
        let picked: Vec<LeafAt> = picked.map(|(_, index)| LeafAt { epoch, index }).collect();
        for leaf in picked {
            let order = self.order(leaf)?;
            self.audits.due.push_back(match order.first() {
                Some(auditor) => Record::AuditPicked { leaf, auditor: *auditor },
                None => Record::AuditClosed { leaf, end: AuditEnd::Unserved },
            });
            self.begin(leaf, order);
        }
        Ok(())
    }

    fn begin(&mut self, at: LeafAt, order: Vec<Address>) {
        let index = usize::try_from(at.index).expect("few acceptances");
        let accepted = &mut self.held.get_mut(&at.epoch).expect("it was just seen").accepted[index];
        let audit = Audit { order, seats: Vec::new(), open: true, end: None };
        accepted.audit.get_or_insert(audit).open = true;
    }

    pub(crate) fn picked(&mut self, at: LeafAt, auditor: Address) -> Law {
        self.seat(at, auditor, None)
    }

    fn seat(&mut self, at: LeafAt, auditor: Address, challenge: Option<Asking>) -> Law {
        let (seq, since) = (self.seq, self.epoch.number);
        let audit = self.audit_mut(at)?;
        audit.open = true;
        audit.seats.push(Seat { auditor, seq, since, said: Said::Nothing, challenge });
        Ok(())
    }

    pub(crate) fn attested(&mut self, at: LeafAt, signed: &Signed, mint: &Mint) -> Law {
        let (_, statement) = genuine(signed, mint)?;
        let Body::Attestation(said) = statement.body else { return Err("an attestation is none".into()) };
        let (by, pool) = (statement.header.by, self.truth.pool);
        let accepted = self.acceptance(at)?;
        let (lease, amount) = (accepted.lease, MicroUsdc(price(accepted.price)));
        must!((said.epoch, said.index, said.lease) == (at.epoch, at.index, lease), "{said:?} is of {at:?}");
        let audit = self.audit_mut(at)?;
        let all_sealed = audit.seats.iter().all(|seat| seat.said != Said::Nothing);
        let seat = audit.seats.iter_mut().find(|seat| seat.auditor == by && seat.lives());
        let Some(seat) = seat else { return Err(format!("{by} is not asked of {at:?}")) };
        match (seat.said, said.word) {
            (Said::Nothing, Word::Sealed(seal)) => {
                seat.said = Said::Sealed(seal);
                return Ok(());
            }
            (Said::Sealed(seal), Word::Opened { finding, salt }) => {
                let due = keyed(&salt.0, &encode(&(pool, lease, by, finding)));
                must!(seal == due, "{by} opens what it has not sealed");
                must!(all_sealed, "{by} opens before all have sealed");
                seat.said = Said::Opened(finding);
            }
            (before, word) => return Err(format!("{by} says {word:?} after {before:?}")),
        }
        let over = !audit.waits();
        self.audits.due.push_back(Record::AuditPaid { leaf: at, auditor: by, amount });
        if over { self.conclude(at) } else { Ok(()) }
    }

    /// The operator pays, or whoever asked for this look.
    pub(crate) fn audit_paid(
        &mut self,
        at: LeafAt,
        by: Address,
        amount: u64,
    ) -> Result<Vec<Posting>, String> {
        let epoch = self.epoch.number;
        let seat = self.audit_mut(at)?.seats.iter_mut().find(|seat| seat.auditor == by);
        let asking = seat.and_then(|seat| seat.challenge.as_mut()).map(|asking| {
            asking.paid_in = Some(epoch);
            asking.by
        });
        let held = self.held.entry(epoch).or_default();
        *held.audit_pay.entry(by).or_default() += amount;
        let to = Account::MinerHeld(by);
        Ok(match asking {
            Some(challenger) => {
                *held.challenge_debits.entry(challenger).or_default() += amount;
                vec![(Account::ClientReserved(challenger), to, amount)]
            }
            None => self.covered(Account::OperatorHeld(self.truth.operator), to, amount, 0),
        })
    }

    /// What an account lacks comes from the shortfall; `more` is what the same row has just put into it.
    fn covered(&self, from: Account, to: Account, amount: u64, more: u64) -> Vec<Posting> {
        let has = self.balances.get(&from).copied().unwrap_or(0);
        let has = u64::try_from(has).expect("it is not overdrawn") + more;
        vec![(from, to, amount.min(has)), (Account::Shortfall, to, amount.saturating_sub(has))]
    }

    fn silence(&mut self, at: LeafAt, late: impl Fn(&Seat) -> bool) -> Law {
        let amount = MicroUsdc(price(self.acceptance(at)?.price));
        let mut back = Vec::new();
        for seat in self.audit_mut(at)?.seats.iter_mut().filter(|seat| seat.lives() && late(seat)) {
            seat.said = Said::Late;
            back.extend(seat.challenge.map(|asking| asking.by));
        }
        let returned = |challenger| Record::ChallengeReturned { leaf: at, challenger, amount };
        self.audits.due.extend(back.into_iter().map(returned));
        Ok(())
    }

    fn conclude(&mut self, leaf: LeafAt) -> Law {
        let audit = self.audit_mut(leaf)?;
        let (said, left) = (audit.opened(), audit.order[audit.seats.len()..].to_vec());
        let only_challenged = said.is_empty() && !audit.pool_asked();
        let due: Vec<Record> = match verdict(&said) {
            Ok(end) => vec![Record::AuditClosed { leaf, end }],
            Err(_) if left.is_empty() || only_challenged => {
                vec![Record::AuditClosed { leaf, end: AuditEnd::Unserved }]
            }
            Err(more) => {
                left.into_iter().take(more).map(|auditor| Record::AuditPicked { leaf, auditor }).collect()
            }
        };
        self.audits.due.extend(due);
        Ok(())
    }

    pub(crate) fn audit_closed(&mut self, leaf: LeafAt, end: AuditEnd) -> Law {
        self.silence(leaf, |_| true)?;
        let accepted = self.acceptance(leaf)?;
        let (wallet, stands, amount) = (accepted.wallet, accepted.stands, MicroUsdc(price(accepted.price)));
        let audit = self.audit_mut(leaf)?;
        audit.open = false;
        if end == AuditEnd::Unserved {
            self.epoch.unserved += 1;
            return Ok(());
        }
        let (before, by_pool, said) = (audit.end.replace(end), audit.pool_asked(), audit.opened());
        let paid = audit.seats.iter().filter_map(|seat| seat.challenge);
        let paid: Vec<Address> = paid
            .filter(|asking| asking.paid_in.is_some() && !asking.returned)
            .map(|asking| asking.by)
            .collect();
        for (auditor, finding) in &said {
            let errors = self.audits.errors.entry(*auditor).or_default();
            match errs(*finding, end, &said) {
                true => errors.insert(leaf),
                false => errors.remove(&leaf),
            };
        }
        let counts = before != Some(end) && (end != AuditEnd::Holds || by_pool);
        let condemned = counts && self.score(wallet, end == AuditEnd::Differs);
        if stands && (end == AuditEnd::Contradicts || condemned) {
            self.audits.due.push_back(Record::Overturned { leaf });
        }
        if end != AuditEnd::Holds && before != Some(end) {
            let returned = |challenger| Record::ChallengeReturned { leaf, challenger, amount };
            self.audits.due.extend(paid.into_iter().map(returned));
        }
        Ok(())
    }

    fn score(&mut self, wallet: Address, differs: bool) -> bool {
        let (newest, audits) = self.audits.scores.entry(wallet).or_default();
        *newest = self.epoch.number;
        audits.push(differs);
        differs && self.is_condemned(&wallet)
    }

    /// Three of its last twenty differed. No run is long enough to forget them.
    pub(crate) fn is_condemned(&self, wallet: &Address) -> bool {
        let audits = self.audits.scores.get(wallet).map_or(&[][..], |(_, audits)| audits);
        audits.iter().rev().take(20).filter(|differs| **differs).count() >= 3
    }

    pub(crate) fn is_careless(&self, wallet: &Address) -> bool {
        self.audits.errors.get(wallet).is_some_and(|errors| errors.len() >= 2)
    }

    pub(crate) fn challenged(
        &mut self,
        at: LeafAt,
        signed: &Signed,
        (by, auditor, amount): (Address, Address, u64),
        mint: &Mint,
    ) -> Result<Vec<Posting>, String> {
        let (statement, said) = genuine(signed, mint)?;
        let Body::Challenge(body) = said.body else { return Err("a challenge is none".into()) };
        let accepted = self.acceptance(at)?;
        let same = (body.epoch, body.index, body.job) == (at.epoch, at.index, accepted.job);
        must!(same && said.header.by == by, "{by} challenges {at:?} by {body:?}");
        let timely = self.headers.contains_key(&at.epoch) && at.epoch + 2 >= self.epoch.number;
        must!(timely, "{at:?} is challenged before it is sealed, or after it was paid");
        must!(
            accepted.stands && !accepted.waits(),
            "{at:?} is challenged while it is audited, or overturned"
        );
        must!(amount == price(accepted.price), "a challenge of {} costs {amount}", accepted.price);
        let known = accepted.audit.as_ref().map_or(&[][..], |audit| &audit.seats);
        let twice =
            known.iter().filter_map(|seat| seat.challenge).any(|asking| asking.statement == statement);
        must!(!twice, "{at:?} is challenged twice by one statement");
        let (order, asked) = (self.order(at)?, known.len());
        must!(order.get(asked) == Some(&auditor) && auditor != by, "{auditor} looks for {by} at {at:?}");
        self.begin(at, order);
        self.seat(at, auditor, Some(Asking { by, statement, paid_in: None, returned: false }))?;
        Ok(vec![(Account::ClientFree(by), Account::ClientReserved(by), amount)])
    }

    pub(crate) fn challenge_returned(
        &mut self,
        at: LeafAt,
        by: Address,
        amount: u64,
    ) -> Result<Vec<Posting>, String> {
        let asking = self.audit_mut(at)?.seats.iter_mut().rev().filter_map(|seat| seat.challenge.as_mut());
        let asking = asking.into_iter().find(|asking| asking.by == by && !asking.returned);
        let Some(asking) = asking else { return Err(format!("{by} has not paid for {at:?}")) };
        asking.returned = true;
        let free = Account::ClientFree(by);
        let Some(paid) = asking.paid_in else { return Ok(vec![(Account::ClientReserved(by), free, amount)]) };
        if let Some(held) = self.held.get_mut(&paid).filter(|_| paid + 2 >= self.epoch.number) {
            *held.challenge_debits.entry(by).or_default() -= amount;
        }
        Ok(self.covered(Account::OperatorHeld(self.truth.operator), free, amount, 0))
    }

    pub(crate) fn overturned(&mut self, at: LeafAt) -> Result<Vec<Posting>, String> {
        let index = usize::try_from(at.index).expect("few acceptances");
        let held = self.held.get_mut(&at.epoch).ok_or("what is overturned is not held")?;
        let accepted = &mut held.accepted[index];
        must!(accepted.stands && !accepted.released, "{at:?} is overturned after it was paid, or twice");
        accepted.stands = false;
        let (wallet, client, by_share) = (accepted.wallet, accepted.client, accepted.by_share);
        let (miner, operator, credited) = (accepted.miner, accepted.operator, accepted.credited);
        let fees = &mut self.wallets.get_mut(&wallet).expect("it has earned").fees;
        *fees.get_mut(&at.epoch).expect("it has earned then") -= operator;
        let (from, free) = (Account::MinerHeld(wallet), Account::ClientFree(client));
        let mut due = match by_share {
            false => vec![(from, free, miner)],
            true => vec![(from, Account::Reserve, credited)],
        };
        if by_share {
            due.extend(self.covered(Account::Reserve, free, miner, credited));
        }
        due.extend(self.covered(Account::OperatorHeld(self.truth.operator), free, operator, 0));
        Ok(due)
    }
}
