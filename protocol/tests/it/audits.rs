//! Audits as their rules have them, and as auditors of all kinds play them.

use crate::histories::{CREDIT, Step, Table, key};
use crate::verification::{published, verify};
use std::collections::{BTreeMap, BTreeSet};
use swarm_crypto::address::Address;
use swarm_crypto::digest::{Digest, blake3};
use swarm_protocol::audit::auditors;
use swarm_protocol::finding::{AuditEnd, Finding};
use swarm_protocol::money::{Account, MicroUsdc};
use swarm_protocol::pool::{
    AUDIT_EPOCHS, Entry, EpochHeader, LeafAt, PoolEffect, Record, SETTLEMENT_BEFORE, SETTLEMENT_OF_TEXT,
    SETTLEMENT_VERSION, Said, State,
};
use swarm_protocol::statement::*;
use swarm_protocol::{Machine, Millis};

pub(crate) const CLIENT: u8 = 10;
pub(crate) const CHALLENGER: u8 = 11;
pub(crate) const PRICE: u64 = 400;
const EPOCH: u64 = 8_000;
/// A rate that picks none of the few proofs here, and allows for challenges.
pub(crate) const LEAST_RATE: u32 = 1;
/// What an audit of it costs.
const LOOK: u64 = PRICE / 4;

/// A pool in its epoch 1, whose roster is the wallets 2 to 7.
pub(crate) fn pool(rate: u32) -> Table {
    opened(Table::posting(rate))
}

fn opened(mut table: Table) -> Table {
    beat(&mut table, 1);
    next_epoch(&mut table);
    table
}

pub(crate) fn beat(table: &mut Table, counter: u64) {
    (2..8).for_each(|miner| beat_of(table, miner, counter));
}

pub(crate) fn beat_of(table: &mut Table, miner: u8, counter: u64) {
    let beat = crate::histories::heartbeat(counter);
    table.say(miner, Heartbeat { draining: false, ens: None, ..beat });
}

pub(crate) fn next_epoch(table: &mut Table) {
    let open = table.pool.state().epoch().number;
    while table.pool.state().epoch().number == open || table.pool.state().sealing().is_some() {
        table.wait(100);
    }
    beat(table, 1_000 * (open + 2) + 1);
}

/// An answer by `miner`, and its place.
pub(crate) fn answer(table: &mut Table, miner: u8) -> LeafAt {
    answer_for(table, miner, PRICE)
}

pub(crate) fn answer_for(table: &mut Table, miner: u8, price: u64) -> LeafAt {
    let before = table.leaves().last().copied();
    table.take(&Step::Answer { client: CLIENT, miner, price, units: 100 });
    let leaves = table.leaves();
    assert_ne!(leaves.last().copied(), before, "it was accepted");
    leaves.last().unwrap().0
}

/// The same in mode solo, once its epoch is sealed.
pub(crate) fn sealed_answer(table: &mut Table) -> LeafAt {
    let at = answer(table, 2);
    next_epoch(table);
    at
}

pub(crate) fn opinion(table: &mut Table, finding: Finding) {
    for _ in 0..2 {
        for (at, auditor, said) in table.seats() {
            table.attest(at, auditor, said, finding);
        }
    }
}

pub(crate) fn number(wallet: Address) -> u8 {
    (1..20).find(|n| key(*n).address() == wallet).unwrap()
}

fn held(table: &Table, n: u8) -> u64 {
    table.pool.state().accounts().amount(&Account::MinerHeld(key(n).address())).0
}

pub(crate) fn free(table: &Table, n: u8) -> u64 {
    table.pool.state().accounts().amount(&Account::ClientFree(key(n).address())).0
}

pub(crate) fn records(table: &Table) -> Vec<Record> {
    table.rows.iter().map(|row| Entry::decode(row).unwrap().record).collect()
}

pub(crate) fn ends(table: &Table) -> Vec<(LeafAt, AuditEnd)> {
    let ends = records(table).into_iter().filter_map(|record| match record {
        Record::AuditClosed { leaf, end } => Some((leaf, end)),
        _ => None,
    });
    ends.collect()
}

pub(crate) fn is_overturned(table: &Table, at: LeafAt) -> bool {
    records(table).contains(&Record::Overturned { leaf: at })
}

#[test]
fn with_its_header_an_epochs_picks_come_and_the_draw_says_who_looks() {
    let mut table = pool(10_000);
    let (first, second) = (answer(&mut table, 2), answer(&mut table, 3));
    assert_eq!(table.seats(), [], "nothing is picked before the secret is known");
    next_epoch(&mut table);
    // Heartbeats remind of them.
    let picked = &table.picked[..2];
    assert_eq!(picked.iter().map(|p| (p.epoch, p.index)).collect::<Vec<_>>(), [(1, 0), (1, 1)]);
    let records = records(&table);
    let fixed = records.iter().position(|r| matches!(r, Record::HeaderFixed { epoch: 1, .. })).unwrap();
    let state = table.pool.state();
    let boundary = records.iter().rev().find_map(|record| match record {
        Record::Boundary(boundary) if boundary.epoch == 1 => Some(boundary.secret),
        _ => None,
    });
    let roster = records.iter().find_map(|record| match record {
        Record::Boundary(boundary) if boundary.epoch == 0 => Some(boundary.roster.clone()),
        _ => None,
    });
    for (at, n) in [(first, 1), (second, 2)] {
        let leaf = &state.held()[&1].leaves[usize::try_from(at.index).unwrap()];
        let barred = [leaf.wallet, leaf.client, key(1).address()];
        let (secret, roster) = (boundary.unwrap(), roster.as_ref().unwrap());
        let drawn = auditors(&secret, &leaf.lease, roster, "queenbee-nano", &barred);
        assert_eq!(drawn.len(), 5);
        assert_eq!(records[fixed + n], Record::AuditPicked { leaf: at, auditor: drawn[0] });
        assert_eq!(picked[n - 1].auditor, drawn[0]);
        assert_eq!((picked[n - 1].lease, picked[n - 1].wallet), (leaf.lease, leaf.wallet));
        assert!(!picked[n - 1].open && picked[n - 1].until == 3);
    }
}

#[test]
fn all_but_benchmarks_are_picked_and_can_be_challenged() {
    let audited = [JobType::LlmGen, JobType::Embed, JobType::SdInfer];
    for job_type in audited.into_iter().chain([JobType::TorchBench]) {
        let can_be = audited.contains(&job_type);
        let mut table = opened(Table::serving(job_type, 10_000));
        let at = sealed_answer(&mut table);
        assert_eq!(table.picked.iter().any(|picked| (picked.epoch, picked.index) == (1, 0)), can_be);
        assert_eq!(table.seats().len(), usize::from(can_be), "{job_type:?}");
        opinion(&mut table, Finding::Holds);
        let job = table.leaves()[0].1;
        assert_eq!(table.pool.state().may_challenge(at), can_be, "{job_type:?}");
        table.challenge(CHALLENGER, at, job);
        let challenged = |record: &Record| matches!(record, Record::Challenged { .. });
        assert_eq!(records(&table).iter().any(challenged), can_be, "{job_type:?}");
        next_epoch(&mut table);
        verify(&published(&table)).unwrap();
    }
}

#[test]
fn epochs_that_ended_by_the_rules_of_before_are_read_by_these() {
    for (settlement, job_type, is_picked) in [
        (SETTLEMENT_BEFORE, JobType::LlmGen, false),
        (SETTLEMENT_OF_TEXT, JobType::LlmGen, true),
        (SETTLEMENT_OF_TEXT, JobType::Embed, false),
        (SETTLEMENT_VERSION, JobType::Embed, true),
    ] {
        let mut table = opened(Table::serving(job_type, 10_000));
        answer(&mut table, 2);
        next_epoch(&mut table);
        let mut state = None;
        for row in &table.rows {
            let mut entry = Entry::decode(row).unwrap();
            if let Record::Boundary(boundary) = &mut entry.record {
                boundary.settlement = settlement;
            }
            match &mut state {
                None => state = Some(State::genesis(&entry, row)),
                Some(state) => _ = state.apply(&entry, row),
            }
            if matches!(&entry.record, Record::Boundary(boundary) if boundary.epoch == 1) {
                break;
            }
        }
        let state = state.unwrap();
        let held = &state.held()[&1];
        assert_eq!(
            (held.picked.len(), held.leaves.len()),
            (usize::from(is_picked), 1),
            "{settlement} {job_type:?}"
        );
    }
}

#[test]
fn a_pool_that_posts_no_rate_picks_nothing_and_one_without_auditors_says_so() {
    let mut quiet = pool(0);
    sealed_answer(&mut quiet);
    assert!(quiet.picked.is_empty() && ends(&quiet).is_empty());
    let mut alone = Table::posting(10_000);
    let at = answer(&mut alone, 2);
    next_epoch(&mut alone);
    assert_eq!(ends(&alone), [(at, AuditEnd::Unserved)], "the roster of epoch 0 is empty");
    next_epoch(&mut alone);
    let header: EpochHeader = swarm_protocol::codec::decode(&published(&alone)[1].header).unwrap();
    assert_eq!(header.audits_unserved, 1);
    assert_ne!(header.audits_root, Digest::ZERO);
}

#[test]
fn an_auditor_is_paid_for_what_it_opens_and_one_that_holds_is_enough() {
    let mut table = pool(10_000);
    let at = sealed_answer(&mut table);
    let [(_, auditor, Said::Nothing)] = table.seats()[..] else { panic!("one is asked") };
    let (paid, operator) = (held(&table, number(auditor)), Account::OperatorHeld(key(1).address()));
    let before = table.pool.state().accounts().amount(&operator);
    table.attest(at, auditor, Said::Nothing, Finding::Holds);
    assert_eq!(held(&table, number(auditor)), paid, "a seal alone is worth nothing");
    assert!(table.picked.last().is_some_and(|picked| picked.open && picked.auditor == auditor));
    opinion(&mut table, Finding::Holds);
    assert_eq!(held(&table, number(auditor)), paid + LOOK);
    let after = table.pool.state().accounts().amount(&operator);
    assert_eq!(after, MicroUsdc(before.0 - LOOK));
    assert_eq!(ends(&table), [(at, AuditEnd::Holds)]);
}

#[test]
fn money_waits_for_an_open_audit_and_is_released_with_the_boundary_after_it() {
    let mut table = pool(10_000);
    let at = sealed_answer(&mut table);
    let payable =
        |table: &Table| table.pool.state().accounts().amount(&Account::MinerPayable(key(2).address())).0;
    next_epoch(&mut table);
    next_epoch(&mut table);
    assert_eq!((payable(&table), held(&table, 2)), (0, PRICE * 3 / 4), "boundary 3 would have released it");
    opinion(&mut table, Finding::Holds);
    assert_eq!(ends(&table), [(at, AuditEnd::Holds)]);
    next_epoch(&mut table);
    assert_eq!((payable(&table), held(&table, 2)), (PRICE * 3 / 4, 0));
    assert_eq!(table.pool.state().lifetime_debits()[&key(CLIENT).address()], u128::from(PRICE));
}

#[test]
fn what_nobody_attests_is_unserved_at_the_fourth_boundary_after_two_were_asked() {
    let mut table = pool(10_000);
    let at = sealed_answer(&mut table);
    let order = table.pool.state().audit(at).unwrap().order.clone();
    for _ in 0..3 {
        next_epoch(&mut table);
        assert_eq!(ends(&table), []);
    }
    let audit = table.pool.state().audit(at).unwrap();
    let asked: Vec<Address> = audit.seats.iter().map(|seat| seat.auditor).collect();
    assert_eq!(asked, order[..2]);
    next_epoch(&mut table);
    assert_eq!(table.pool.state().epoch().number, 1 + AUDIT_EPOCHS + 1);
    assert_eq!(ends(&table), [(at, AuditEnd::Unserved)]);
    assert_eq!(held(&table, 2), 0, "and the money is released");
    next_epoch(&mut table);
    let headers = published(&table);
    let header: EpochHeader = swarm_protocol::codec::decode(&headers[5].header).unwrap();
    assert_eq!((header.epoch, header.audits_unserved), (5, 1));
}

#[test]
fn one_who_contradicts_brings_two_more_who_seal_before_either_opens_and_the_majority_decides() {
    for (others, end) in [(Finding::Holds, AuditEnd::Holds), (Finding::Contradicts, AuditEnd::Contradicts)] {
        let mut table = pool(10_000);
        let at = sealed_answer(&mut table);
        let client = free(&table, CLIENT);
        opinion(&mut table, Finding::Contradicts);
        let [(_, second, Said::Nothing), (_, third, Said::Nothing)] = table.seats()[..] else {
            panic!("two more are asked: {:?}", table.seats())
        };
        table.attest(at, second, Said::Nothing, others);
        let sealed = table.seats()[0].2;
        table.attest(at, second, sealed, others);
        assert_eq!(table.seats()[0].2, sealed, "the other has not sealed yet");
        table.attest(at, third, Said::Nothing, others);
        opinion(&mut table, others);
        assert_eq!(ends(&table), [(at, end)]);
        let overturned = end == AuditEnd::Contradicts;
        assert_eq!(is_overturned(&table, at), overturned);
        assert_eq!(free(&table, CLIENT), client + if overturned { PRICE } else { 0 });
    }
}

#[test]
fn a_copied_seal_opens_for_nobody_but_its_maker() {
    let mut table = pool(10_000);
    let at = sealed_answer(&mut table);
    opinion(&mut table, Finding::Contradicts);
    let [(_, honest, _), (_, copier, _)] = table.seats()[..] else { panic!("two more are asked") };
    table.attest(at, honest, Said::Nothing, Finding::Holds);
    let Said::Sealed(seal) = table.seats()[0].2 else { panic!("it has sealed") };
    let lease = table.pool.state().held()[&at.epoch].leaves[0].lease;
    let said = |word| Attestation { epoch: at.epoch, index: at.index, lease, word };
    table.say(number(copier), said(Word::Sealed(seal)));
    table.attest(at, honest, Said::Sealed(seal), Finding::Holds);
    // Now it can be read what was sealed, with its salt.
    let word = Word::Opened { finding: Finding::Holds, salt: blake3(&honest.0) };
    table.say(number(copier), said(word));
    assert_eq!(table.seats(), [(at, copier, Said::Sealed(seal))]);
    let paid = records(&table).into_iter().filter_map(|record| match record {
        Record::AuditPaid { auditor, .. } => Some(auditor),
        _ => None,
    });
    assert!(!paid.collect::<BTreeSet<_>>().contains(&copier));
}

#[test]
fn a_challenge_is_paid_by_who_asks_and_returned_if_it_was_right() {
    for (finding, right) in
        [(Finding::Holds, false), (Finding::Contradicts, true), (Finding::Differs(9), true)]
    {
        let mut table = pool(LEAST_RATE);
        let at = answer(&mut table, 2);
        let job = table.leaves().last().unwrap().1;
        table.challenge(CHALLENGER, at, job);
        assert_eq!(table.seats(), [], "its epoch is open yet");
        next_epoch(&mut table);
        table.challenge(CHALLENGER, at, job);
        assert_eq!(free(&table, CHALLENGER), CREDIT - LOOK);
        table.wait(1);
        table.challenge(CHALLENGER, at, job);
        assert_eq!(table.seats().len(), 1, "somebody looks already");
        table.inquest(finding);
        assert_eq!(free(&table, CHALLENGER), CREDIT - if right { 0 } else { LOOK });
        assert_eq!(is_overturned(&table, at), finding == Finding::Contradicts, "{finding:?}");
    }
}

#[test]
fn a_challenge_that_nobody_answers_costs_nothing_and_moves_nobody_else() {
    let mut table = pool(LEAST_RATE);
    let at = sealed_answer(&mut table);
    let job = table.leaves()[0].1;
    table.challenge(CHALLENGER, at, job);
    let before = free(&table, CHALLENGER) + LOOK;
    (0..3).for_each(|_| next_epoch(&mut table));
    assert_eq!(free(&table, CHALLENGER), before);
    assert_eq!(ends(&table), [(at, AuditEnd::Unserved)]);
    assert_eq!(table.pool.state().audit(at), None);
}

#[test]
fn two_misses_overturn_nothing_and_the_third_condemns_its_wallet() {
    let mut table = pool(10_000);
    let mut places = Vec::new();
    for _ in 0..4 {
        places.push(sealed_answer(&mut table));
        table.inquest(Finding::Differs(5_000));
        // Three looks cost more than the operator's part of one job: it makes that good at a boundary.
        next_epoch(&mut table);
    }
    assert_eq!(ends(&table), places.iter().map(|at| (*at, AuditEnd::Differs)).collect::<Vec<_>>());
    let overturned: Vec<bool> = places.iter().map(|at| is_overturned(&table, *at)).collect();
    assert_eq!(overturned, [false, false, true, true]);
    next_epoch(&mut table);
    let entry = table.pool.roster_entry(&key(2).address()).unwrap();
    assert!(entry.w == 1 && !entry.established && entry.fee168.0 >= 200);
}

#[test]
fn where_no_rate_is_posted_nobody_audits_for_money_either() {
    let mut table = pool(0);
    let at = sealed_answer(&mut table);
    let job = table.leaves()[0].1;
    table.challenge(CHALLENGER, at, job);
    assert_eq!((table.seats(), free(&table, CHALLENGER)), (vec![], 0), "nor is a test credit given for it");
}

/// The fee of the one job has gone to its auditor, whose pay is due while the job's own money waits for another look.
#[test]
fn an_auditor_paid_out_of_money_that_waits_is_a_shortfall_until_that_is_released() {
    let mut table = Table::without_reserve(10_000);
    beat(&mut table, 1);
    next_epoch(&mut table);
    let at = sealed_answer(&mut table);
    let job = table.leaves()[0].1;
    table.inquest(Finding::Holds);
    next_epoch(&mut table);
    table.challenge(CHALLENGER, at, job);
    let mut seen = Vec::new();
    for _ in 0..3 {
        next_epoch(&mut table);
        let state = table.pool.state();
        let sum = |amounts: &BTreeMap<Address, u128>| amounts.values().sum::<u128>();
        let lacking = state.accounts().balance(&Account::Shortfall);
        seen.push((sum(state.accounts().payouts()), sum(state.lifetime_debits()), lacking));
    }
    let (look, price, part) = (u128::from(LOOK), u128::from(PRICE), u128::from(PRICE * 3 / 4));
    assert_eq!(seen, [(0, 0, 0), (look, 0, -i128::from(LOOK)), (look + part, price, 0)]);
    verify(&published(&table)).unwrap();
}

/// Paid by share from a reserve that holds little: one answer's credit is paid out of the pot of another, whose own money waits
/// for a second look while who looked first is paid. At each boundary then, what payouts exceed debits by, and what is lacking;
/// nothing if the draw is not for the second answer alone.
fn lent_by_another_pot(delay: u64) -> Option<Vec<(u128, u128)>> {
    let mut table = Table::without_reserve(5_000);
    let next = |table: &mut Table| {
        let newest = 1_000 * (table.pool.state().epoch().number + 1) + 2;
        let beat = crate::histories::heartbeat(newest);
        table.say(3, Heartbeat { mode: PayoutMode::Pps, draining: false, ens: None, ..beat });
        next_epoch(table);
    };
    let answer = |table: &mut Table, units| {
        table.take(&Step::Answer { client: CLIENT, miner: 3, price: PRICE, units });
        *table.leaves().last().unwrap()
    };
    beat(&mut table, 1);
    table.wait(delay);
    next(&mut table);
    answer(&mut table, 100);
    next(&mut table);
    (table.picked.is_empty()).then_some(())?;
    next(&mut table);
    let (at, job) = answer(&mut table, 50);
    next(&mut table);
    answer(&mut table, 200);
    (table.seats().len() == 1).then_some(())?;
    table.inquest(Finding::Holds);
    next(&mut table);
    table.challenge(CHALLENGER, at, job);
    (table.seats().len() == 1).then_some(())?;
    let seen = (0..4).map(|_| {
        next(&mut table);
        let state = table.pool.state();
        let sum = |amounts: &BTreeMap<Address, u128>| amounts.values().sum::<u128>();
        let (payouts, debits) = (sum(state.accounts().payouts()), sum(state.lifetime_debits()));
        let lacking = state.accounts().balance(&Account::Shortfall).unsigned_abs();
        (payouts.saturating_sub(debits), lacking)
    });
    let seen = seen.collect();
    verify(&published(&table)).unwrap();
    Some(seen)
}

#[test]
fn what_was_paid_and_nobody_debited_stays_lacking_though_a_fee_is_released() {
    let seen = (0..64).find_map(|delay| lent_by_another_pot(10 * delay)).expect("one draw of 64");
    assert!(seen.iter().all(|(uncovered, lacking)| uncovered <= lacking), "{seen:?}");
    assert!(seen.iter().any(|(uncovered, _)| *uncovered > 0), "{seen:?}");
    assert_eq!(seen.last(), Some(&(0, 0)), "{seen:?}");
}

#[test]
fn who_has_earned_nothing_is_not_drawn() {
    let mut table = Table::new();
    beat(&mut table, 1);
    next_epoch(&mut table);
    sealed_answer(&mut table);
    assert!(table.pool.state().posted().audit_rate > 0 && table.seats().is_empty());
}

#[test]
fn a_challenge_that_comes_again_is_not_paid_again() {
    let mut table = pool(LEAST_RATE);
    let at = sealed_answer(&mut table);
    let job = table.leaves()[0].1;
    let signed = table.sign(CHALLENGER, Challenge { epoch: at.epoch, index: at.index, job });
    table.hear(&signed);
    let answers = |table: &Table| table.picked.last().unwrap().challenge;
    assert_eq!(answers(&table), Some(signed.id()), "who looks is said with what asked for it");
    let before = free(&table, CHALLENGER);
    table.inquest(Finding::Holds);
    assert!(table.pool.state().may_challenge(at), "it can be challenged by another statement");
    table.hear(&signed);
    assert_eq!((table.seats(), free(&table, CHALLENGER)), (vec![], before));
    table.wait(1);
    table.challenge(CHALLENGER, at, job);
    assert_eq!(free(&table, CHALLENGER), before - LOOK);
    assert_ne!(answers(&table), Some(signed.id()), "a look that another challenge pays for");
}

#[test]
fn what_the_pool_asks_for_itself_answers_no_challenge() {
    let mut table = pool(10_000);
    sealed_answer(&mut table);
    assert!(table.picked.iter().all(|picked| picked.challenge.is_none()) && !table.picked.is_empty());
}

#[test]
fn one_that_is_refused_stays_refused() {
    let mut table = pool(LEAST_RATE);
    let at = answer(&mut table, 2);
    let signed =
        table.sign(CHALLENGER, Challenge { epoch: at.epoch, index: at.index, job: table.leaves()[0].1 });
    table.hear(&signed);
    next_epoch(&mut table);
    assert!(table.pool.state().may_challenge(at));
    table.hear(&signed);
    assert_eq!(table.seats(), []);
}

#[test]
fn a_challenge_that_finds_what_was_known_is_not_paid_back() {
    let mut table = pool(LEAST_RATE);
    let at = sealed_answer(&mut table);
    let job = table.leaves()[0].1;
    table.challenge(CHALLENGER, at, job);
    table.inquest(Finding::Differs(9));
    let before = free(&table, CHALLENGER);
    table.wait(1);
    table.challenge(CHALLENGER, at, job);
    table.inquest(Finding::Differs(9));
    assert_eq!(ends(&table), [(at, AuditEnd::Differs); 2]);
    assert_eq!(free(&table, CHALLENGER), before - LOOK);
}

#[test]
fn one_who_is_silent_takes_nothing_from_one_who_has_sealed() {
    let mut table = pool(10_000);
    let at = sealed_answer(&mut table);
    opinion(&mut table, Finding::Contradicts);
    let [(_, second, _), (_, silent, _)] = table.seats()[..] else { panic!("two more are asked") };
    table.attest(at, second, Said::Nothing, Finding::Contradicts);
    (0..2).for_each(|_| next_epoch(&mut table));
    let seats = table.seats();
    let [(_, still, Said::Sealed(_))] = seats[..] else { panic!("the silent one is out: {seats:?}") };
    assert!(still == second && silent != second);
    assert!(table.picked.iter().any(|picked| picked.auditor == second && picked.open && picked.until == 4));
    opinion(&mut table, Finding::Contradicts);
    assert_eq!(ends(&table), [(at, AuditEnd::Contradicts)]);
    assert!(is_overturned(&table, at));
    verify(&published(&table)).unwrap();
}

#[test]
fn nobody_betters_a_score_by_challenging_what_holds() {
    let mut table = pool(LEAST_RATE);
    let challenged = |table: &mut Table, finding| {
        let at = answer_for(table, 2, 20);
        next_epoch(table);
        let job = table.leaves().last().unwrap().1;
        table.challenge(CHALLENGER, at, job);
        table.inquest(finding);
        next_epoch(table);
        at
    };
    (0..2).for_each(|_| _ = challenged(&mut table, Finding::Differs(9)));
    for _ in 0..20 {
        challenged(&mut table, Finding::Holds);
    }
    let third = challenged(&mut table, Finding::Differs(9));
    assert!(is_overturned(&table, third), "the first two still count");
}

#[test]
fn an_auditor_hears_of_all_its_audits_by_turns() {
    let mut table = Table::with_epochs_of(Millis(70_000), 10_000);
    for miner in [2, 3] {
        beat_of(&mut table, miner, 1);
    }
    next_epoch(&mut table);
    for n in 0..20 {
        answer_for(&mut table, 2, 20);
        beat_of(&mut table, 2, 2_000 + n);
        beat_of(&mut table, 3, 2_000 + n);
    }
    next_epoch(&mut table);
    let told = |table: &Table| table.picked.iter().map(|picked| picked.index).collect::<BTreeSet<u64>>();
    assert_eq!(told(&table).len(), 8, "with one heartbeat");
    (0..2).for_each(|n| beat_of(&mut table, 3, 900_000 + n));
    assert_eq!(told(&table).len(), 20);
}

#[test]
fn a_pool_that_ends_among_the_records_that_are_due_goes_on_with_them() {
    let mut table = pool(10_000);
    (0..3).for_each(|_| _ = answer(&mut table, 2));
    while table.pool.state().epoch().number == 1 || table.pool.state().sealing().is_some() {
        table.wait(100);
    }
    let fixed = records(&table).iter().rposition(|r| matches!(r, Record::HeaderFixed { .. })).unwrap();
    for left in fixed + 1..=fixed + 4 {
        let mut again = table.restarted(left);
        let mut rows = table.rows[..left].to_vec();
        while let Some(effect) = again.poll_effect() {
            if let PoolEffect::Record(row) = effect {
                rows.push(row);
            }
        }
        let record = |row: &Vec<u8>| Entry::decode(row).unwrap().record;
        let [one, other] = [&rows, &table.rows].map(|rows| rows.iter().map(record).collect::<Vec<_>>());
        assert_eq!(one, other[..fixed + 4], "{left}");
    }
}

/// How somebody audits.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Auditor {
    Honest,
    /// Always says that a proof holds.
    Lazy,
    /// Seals what another has sealed.
    Copying,
    Absent,
}

/// Proofs of 2 are false, those of 3 come from another model, all others are good.
fn truth(prover: Address) -> Finding {
    match number(prover) {
        2 => Finding::Contradicts,
        3 => Finding::Differs(9_000),
        _ => Finding::Holds,
    }
}

/// Numbers without a pattern.
struct Dice(Digest);

impl Dice {
    fn below(&mut self, n: u64) -> u64 {
        self.0 = blake3(&self.0.0);
        self.0.first_u64_be() % n
    }
}

fn play(table: &mut Table, at: LeafAt, auditor: Address, said: Said, character: Auditor) {
    let leaf = &table.pool.state().held()[&at.epoch].leaves[usize::try_from(at.index).unwrap()];
    let (lease, truth) = (leaf.lease, truth(leaf.wallet));
    match character {
        Auditor::Absent => {}
        Auditor::Honest => table.attest(at, auditor, said, truth),
        Auditor::Lazy => table.attest(at, auditor, said, Finding::Holds),
        Auditor::Copying if said == Said::Nothing => {
            let others = table.seats().into_iter().filter(|(other, ..)| *other == at);
            let mut seal = others.filter_map(|(_, _, said)| match said {
                Said::Sealed(seal) => Some(seal),
                Said::Nothing | Said::Opened(_) | Said::Lapsed => None,
            });
            if let Some(seal) = seal.next_back() {
                let (word, by) = (Word::Sealed(seal), number(auditor));
                table.say(by, Attestation { epoch: at.epoch, index: at.index, lease, word });
            }
        }
        Auditor::Copying => {
            let (word, by) = (Word::Opened { finding: truth, salt: blake3(&auditor.0) }, number(auditor));
            table.say(by, Attestation { epoch: at.epoch, index: at.index, lease, word });
        }
    }
}

/// Ends by whether the proof was good, and how many looks each kind of auditor was paid for.
type Played = (BTreeMap<(bool, AuditEnd), u32>, BTreeMap<Auditor, u32>);

fn game(seed: u64) -> Played {
    let mut dice = Dice(blake3(&seed.to_be_bytes()));
    let mut table = pool(6_000);
    // At most one of five who can be drawn for a proof says what is not so.
    let mut characters = [Auditor::Honest; 8];
    for character in [Auditor::Lazy, Auditor::Copying, Auditor::Absent] {
        characters[2 + usize::try_from(dice.below(6)).unwrap()] = character;
    }
    for _ in 0..30 {
        match dice.below(6) {
            0..3 => {
                let miner = 2 + u8::try_from(dice.below(6)).unwrap();
                table.take(&Step::Answer { client: CLIENT, miner, price: 20, units: 100 });
            }
            3 => next_epoch(&mut table),
            4 if !table.leaves().is_empty() => {
                let leaves = table.leaves();
                let (at, job) = leaves[usize::try_from(dice.below(leaves.len() as u64)).unwrap()];
                table.challenge(CHALLENGER, at, job);
            }
            _ => table.wait(dice.below(EPOCH)),
        }
        for (at, auditor, said) in table.seats() {
            if dice.below(3) > 0 {
                play(&mut table, at, auditor, said, characters[usize::from(number(auditor))]);
            }
        }
    }
    (0..7).for_each(|_| next_epoch(&mut table));
    table.wait(200);
    check(&table, seed);
    played(&table, &characters)
}

/// What holds whoever audits.
fn check(table: &Table, seed: u64) {
    let state = table.pool.state();
    assert_eq!(state.accounts().total(), 0, "seed {seed}");
    assert_eq!(table.seats(), [], "seed {seed}");
    let reserved = state.accounts().amount(&Account::ClientReserved(key(CHALLENGER).address()));
    assert_eq!(reserved, MicroUsdc(0), "seed {seed}");
    verify(&published(table)).unwrap_or_else(|fault| panic!("seed {seed}: {fault}"));
}

fn played(table: &Table, characters: &[Auditor]) -> Played {
    let (mut ends, mut paid) = (BTreeMap::new(), BTreeMap::new());
    let mut provers = vec![Vec::<Address>::new()];
    for record in records(table) {
        match record {
            Record::Accepted { proof, .. } => {
                let by = Statement::decode(&proof.payload).unwrap().header.by;
                provers.last_mut().unwrap().push(by);
            }
            Record::Boundary(_) => provers.push(Vec::new()),
            Record::AuditClosed { leaf, end } => {
                let prover = &provers[usize::try_from(leaf.epoch).unwrap()];
                let prover = prover[usize::try_from(leaf.index).unwrap()];
                *ends.entry((truth(prover) == Finding::Holds, end)).or_default() += 1;
            }
            Record::AuditPaid { auditor, .. } => {
                *paid.entry(characters[usize::from(number(auditor))]).or_default() += 1;
            }
            Record::Overturned { leaf } => {
                let prover = &provers[usize::try_from(leaf.epoch).unwrap()];
                let prover = prover[usize::try_from(leaf.index).unwrap()];
                assert_ne!(truth(prover), Finding::Holds, "an honest miner lost its pay");
            }
            _ => {}
        }
    }
    (ends, paid)
}

#[test]
fn auditors_of_all_kinds_lose_no_money_and_no_honest_proof() {
    let (mut ends, mut paid) = (BTreeMap::new(), BTreeMap::new());
    for seed in 0..60 {
        let (some, looks) = game(seed);
        some.into_iter().for_each(|(end, count)| *ends.entry(end).or_insert(0) += count);
        looks.into_iter().for_each(|(kind, count)| *paid.entry(kind).or_insert(0) += count);
    }
    println!("{ends:?}; paid looks: {paid:?}");
    let count = |good, end| ends.get(&(good, end)).copied().unwrap_or(0);
    assert_eq!(count(true, AuditEnd::Contradicts) + count(true, AuditEnd::Differs), 0);
    assert!(count(false, AuditEnd::Contradicts) > 20 && count(false, AuditEnd::Differs) > 20);
    assert!(count(false, AuditEnd::Holds) > 0, "the lazy one is the first drawn at times");
    assert!(!paid.contains_key(&Auditor::Copying) && !paid.contains_key(&Auditor::Absent));
}
