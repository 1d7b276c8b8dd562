//! Forgeries: of published files by anybody, and of the ledger by an operator who chains, hashes and seals as it likes.

use crate::histories::{Table, heartbeat, key, proof, wish};
use crate::verification::{Sealed, published, verify};
use std::collections::BTreeMap;
use swarm_crypto::digest::Digest;
use swarm_protocol::codec::{self, Link};
use swarm_protocol::finding::{AuditEnd, Finding};
use swarm_protocol::money::{Account, MicroUsdc};
use swarm_protocol::pool::verify::{Fault, Verifier, Wrong};
use swarm_protocol::pool::{
    Close, Entry, EpochHeader, PoolEvent, Record, RecordPages, RecordReader, Stage, chain_hash,
};
use swarm_protocol::statement::*;
use swarm_protocol::{Millis, Timestamp};

const MINERS: std::ops::Range<u8> = 2..7;
const CLIENTS: [u8; 2] = [10, 11];

/// A pool with everything in it that can be forged: races of many, both modes, refunds, losses, audits of all ends.
fn busy_pool() -> (Table, Vec<Receipt>) {
    let mut table = Table::posting(2_000);
    let mut receipts = Vec::new();
    for round in 1..14u64 {
        for miner in MINERS {
            let mode = if miner % 2 == 0 { PayoutMode::Solo } else { PayoutMode::Pps };
            let counter = round * 12 + 1;
            table.say(miner, Heartbeat { mode, draining: false, slots: 4, ens: None, ..heartbeat(counter) });
        }
        for client in CLIENTS {
            let job = table.say(client, wish(60 + 7 * round, table.now + Millis(60_000)));
            if round == 5 {
                table.say(client, Cancel { job });
                continue;
            }
            let claimants = if round == 9 { 2..3 } else { MINERS };
            claimants.for_each(|miner| _ = table.say(miner, Claim { job, attempt: 1 }));
            table.wait(2_500);
            let Some(Stage::Leased(granted)) = table.pool.state().job(&job).map(|entry| entry.stage.clone())
            else {
                continue;
            };
            let holder = MINERS.into_iter().find(|n| key(*n).address() == granted.wallet).unwrap();
            if round == 7 {
                table.say(holder, Release { job, lease: granted.lease, cause: ReleaseCause::Withdrawn });
                continue;
            }
            if round == 9 {
                // Nobody proves it; its time passes.
                table.wait(4_000);
                continue;
            }
            table.say(holder, proof(job, granted.lease));
            let asked = table.asked.pop().unwrap();
            let units = 1_000 * round + u64::from(client);
            table.happen(PoolEvent::Examined { job, proof: asked.proof_id, outcome: Ok(units) });
            receipts.push(table.pool.state().receipt(&job).unwrap());
        }
        audit(&mut table, round);
    }
    table.wait(70_000);
    (table, receipts)
}

/// Some audits are held, others not, and some proofs are challenged.
fn audit(table: &mut Table, round: u64) {
    match round {
        6 => table.inquest(Finding::Contradicts),
        8 | 9 | 13 => table.inquest(Finding::Holds),
        _ => {}
    }
    if round.is_multiple_of(4) {
        for (at, job) in table.leaves() {
            table.challenge(11, at, job);
        }
    }
}

/// A ledger in the hands of its operator.
#[derive(Clone)]
pub(crate) struct Ledger {
    pub(crate) epochs: Vec<(EpochHeader, Vec<Entry>)>,
}

impl Ledger {
    pub(crate) fn read(epochs: &[Sealed]) -> Self {
        let mut head = Digest::ZERO;
        let read = |epoch: &Sealed| {
            let header: EpochHeader = codec::decode(&epoch.header).unwrap();
            let mut reader = RecordReader::new(header.first_seq, head);
            let mut entries = Vec::new();
            for page in &epoch.pages {
                entries.extend(reader.supply(page).unwrap().into_iter().map(|row| row.entry));
            }
            let (last, _, after) = reader.finish().unwrap();
            entries.extend(last.map(|row| row.entry));
            head = after;
            (header, entries)
        };
        Self { epochs: epochs.iter().map(read).collect() }
    }

    /// Chained, paged and sealed anew, so that nothing but the rules can tell. What headers say of more than their
    /// range stays as it is.
    pub(crate) fn publish(mut self) -> Vec<Sealed> {
        let (mut seq, mut head, mut previous) = (0, Digest::ZERO, None);
        let mut sealed = Vec::new();
        for (header, entries) in &mut self.epochs {
            let mut pages = RecordPages::new(seq, head);
            let mut blocks = Vec::new();
            (header.first_seq, header.previous) = (seq, previous);
            for entry in entries {
                match &mut entry.record {
                    Record::HeaderFixed { header, .. } if *header != FORGED => *header = previous.unwrap(),
                    Record::Boundary(boundary) => boundary.end_seq = seq,
                    _ => {}
                }
                let row = entry.encode();
                let after = chain_hash(&head, &row);
                blocks.extend(pages.push(&row, seq, (head, after)));
                (seq, head) = (seq + 1, after);
            }
            blocks.push(pages.finish());
            (header.end_seq, header.range_hash) = (seq - 1, head);
            header.record_pages = pages.links().to_vec();
            previous = Some(header.link());
            sealed.push(Sealed { header: header.encode(), pages: blocks });
        }
        sealed
    }

    pub(crate) fn entries(&mut self) -> impl Iterator<Item = &mut Entry> {
        self.epochs.iter_mut().flat_map(|(_, entries)| entries)
    }
}

const FORGED: Link = Link([9; 32]);

/// Numbers without a pattern, the same in every run.
struct Dice(u64);

impl Dice {
    fn below(&mut self, n: usize) -> usize {
        self.0 += 1;
        let digest = swarm_crypto::digest::blake3(&self.0.to_be_bytes());
        usize::try_from(digest.first_u64_be() % n as u64).unwrap()
    }
}

/// What one kind of forgery does to a row, if it can be done to that row.
type Forge = fn(&mut Entry) -> bool;
/// Whether that is what was found.
type Named = fn(&Wrong) -> bool;

fn boundary(entry: &mut Entry) -> Option<&mut swarm_protocol::pool::Boundary> {
    match &mut entry.record {
        Record::Boundary(boundary) => Some(boundary),
        _ => None,
    }
}

fn flip(signed: &mut Signed) {
    let at = signed.payload.len() / 2;
    signed.payload[at] ^= 1;
}

/// The same statement, said by somebody who has not said it.
fn by_another(signed: &Signed, change: impl FnOnce(&mut Statement)) -> Signed {
    let mut statement = Statement::decode(&signed.payload).unwrap();
    change(&mut statement);
    let operator = key(1);
    let mut own = statement.clone();
    own.header.by = operator.address();
    Signed { payload: statement.encode(), signature: own.sign(&operator).signature }
}

macro_rules! named {
    ($($pattern:tt)+) => { (|wrong| matches!(wrong, $($pattern)+)) as Named };
}

/// Forgeries of single rows.
fn forgeries() -> Vec<(&'static str, Forge, Named)> {
    vec![
        ("a payout of one more", |entry| add(entry, 1), named!(Wrong::Transfers)),
        ("a payout of one less", |entry| add(entry, -1), named!(Wrong::Transfers)),
        ("two payouts swapped", swap_payouts, named!(Wrong::Transfers)),
        ("a payout left out", |entry| entry.transfers.pop().is_some(), named!(Wrong::Transfers)),
        ("a payout made twice", repeat_payout, named!(Wrong::Transfers)),
        ("a payout to the operator", divert, named!(Wrong::Transfers)),
        ("a rate one too high", |entry| rate(entry, 1), named!(Wrong::Rates)),
        ("a rate one too low", |entry| rate(entry, -1), named!(Wrong::Rates)),
        (
            "a rate left out",
            |entry| boundary(entry).is_some_and(|b| b.rates.pop_first().is_some()),
            named!(Wrong::Rates),
        ),
        ("a weight too high", |entry| roster(entry, |e| e.w += 1), named!(Wrong::Roster(_))),
        ("a reputation too high", |entry| roster(entry, |e| e.fee168.0 += 1), named!(Wrong::Roster(_))),
        ("losses left out", |entry| roster(entry, |e| e.loss24 ^= 1), named!(Wrong::Roster(_))),
        (
            "established by favour",
            |entry| roster(entry, |e| e.established = !e.established),
            named!(Wrong::Roster(_)),
        ),
        (
            "a roster out of order",
            |entry| {
                boundary(entry).is_some_and(|b| {
                    b.roster.0.len() > 1 && {
                        b.roster.0.reverse();
                        true
                    }
                })
            },
            named!(Wrong::Boundary(_)),
        ),
        (
            "another secret",
            |entry| {
                boundary(entry).is_some_and(|b| {
                    b.secret = Digest([1; 32]);
                    true
                })
            },
            named!(Wrong::Boundary(_)),
        ),
        (
            "an early boundary",
            |entry| {
                boundary(entry).is_some() && {
                    entry.at = entry.at - Millis(5_000);
                    true
                }
            },
            named!(Wrong::Boundary(_)),
        ),
        (
            "rules of another version",
            |entry| {
                boundary(entry).is_some_and(|b| {
                    b.settlement += 1;
                    true
                })
            },
            named!(Wrong::Boundary(_)),
        ),
        ("a lease to the runner-up", runner_up, named!(Wrong::Beaten(_))),
        (
            "a lease that nobody claimed",
            |entry| {
                leased(entry, |l| {
                    l.claims.clear();
                    true
                })
            },
            named!(Wrong::Lease(_)),
        ),
        (
            "a lease to somebody else",
            |entry| {
                leased(entry, |l| {
                    *l.wallet = key(1).address();
                    true
                })
            },
            named!(Wrong::Lease(_)),
        ),
        ("a better claim forged", forged_claim, named!(Wrong::Signature("claim", _))),
        (
            "a lease too long",
            |entry| {
                leased(entry, |l| {
                    l.until.0 += 1;
                    true
                })
            },
            named!(Wrong::Lease(_)),
        ),
        (
            "a lease of another window",
            |entry| {
                leased(entry, |l| {
                    *l.window += 1;
                    true
                })
            },
            named!(Wrong::Lease(_)),
        ),
        (
            "a lease of another attempt",
            |entry| {
                leased(entry, |l| {
                    *l.term += 1;
                    true
                })
            },
            named!(Wrong::Stage(_)),
        ),
        (
            "a claim twice",
            |entry| {
                leased(entry, |l| {
                    let first = l.claims[0].clone();
                    l.claims.push(first);
                    l.claims.len() <= MAX_NAMED_CLAIMS
                })
            },
            named!(Wrong::Beaten(_)),
        ),
        ("another seed", reseed, named!(Wrong::Seed | Wrong::Beaten(_) | Wrong::Stage(_))),
        (
            "a job's bytes",
            |entry| snapshot(entry, flip),
            named!(Wrong::Statement(_) | Wrong::Signature(..) | Wrong::Admission(_)),
        ),
        ("a job's price", |entry| job(entry, |job| job.price.0 += 100), named!(Wrong::Signature("job", _))),
        (
            "a job signed by the operator for its client",
            |entry| job(entry, |_| {}),
            named!(Wrong::Signature("job", _)),
        ),
        (
            "a proof of another answer",
            |entry| proven(entry, |proof| proof.output_bytes += 1),
            named!(Wrong::Signature("proof", _)),
        ),
        (
            "a proof for another job",
            |entry| proven(entry, |proof| proof.job = FORGED),
            named!(Wrong::Signature("proof", _)),
        ),
        (
            "a proof under another lease",
            |entry| accepted_under(entry, Digest([3; 32])),
            named!(Wrong::Stage(_)),
        ),
        (
            "more work units",
            |entry| more_units(entry),
            named!(Wrong::Header("proofs_root") | Wrong::Transfers | Wrong::Rates),
        ),
        ("an expiry before its time", |entry| closed(entry, Close::Expired), named!(Wrong::Closing(_))),
        ("a job called unrunnable", |entry| closed(entry, Close::Unrunnable), named!(Wrong::Closing(_))),
        ("a cancellation by the operator", cancelled, named!(Wrong::Signature("cancel", _))),
        ("a lease timed out early", |entry| ended(entry, EndCause::TimedOut), named!(Wrong::End(_))),
        ("a late release for nothing", |entry| ended_late(entry), named!(Wrong::End(_))),
        (
            "an auditor by favour",
            |entry| picked(entry, |auditor| *auditor = key(1).address()),
            named!(Wrong::Audit(_)),
        ),
        ("a pick spared", spared, named!(Wrong::Audit(_))),
        ("another end of an audit", other_end, named!(Wrong::Audit(_))),
        (
            "an attestation's bytes",
            |entry| attested(entry, flip),
            named!(Wrong::Statement(_) | Wrong::Signature(..)),
        ),
        (
            "an attestation by the operator for its auditor",
            |entry| attested(entry, |signed| *signed = by_another(signed, |_| {})),
            named!(Wrong::Signature("attestation", _)),
        ),
        ("an audit closed while somebody looks", closed_early, named!(Wrong::Audit(_))),
        ("a proof overturned by the operator", overturned, named!(Wrong::Audit(_))),
        ("another proof overturned", other_overturned, named!(Wrong::Audit(_))),
        ("an audit for more", paid_more, named!(Wrong::Audit(_))),
        ("an audit paid to the operator", paid_to_another, named!(Wrong::Audit(_))),
        (
            "a challenge by the operator for somebody else",
            |entry| challenged(entry, |c| *c.signed = by_another(c.signed, |_| {})),
            named!(Wrong::Signature("challenge", _)),
        ),
        (
            "a challenge on another's account",
            |entry| challenged(entry, |c| *c.challenger = key(10).address()),
            named!(Wrong::Signature("challenge", _)),
        ),
        (
            "a challenge looked at by a friend",
            |entry| challenged(entry, |c| *c.auditor = key(1).address()),
            named!(Wrong::Audit(_)),
        ),
        ("a cheaper challenge", |entry| challenged(entry, |c| c.amount.0 -= 1), named!(Wrong::Audit(_))),
        ("a challenge returned to the operator", returned_to_another, named!(Wrong::Audit(_))),
        ("another header fixed", other_header, named!(Wrong::OtherHeader)),
        ("test credit twice", recredit, named!(Wrong::Money(_))),
        ("money out of nothing", invent, named!(Wrong::Transfers | Wrong::Money(_))),
        ("another genesis", other_genesis, named!(Wrong::Statement(_))),
    ]
}

fn add(entry: &mut Entry, n: i64) -> bool {
    let Some(last) = entry.transfers.last_mut() else { return false };
    let Some(amount) = last.amount.0.checked_add_signed(n) else { return false };
    last.amount = MicroUsdc(amount);
    true
}

fn swap_payouts(entry: &mut Entry) -> bool {
    let payable = |t: &swarm_protocol::money::Transfer| matches!(t.to, Account::MinerPayable(_));
    let paid: Vec<usize> = (0..entry.transfers.len()).filter(|at| payable(&entry.transfers[*at])).collect();
    let [first, .., last] = paid[..] else { return false };
    let (a, b) = (entry.transfers[first].to, entry.transfers[last].to);
    (entry.transfers[first].to, entry.transfers[last].to) = (b, a);
    true
}

fn repeat_payout(entry: &mut Entry) -> bool {
    let last = entry.transfers.last().copied();
    entry.transfers.extend(last);
    last.is_some()
}

fn divert(entry: &mut Entry) -> bool {
    let found =
        entry.transfers.iter_mut().find(|t| matches!(t.to, Account::MinerHeld(_) | Account::MinerPayable(_)));
    found.map(|transfer| transfer.to = Account::OperatorPayable(key(1).address())).is_some()
}

fn rate(entry: &mut Entry, n: i64) -> bool {
    let rates = boundary(entry).and_then(|boundary| boundary.rates.values_mut().next());
    rates.map(|rate| *rate = rate.checked_add_signed(n).unwrap()).is_some()
}

fn roster(entry: &mut Entry, change: impl FnOnce(&mut swarm_protocol::race::RosterEntry)) -> bool {
    let first = boundary(entry).and_then(|boundary| boundary.roster.0.first_mut());
    first.map(change).is_some()
}

struct LeaseParts<'a> {
    wallet: &'a mut swarm_crypto::address::Address,
    term: &'a mut u32,
    window: &'a mut u32,
    until: &'a mut Timestamp,
    claims: &'a mut Vec<Signed>,
    job: Link,
}

fn leased(entry: &mut Entry, change: impl FnOnce(LeaseParts<'_>) -> bool) -> bool {
    match &mut entry.record {
        Record::Leased { wallet, term, window, until, claims, job } => {
            change(LeaseParts { wallet, term, window, until, claims, job: *job })
        }
        _ => false,
    }
}

fn runner_up(entry: &mut Entry) -> bool {
    leased(entry, |lease| {
        if lease.claims.len() < 2 {
            return false;
        }
        lease.claims.swap(0, 1);
        *lease.wallet = Statement::decode(&lease.claims[0].payload).unwrap().header.by;
        true
    })
}

fn forged_claim(entry: &mut Entry) -> bool {
    leased(entry, |lease| {
        let friend = key(77).address();
        lease.claims[0] = by_another(&lease.claims[0], |statement| statement.header.by = friend);
        *lease.wallet = friend;
        assert!(lease.job != FORGED);
        true
    })
}

fn reseed(entry: &mut Entry) -> bool {
    match &mut entry.record {
        Record::Admitted { seed, .. } | Record::LeaseEnded { seed, .. } => {
            seed.0[5] ^= 1;
            true
        }
        _ => false,
    }
}

fn snapshot(entry: &mut Entry, change: impl FnOnce(&mut Signed)) -> bool {
    match &mut entry.record {
        Record::Admitted { job, .. } => change(job),
        _ => return false,
    }
    true
}

fn job(entry: &mut Entry, change: impl FnOnce(&mut Job)) -> bool {
    snapshot(entry, |signed| {
        *signed = by_another(signed, |statement| match &mut statement.body {
            Body::Job(job) => change(job),
            _ => unreachable!(),
        });
    })
}

fn proven(entry: &mut Entry, change: impl FnOnce(&mut Proof)) -> bool {
    let Record::Accepted { proof, .. } = &mut entry.record else { return false };
    *proof = by_another(proof, |statement| match &mut statement.body {
        Body::Proof(proof) => change(proof),
        _ => unreachable!(),
    });
    true
}

fn accepted_under(entry: &mut Entry, other: Digest) -> bool {
    let Record::Accepted { lease, .. } = &mut entry.record else { return false };
    *lease = other;
    true
}

fn more_units(entry: &mut Entry) -> bool {
    let Record::Accepted { units, .. } = &mut entry.record else { return false };
    *units += 1;
    true
}

/// An answered job is closed where it was leased, and its client refunded.
fn closed(entry: &mut Entry, how: Close) -> bool {
    let Record::Leased { job, .. } = &entry.record else { return false };
    entry.record = Record::Closed { job: *job, end: how };
    true
}

fn cancelled(entry: &mut Entry) -> bool {
    let Record::Closed { end: Close::Cancelled(signed), .. } = &mut entry.record else { return false };
    *signed = by_another(signed, |_| {});
    true
}

fn ended(entry: &mut Entry, how: EndCause) -> bool {
    match &mut entry.record {
        Record::LeaseEnded { cause, .. } if *cause != how => *cause = how,
        _ => return false,
    }
    true
}

fn ended_late(entry: &mut Entry) -> bool {
    match &mut entry.record {
        Record::LeaseEnded { cause: cause @ (EndCause::TimedOut | EndCause::NoProgress), .. } => {
            *cause = EndCause::Released;
        }
        _ => return false,
    }
    true
}

fn other_header(entry: &mut Entry) -> bool {
    let Record::HeaderFixed { header, .. } = &mut entry.record else { return false };
    *header = FORGED;
    true
}

fn picked(entry: &mut Entry, change: impl FnOnce(&mut swarm_crypto::address::Address)) -> bool {
    let Record::AuditPicked { auditor, .. } = &mut entry.record else { return false };
    change(auditor);
    true
}

fn spared(entry: &mut Entry) -> bool {
    let Record::AuditPicked { leaf, .. } = &entry.record else { return false };
    entry.record = Record::AuditClosed { leaf: *leaf, end: AuditEnd::Unserved };
    true
}

fn other_end(entry: &mut Entry) -> bool {
    let Record::AuditClosed { end, .. } = &mut entry.record else { return false };
    *end = if *end == AuditEnd::Holds { AuditEnd::Contradicts } else { AuditEnd::Holds };
    true
}

fn attested(entry: &mut Entry, change: impl FnOnce(&mut Signed)) -> bool {
    let Record::Attested { attestation, .. } = &mut entry.record else { return false };
    change(attestation);
    true
}

fn closed_early(entry: &mut Entry) -> bool {
    let Record::Attested { leaf, .. } = &entry.record else { return false };
    entry.record = Record::AuditClosed { leaf: *leaf, end: AuditEnd::Unserved };
    true
}

fn overturned(entry: &mut Entry) -> bool {
    let Record::Attested { leaf, .. } = &entry.record else { return false };
    entry.record = Record::Overturned { leaf: *leaf };
    true
}

fn other_overturned(entry: &mut Entry) -> bool {
    let Record::Overturned { leaf } = &mut entry.record else { return false };
    leaf.index ^= 1;
    true
}

fn paid_more(entry: &mut Entry) -> bool {
    let Record::AuditPaid { amount, .. } = &mut entry.record else { return false };
    amount.0 += 1;
    true
}

fn paid_to_another(entry: &mut Entry) -> bool {
    let Record::AuditPaid { auditor, .. } = &mut entry.record else { return false };
    *auditor = key(1).address();
    true
}

struct ChallengeParts<'a> {
    signed: &'a mut Signed,
    challenger: &'a mut swarm_crypto::address::Address,
    auditor: &'a mut swarm_crypto::address::Address,
    amount: &'a mut MicroUsdc,
}

fn challenged(entry: &mut Entry, change: impl FnOnce(ChallengeParts<'_>)) -> bool {
    let Record::Challenged { challenge: signed, challenger, auditor, amount, .. } = &mut entry.record else {
        return false;
    };
    change(ChallengeParts { signed, challenger, auditor, amount });
    true
}

fn returned_to_another(entry: &mut Entry) -> bool {
    let Record::ChallengeReturned { challenger, .. } = &mut entry.record else { return false };
    *challenger = key(1).address();
    true
}

fn other_genesis(entry: &mut Entry) -> bool {
    let Record::Genesis(genesis) = &mut entry.record else { return false };
    genesis.name.push('x');
    true
}

fn recredit(entry: &mut Entry) -> bool {
    let Record::Admitted { job, .. } = &entry.record else { return false };
    let client = Statement::decode(&job.payload).unwrap().header.by;
    entry.record = Record::Credited { client };
    true
}

fn invent(entry: &mut Entry) -> bool {
    let Record::Accepted { .. } = &entry.record else { return false };
    entry.record = Record::ReserveFunded { amount: MicroUsdc(1) };
    true
}

/// A field, and what is made of it.
type Change<T> = (&'static str, fn(&mut T));

pub(crate) fn fault(epochs: &[Sealed]) -> Option<Fault> {
    verify(epochs).err()
}

#[test]
fn every_forgery_of_the_ledger_is_named() {
    let (table, _) = busy_pool();
    let ledger = Ledger::read(&published(&table));
    assert_eq!(fault(&ledger.clone().publish()), None, "what is published anew is as good");
    let mut made = BTreeMap::<&str, usize>::new();
    for (name, forge, named) in forgeries() {
        for at in 0..ledger.clone().entries().count() {
            let mut forged = ledger.clone();
            if forge(forged.entries().nth(at).unwrap()) {
                let found =
                    fault(&forged.publish()).unwrap_or_else(|| panic!("{name} in row {at} is not seen"));
                assert!(named(&found.wrong), "{name} in row {at}: {found}");
                *made.entry(name).or_default() += 1;
            }
        }
        assert!(made.contains_key(name), "there is no row for {name}");
    }
    println!("{} forgeries, all named: {made:?}", made.values().sum::<usize>());
    assert!(made.values().sum::<usize>() >= 700);
}

#[test]
fn rows_dropped_doubled_or_moved_are_named() {
    let (table, _) = busy_pool();
    let ledger = Ledger::read(&published(&table));
    let mut made = 0;
    for epoch in 0..ledger.epochs.len() {
        for at in 0..ledger.epochs[epoch].1.len() - 1 {
            let mut dropped = ledger.clone();
            dropped.epochs[epoch].1.remove(at);
            let mut doubled = ledger.clone();
            let row = doubled.epochs[epoch].1[at].clone();
            doubled.epochs[epoch].1.insert(at, row);
            for forged in [dropped, doubled] {
                assert!(fault(&forged.publish()).is_some(), "epoch {epoch}, row {at}");
                made += 1;
            }
        }
    }
    println!("{made} rows dropped or doubled, all named");
    assert!(made >= 200);
}

#[test]
fn every_field_of_every_header_is_checked() {
    let (table, _) = busy_pool();
    let ledger = Ledger::read(&published(&table));
    let changes: [Change<EpochHeader>; 17] = [
        ("pool", |h| h.pool.0[0] ^= 1),
        ("asset", |h| h.asset = Asset::Usdc { chain: 1, contract: key(1).address() }),
        ("counts", |h| h.counts.accepted += 1),
        ("volume", |h| h.volume.0 += 1),
        ("proofs_root", |h| h.proofs_root.0[0] ^= 1),
        ("leaf_pages", |h| h.leaf_pages.push(FORGED)),
        ("payouts_root", |h| h.payouts_root.0[0] ^= 1),
        ("debits_root", |h| h.debits_root.0[0] ^= 1),
        ("audits_root", |h| h.audits_root.0[0] ^= 1),
        ("totals", |h| h.totals.reserve += 1),
        ("totals", |h| h.totals.miner_payable += 1),
        ("totals", |h| h.totals.shortfall += 1),
        ("secret", |h| h.secret.0[0] ^= 1),
        ("pps_scaled", |h| h.pps_scaled = !h.pps_scaled),
        ("audits_unserved", |h| h.audits_unserved += 1),
        ("settlement", |h| h.settlement += 1),
        ("epoch", |h| h.epoch += 1),
    ];
    for epoch in 0..ledger.epochs.len() {
        for (field, change) in changes {
            let mut forged = ledger.clone();
            change(&mut forged.epochs[epoch].0);
            let found = fault(&forged.publish()).unwrap();
            let right = match &found.wrong {
                Wrong::Header(named) => *named == field,
                Wrong::Settlement(_) => field == "settlement",
                Wrong::Chain => field == "epoch",
                // It is fixed in the ledger, so it shows there first.
                other => panic!("{field} of epoch {epoch}: {other}"),
            };
            assert!(right, "{field} of epoch {epoch}: {found}");
        }
    }
}

#[test]
fn every_byte_of_every_file_counts() {
    let (table, _) = busy_pool();
    let epochs = published(&table);
    let trusted = table.pool.state().last_header().unwrap().1;
    let mut dice = Dice(0);
    for turn in 0..1_000 {
        let mut changed = epochs.clone();
        let epoch = dice.below(changed.len());
        let Sealed { header, pages } = &mut changed[epoch];
        let file = dice.below(pages.len() + 1);
        let bytes = if file == 0 { header } else { &mut pages[file - 1] };
        let at = dice.below(bytes.len());
        bytes[at] ^= 1 << dice.below(8);
        let seen = match verify(&changed) {
            Err(_) => true,
            // The last header is named by whoever asked.
            Ok(verifier) => verifier.header().map(|(_, link)| link) != Some(trusted),
        };
        assert!(seen, "turn {turn}: byte {at} of file {file} of epoch {epoch}");
    }
}

#[test]
fn a_receipt_must_say_what_the_records_say() {
    let (table, receipts) = busy_pool();
    assert!(receipts.len() >= 18, "{}", receipts.len());
    let epochs = published(&table);
    let changes: [Change<Receipt>; 16] = [
        ("proof", |r| r.proof = FORGED),
        ("client", |r| r.client = key(9).address()),
        ("wallet", |r| r.wallet = key(9).address()),
        ("index", |r| r.index += 1),
        ("index", |r| r.index = u64::MAX),
        ("leaf", |r| r.leaf.0[0] ^= 1),
        ("price", |r| r.price.0 += 1),
        ("miner_part", |r| r.miner_part.0 += 1),
        ("operator_part", |r| r.operator_part.0 += 1),
        ("units", |r| r.units += 1),
        ("mode", |r| r.mode = if r.mode == PayoutMode::Solo { PayoutMode::Pps } else { PayoutMode::Solo }),
        ("asset", |r| r.asset = Asset::Usdc { chain: 1, contract: key(1).address() }),
        ("output", |r| r.output = codec::raw_cid(b"another")),
        ("output_bytes", |r| r.output_bytes += 1),
        ("held_until", |r| r.held_until += 1),
        ("pps", |r| r.pps = Some(PpsTerms { rate: Some(7), at_most: MicroUsdc(1) })),
    ];
    let mut checked = 0;
    let mut verifier = Verifier::new();
    for epoch in &epochs {
        verifier.begin(&epoch.header).unwrap();
        epoch.pages.iter().for_each(|page| verifier.page(page).unwrap());
        verifier.finish().unwrap();
        let number = verifier.header().unwrap().0.epoch;
        for receipt in receipts.iter().filter(|receipt| receipt.epoch == number) {
            assert_eq!(verifier.receipt(receipt), Ok(()));
            for (field, change) in changes {
                let mut forged = receipt.clone();
                change(&mut forged);
                let found = verifier.receipt(&forged).unwrap_err();
                assert_eq!(found.wrong, Wrong::Receipt(field), "{found}");
                checked += 1;
            }
            let mut elsewhere = receipt.clone();
            elsewhere.job = FORGED;
            assert_eq!(verifier.receipt(&elsewhere).unwrap_err().wrong, Wrong::NotAccepted);
        }
    }
    assert_eq!(checked, receipts.len() * changes.len());
}

#[test]
fn a_proof_left_out_of_a_ledger_that_is_sealed_anew_shows_by_its_receipt() {
    let (table, receipts) = busy_pool();
    let mut ledger = Ledger::read(&published(&table));
    let last = receipts.iter().rfind(|receipt| receipt.mode == PayoutMode::Solo).unwrap();
    // The operator tells another story: the job was never answered, and at the end nobody was there.
    let epoch = usize::try_from(last.epoch).unwrap();
    ledger.epochs.truncate(epoch + 1);
    ledger.epochs[epoch]
        .1
        .retain(|entry| !matches!(&entry.record, Record::Accepted { job, .. } if *job == last.job));
    let Record::Boundary(boundary) = &mut ledger.epochs[epoch].1.last_mut().unwrap().record else {
        unreachable!()
    };
    boundary.roster.0.clear();
    let story = verify(&retold(&ledger).publish()).unwrap();
    assert_eq!(story.receipt(last).unwrap_err().wrong, Wrong::NotAccepted);
}

/// The same rows with the money and the headers that follow from them.
fn retold(ledger: &Ledger) -> Ledger {
    let mut told = ledger.clone();
    let (mut state, mut previous): (Option<swarm_protocol::pool::State>, Option<Link>) = (None, None);
    for (header, entries) in &mut told.epochs {
        for entry in entries.iter_mut() {
            match (&mut entry.record, &state) {
                (Record::HeaderFixed { header, .. }, _) => *header = previous.unwrap(),
                (Record::Boundary(boundary), Some(state)) => boundary.end_seq = state.next_seq(),
                _ => {}
            }
            if let Some(state) = &mut state {
                entry.transfers = state.transfers(&entry.record);
                let row = entry.encode();
                state.apply(entry, &row);
            } else {
                state = Some(swarm_protocol::pool::State::genesis(entry, &entry.encode()));
            }
        }
        *header = state.as_ref().unwrap().sealing().unwrap().header.clone();
        previous = Some(header.link());
    }
    told
}
