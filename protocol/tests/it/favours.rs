//! An operator that spares a friend an audit, or sees to who looks at it: what anybody finds in the records, and what nobody
//! does. `docs/audits.md` has the table.

use crate::audits::*;
use crate::histories::{Table, key, proof, wish};
use crate::tampering::{Ledger, fault};
use crate::verification::{published, verify};
use swarm_protocol::Millis;
use swarm_protocol::audit::is_picked;
use swarm_protocol::finding::{AuditEnd, Finding};
use swarm_protocol::pool::verify::Wrong;
use swarm_protocol::pool::{Entry, LeafAt, PoolEvent, Record, Said, Stage};
use swarm_protocol::race::{draw_seed, epoch_secret, secret_commitment};
use swarm_protocol::statement::{
    Attestation, Body, Claim, Job, Progress, Release, ReleaseCause, Statement, Word, lease_id,
};

const FRIEND: u8 = 2;

/// Rows of a ledger in which a friend's proof is found out, and a look was missed before.
fn found_out() -> Ledger {
    let mut table = pool(10_000);
    let late = sealed_answer(&mut table);
    (0..2).for_each(|_| next_epoch(&mut table));
    table.inquest(Finding::Holds);
    assert_eq!(ends(&table), [(late, AuditEnd::Holds)]);
    let at = sealed_answer(&mut table);
    opinion(&mut table, Finding::Contradicts);
    table.inquest(Finding::Contradicts);
    assert!(is_overturned(&table, at));
    next_epoch(&mut table);
    let ledger = Ledger::read(&published(&table));
    assert_eq!(fault(&ledger.clone().publish()), None);
    ledger
}

fn leaf_of(record: &Record) -> Option<LeafAt> {
    match record {
        Record::AuditPicked { leaf, .. }
        | Record::Attested { leaf, .. }
        | Record::AuditPaid { leaf, .. }
        | Record::AuditClosed { leaf, .. }
        | Record::Overturned { leaf } => Some(*leaf),
        _ => None,
    }
}

fn word(entry: &Entry) -> Option<Word> {
    let Record::Attested { attestation, .. } = &entry.record else { return None };
    match Statement::decode(&attestation.payload).unwrap().body {
        Body::Attestation(said) => Some(said.word),
        _ => None,
    }
}

fn is_sealed(entry: &Entry) -> bool {
    matches!(word(entry), Some(Word::Sealed(_)))
}

fn is_opened(entry: &Entry) -> bool {
    matches!(word(entry), Some(Word::Opened { .. }))
}

fn place(rows: &[Entry], is: impl Fn(&Entry) -> bool) -> usize {
    rows.iter().rposition(is).unwrap()
}

fn is_of(entry: &Entry, leaf: LeafAt) -> bool {
    leaf_of(&entry.record) == Some(leaf)
}

/// The last audit in the rows, which overturns.
fn overturned(rows: &[Entry]) -> LeafAt {
    rows.iter()
        .rev()
        .find_map(|row| matches!(row.record, Record::Overturned { .. }).then(|| leaf_of(&row.record)))
        .unwrap()
        .unwrap()
}

type Favour = fn(&mut Vec<Entry>);

/// What an operator could do to the rows of the epoch in which its friend is found out.
const FAVOURS: [(&str, Favour); 8] = [
    ("nobody is asked", |rows| {
        let leaf = overturned(rows);
        rows.retain(|row| !is_of(row, leaf));
    }),
    ("the pick is called unserved", |rows| {
        let leaf = overturned(rows);
        let asked = rows.iter().position(|row| is_of(row, leaf)).unwrap();
        rows[asked].record = Record::AuditClosed { leaf, end: AuditEnd::Unserved };
        let mut first = true;
        rows.retain(|row| !is_of(row, leaf) || std::mem::take(&mut first));
    }),
    ("a friend is asked", |rows| {
        let asked = place(rows, |row| matches!(row.record, Record::AuditPicked { .. }));
        let Record::AuditPicked { auditor, .. } = &mut rows[asked].record else { unreachable!() };
        *auditor = key(19).address();
    }),
    ("a friend opens before another has sealed", |rows| {
        let (sealed, opened) = (place(rows, is_sealed), place(rows, is_opened));
        let early = rows.remove(opened);
        rows.insert(sealed, early);
    }),
    ("what was opened is kept back", |rows| {
        let opened = place(rows, is_opened);
        rows.remove(opened);
    }),
    ("the last two are not asked", |rows| {
        let leaf = overturned(rows);
        let first = rows.iter().position(|row| is_of(row, leaf) && is_opened(row)).unwrap();
        let mut at = 0;
        rows.retain(|row| {
            at += 1;
            at <= first + 1 || !is_of(row, leaf)
        });
    }),
    ("it ends, and is not overturned", |rows| {
        rows.retain(|row| !matches!(row.record, Record::Overturned { .. }));
    }),
    ("somebody else is picked", |rows| {
        let picked = place(rows, |row| matches!(row.record, Record::AuditPicked { .. }));
        let mut rival = rows[picked].clone();
        let Record::AuditPicked { leaf, .. } = &mut rival.record else { unreachable!() };
        leaf.index += 1;
        rows.insert(picked, rival);
    }),
];

#[test]
fn whoever_recomputes_the_records_sees_a_favour_in_them() {
    let ledger = found_out();
    let rows = |ledger: &mut Ledger| {
        ledger
            .epochs
            .iter_mut()
            .map(|(_, rows)| rows)
            .find(|rows| rows.iter().any(|row| matches!(row.record, Record::Overturned { .. })))
            .map(std::mem::take)
            .unwrap()
    };
    let number = ledger
        .epochs
        .iter()
        .position(|(_, rows)| rows.iter().any(|row| matches!(row.record, Record::Overturned { .. })))
        .unwrap();
    for (name, favour) in FAVOURS {
        let mut forged = ledger.clone();
        let mut own = rows(&mut forged);
        favour(&mut own);
        forged.epochs[number].1 = own;
        let found = fault(&forged.publish()).unwrap_or_else(|| panic!("{name}: nobody sees it"));
        assert!(matches!(found.wrong, Wrong::Audit(_)), "{name}: {found}");
    }
}

/// The auditor was silent, and another has taken its place; now it speaks.
#[test]
fn a_seal_that_comes_too_late_is_seen_in_the_records() {
    let mut ledger = found_out();
    let (leaf, missed, at) = ledger
        .entries()
        .find_map(|row| match &row.record {
            Record::AuditPicked { leaf, auditor } => Some((*leaf, *auditor, row.at)),
            _ => None,
        })
        .unwrap();
    let late = (2..8).find(|n| key(*n).address() == missed).unwrap();
    let lease = ledger
        .entries()
        .find_map(|row| match &row.record {
            Record::Accepted { lease, .. } => Some(*lease),
            _ => None,
        })
        .unwrap();
    let body = Attestation { epoch: leaf.epoch, index: leaf.index, lease, word: Word::Sealed(lease) };
    let pool = swarm_protocol::codec::decode::<swarm_protocol::pool::EpochHeader>(
        &ledger.clone().publish()[0].header,
    )
    .unwrap()
    .pool;
    let attestation = Statement::derived(pool, missed, at, body.into()).sign(&key(late));
    for (epoch, seen) in [(2, false), (4, true)] {
        let mut told = ledger.clone();
        let rows = &mut told.epochs[epoch].1;
        let asked = place(rows, |row| matches!(row.record, Record::AuditPicked { .. }));
        let record = Record::Attested { leaf, attestation: attestation.clone() };
        let row = Entry { record, transfers: Vec::new(), at: rows[asked].at };
        rows.insert(asked + 1, row);
        let found = fault(&told.publish()).unwrap();
        // In time the row itself is good, and only what comes of it differs.
        assert_eq!(found.wrong == Wrong::Audit("it comes too late"), seen, "{found}");
    }
}

#[test]
fn another_secret_does_not_give_the_seeds_that_were_listed() {
    let mut ledger = found_out();
    let other = swarm_crypto::digest::Digest([5; 32]);
    for row in ledger.entries() {
        let Record::Boundary(boundary) = &mut row.record else { continue };
        match boundary.epoch {
            0 => boundary.next_secret_hash = secret_commitment(&other),
            1 => boundary.secret = other,
            _ => {}
        }
    }
    for (header, _) in ledger.epochs.iter_mut().skip(1).take(1) {
        header.secret = other;
    }
    assert_eq!(fault(&ledger.publish()).unwrap().wrong, Wrong::Seed);
}

/// Not caught: what an auditor said and the operator never recorded is silence to everybody else.
#[test]
fn a_finding_that_is_held_back_is_silence_to_all_but_its_auditor() {
    let mut table = pool(10_000);
    let at = sealed_answer(&mut table);
    let [(_, honest, Said::Nothing)] = table.seats()[..] else { panic!("one is asked") };
    // It finds against the proof and seals that; nobody records it.
    (0..2).for_each(|_| next_epoch(&mut table));
    table.inquest(Finding::Holds);
    assert_eq!(ends(&table), [(at, AuditEnd::Holds)], "the next one is the friend's friend");
    let asked = records(&table).contains(&Record::AuditPicked { leaf: at, auditor: honest });
    let heard = records(&table).iter().any(|record| {
        matches!(record, Record::Attested { attestation, .. }
        if Statement::decode(&attestation.payload).unwrap().header.by == honest)
    });
    assert!(asked && !heard, "its auditor reads that it was asked, and that it said nothing");
    next_epoch(&mut table);
    verify(&published(&table)).unwrap();
}

/// Not caught: the operator knows what each epoch will pick, and a verdict may come after a boundary.
#[test]
fn a_proof_may_be_accepted_where_it_is_not_picked() {
    let mut table = pool(5_000);
    let secret = |table: &Table, epoch| epoch_secret(&[7; 32], &table.pool.id(), epoch);
    for _ in 0..20 {
        let job = table.say(CLIENT, wish(20, table.now + Millis(60_000)));
        table.say(FRIEND, Claim { job, attempt: 1 });
        table.wait(2_500);
        let Some(Stage::Leased(granted)) = table.pool.state().job(&job).map(|entry| entry.stage.clone())
        else {
            next_epoch(&mut table);
            continue;
        };
        let epoch = table.pool.state().epoch().number;
        let [now, next] = [epoch, epoch + 1].map(|n| is_picked(&secret(&table, n), &granted.lease, 5_000));
        table.say(FRIEND, proof(job, granted.lease));
        let Some(asked) = table.asked.pop() else { continue };
        let spared = now && !next;
        if spared {
            next_epoch(&mut table);
        }
        table.happen(PoolEvent::Examined { job, proof: asked.proof_id, outcome: Ok(100) });
        next_epoch(&mut table);
        if spared {
            let at = LeafAt { epoch: epoch + 1, index: 0 };
            assert_eq!(table.leaves().last(), Some(&(at, job)));
            assert!(!records(&table).iter().any(|record| leaf_of(record) == Some(at)));
            verify(&published(&table)).unwrap();
            return;
        }
    }
    panic!("no lease is picked by one epoch and not by the next");
}

/// Not caught: who was alive is the operator's word, so it can see to it that only friends are drawn.
#[test]
fn a_roster_of_friends_draws_friends() {
    let mut table = Table::posting(10_000);
    [FRIEND, 3].into_iter().for_each(|n| beat_of(&mut table, n, 1));
    let open = table.pool.state().epoch().number;
    while table.pool.state().epoch().number == open || table.pool.state().sealing().is_some() {
        table.wait(100);
    }
    let at = answer(&mut table, FRIEND);
    next_epoch(&mut table);
    assert_eq!(table.pool.state().audit(at).unwrap().order, [key(3).address()]);
    table.inquest(Finding::Holds);
    next_epoch(&mut table);
    verify(&published(&table)).unwrap();
}

/// The draw that a job's first attempt would have if its client sent it now, and the lease under which the friend would then
/// hold it: who knows the epoch's secret knows both beforehand.
fn would_be_picked(table: &Table, job: &Job, holder: u8, rate: u32) -> bool {
    let (pool, epoch) = (table.pool.id(), table.pool.state().epoch().number);
    let secret = epoch_secret(&[7; 32], &pool, epoch);
    let id = table.sign(CLIENT, job.clone()).id();
    let lease = lease_id(&pool, &id, 1, &key(holder).address(), &draw_seed(&secret.0, &id, 1));
    is_picked(&secret, &lease, rate)
}

/// A job of the operator's own client that the friend answers, in an epoch that has room for it.
fn friendly(table: &mut Table, suits: impl Fn(&Table, &Job) -> bool) -> (LeafAt, u32) {
    const TRIES: u32 = 200;
    for tries in 1..=TRIES {
        // What differs is when it is said: that is in the job's id.
        let job = wish(20, table.now + Millis(60_000));
        if suits(table, &job) {
            return (answer_for(table, FRIEND, 20), tries);
        }
        table.wait(1);
    }
    panic!("no job suits in {TRIES} tries")
}

/// Not caught: whoever knows the secret can try jobs of its own until none of them is picked. It takes jobs of its own: a
/// client's job is what it is, and its lease goes to whoever wins the race.
#[test]
fn own_jobs_can_be_tried_until_they_suit_and_others_cannot() {
    const RATE: u32 = 9_000;
    const JOBS: u32 = 8;
    let is_asked = |table: &Table, at| records(table).iter().any(|record| leaf_of(record) == Some(at));
    let mut seen = Vec::new();
    for ground in [true, false] {
        let mut table = pool(RATE);
        let suits = |table: &Table, job: &Job| !ground || !would_be_picked(table, job, FRIEND, RATE);
        let (mut tries, mut asked) = (0, 0);
        for _ in 0..JOBS {
            let (at, tried) = friendly(&mut table, suits);
            next_epoch(&mut table);
            tries += tried;
            asked += u32::from(is_asked(&table, at));
            table.inquest(Finding::Holds);
        }
        next_epoch(&mut table);
        verify(&published(&table)).unwrap();
        seen.push((tries, asked));
    }
    let [(ground, none), (straight, most)] = seen[..] else { unreachable!() };
    assert_eq!((none, straight), (0, JOBS), "nine in ten are picked, and of these none");
    assert!(most > JOBS / 2, "of jobs that nobody tried {most} are looked at");
    assert!(ground > 3 * JOBS, "one in ten suits: {ground} tries for {JOBS} jobs");
}

/// Not caught: a friend gives a lease back that would be picked, and the job is listed again, with another draw. It does so
/// in the records, loses the job for good, and its weight with it.
#[test]
fn a_lease_that_would_be_picked_can_be_given_back_at_a_price() {
    const RATE: u32 = 5_000;
    let mut table = pool(RATE);
    for _ in 0..40 {
        let secret = epoch_secret(&[7; 32], &table.pool.id(), table.pool.state().epoch().number);
        let lease = |table: &Table, job| match &table.pool.state().job(job).unwrap().stage {
            Stage::Leased(granted) => Some((granted.wallet, granted.lease)),
            _ => None,
        };
        let job = table.say(CLIENT, wish(20, table.now + Millis(60_000)));
        table.say(FRIEND, Claim { job, attempt: 1 });
        table.wait(2_500);
        let Some((_, picked)) = lease(&table, &job).filter(|(_, lease)| is_picked(&secret, lease, RATE))
        else {
            next_epoch(&mut table);
            continue;
        };
        table.say(FRIEND, Progress { job, lease: picked, units: 1, prefix: picked });
        table.say(FRIEND, Release { job, lease: picked, cause: ReleaseCause::EngineFailure });
        table.say(FRIEND, Claim { job, attempt: 2 });
        table.say(3, Claim { job, attempt: 2 });
        table.wait(2_500);
        let Some((holder, other)) = lease(&table, &job) else { panic!("it was listed again") };
        assert_eq!(holder, key(3).address(), "who gave it back does not get it again");
        if is_picked(&secret, &other, RATE) {
            next_epoch(&mut table);
            continue;
        }
        let before = table.leaves().len();
        table.say(3, proof(job, other));
        let asked = table.asked.pop().unwrap();
        table.happen(PoolEvent::Examined { job, proof: asked.proof_id, outcome: Ok(100) });
        assert_eq!(table.leaves().len(), before + 1);
        let at = table.leaves().last().unwrap().0;
        next_epoch(&mut table);
        assert!(!records(&table).iter().any(|record| leaf_of(record) == Some(at)), "nobody is asked");
        let loss = table.pool.roster_entry(&key(FRIEND).address()).unwrap().loss24;
        assert!(loss > 0, "what it gave back is in its roster entry");
        verify(&published(&table)).unwrap();
        return;
    }
    panic!("no lease is picked whose successor is not")
}
