//! What becomes of auditors whose findings cannot come from a look.

use crate::audits::*;
use crate::histories::{Table, key};
use crate::verification::{published, verify};
use swarm_crypto::address::Address;
use swarm_protocol::finding::{AuditEnd, BEYOND_DOUBT, Finding};
use swarm_protocol::pool::{LeafAt, Said};

/// A wallet that says that everything holds.
pub(crate) const LAZY: u8 = 4;
const FAR: Finding = Finding::Differs(BEYOND_DOUBT);
const NEAR: Finding = Finding::Differs(BEYOND_DOUBT - 1);

/// An answer of which there can be many, once its epoch is sealed.
fn cheap_answer(table: &mut Table) -> LeafAt {
    let at = answer_for(table, 2, 20);
    next_epoch(table);
    at
}

fn first_asked(table: &Table) -> Address {
    let [(_, auditor, Said::Nothing)] = table.seats()[..] else {
        panic!("one is asked: {:?}", table.seats())
    };
    auditor
}

/// A proof of 2 that the lazy one is the first to look at, sealed; proofs for which others are drawn hold.
pub(crate) fn asked_the_lazy(table: &mut Table) -> LeafAt {
    for _ in 0..40 {
        let at = cheap_answer(table);
        if first_asked(table) == key(LAZY).address() {
            return at;
        }
        table.inquest(Finding::Holds);
    }
    panic!("the draw never asks the lazy one");
}

/// Somebody who knows better pays for others to look.
fn challenge(table: &mut Table, at: LeafAt) {
    let job = table.leaves().into_iter().find(|(leaf, _)| *leaf == at).unwrap().1;
    table.wait(1);
    table.challenge(CHALLENGER, at, job);
}

pub(crate) fn erred(table: &Table, at: LeafAt) -> Vec<bool> {
    table.pool.state().audit(at).unwrap().seats.iter().map(|seat| seat.erred).collect()
}

pub(crate) fn is_established(table: &Table, n: u8) -> bool {
    table.pool.roster_entry(&key(n).address()).unwrap().established
}

#[test]
fn who_says_of_two_false_proofs_that_they_hold_is_drawn_no_more() {
    for truth in [Finding::Contradicts, FAR] {
        let mut table = pool(10_000);
        for errors in 1..=2 {
            let at = asked_the_lazy(&mut table);
            opinion(&mut table, Finding::Holds);
            assert_eq!(ends(&table).last(), Some(&(at, AuditEnd::Holds)));
            challenge(&mut table, at);
            table.inquest(truth);
            assert_eq!(erred(&table, at), [true, false, false], "{truth:?}");
            next_epoch(&mut table);
            assert_eq!(is_established(&table, LAZY), errors < 2, "{truth:?}");
        }
        for _ in 0..10 {
            let at = cheap_answer(&mut table);
            let order = &table.pool.state().audit(at).unwrap().order;
            assert!(order.len() == 4 && !order.contains(&key(LAZY).address()));
            table.inquest(Finding::Holds);
        }
        assert!((2..8).filter(|n| *n != LAZY && *n != 2).all(|n| is_established(&table, n)));
        verify(&published(&table)).unwrap();
    }
}

#[test]
fn a_near_miss_is_nobodys_error() {
    let mut table = pool(10_000);
    let at = sealed_answer(&mut table);
    opinion(&mut table, Finding::Holds);
    challenge(&mut table, at);
    table.inquest(NEAR);
    assert_eq!(ends(&table), [(at, AuditEnd::Holds), (at, AuditEnd::Differs)]);
    assert_eq!(erred(&table, at), [false; 3]);
}

#[test]
fn who_finds_against_a_proof_and_is_outvoted_has_not_erred() {
    for said in [Finding::Contradicts, FAR, NEAR] {
        let mut table = pool(10_000);
        let at = sealed_answer(&mut table);
        opinion(&mut table, said);
        table.inquest(Finding::Holds);
        assert_eq!(ends(&table), [(at, AuditEnd::Holds)]);
        assert_eq!(erred(&table, at), [false; 3], "{said:?}");
    }
}

#[test]
fn an_error_is_taken_back_once_more_looks_show_otherwise() {
    let mut table = pool(10_000);
    let at = sealed_answer(&mut table);
    opinion(&mut table, Finding::Holds);
    challenge(&mut table, at);
    table.inquest(FAR);
    assert_eq!(erred(&table, at), [true, false, false]);
    challenge(&mut table, at);
    table.inquest(Finding::Holds);
    assert_eq!(ends(&table).last(), Some(&(at, AuditEnd::Holds)));
    assert_eq!(erred(&table, at), [false; 5]);
    verify(&published(&table)).unwrap();
}
