//! What a pool published, recomputed; and forgeries of it by an operator who signs, chains and hashes as it likes.

use crate::histories::{Table, how_many, steps};
use proptest::prelude::*;
use swarm_crypto::keyring::Keyring;
use swarm_protocol::codec::{self, Link};
use swarm_protocol::pool::EpochHeader;
use swarm_protocol::pool::verify::{Fault, Proven, Verifier};

/// An epoch as it is published.
#[derive(Debug, Clone)]
pub(crate) struct Sealed {
    pub(crate) header: Vec<u8>,
    pub(crate) pages: Vec<Vec<u8>>,
}

/// Every epoch whose header is fixed, from the genesis on.
pub(crate) fn published(table: &Table) -> Vec<Sealed> {
    let mut epochs = Vec::new();
    let mut next = table.pool.state().last_header().map(|(_, link)| link);
    while let Some(link) = next {
        let block = table.blocks[&link].clone();
        let header: EpochHeader = codec::decode(&block).unwrap();
        let pages = header.record_pages.iter().map(|page: &Link| table.blocks[page].clone()).collect();
        next = header.previous;
        epochs.push(Sealed { header: block, pages });
    }
    epochs.reverse();
    epochs
}

/// Reads all of it; with signatures checked ahead of their pages the same must come out.
pub(crate) fn verify(epochs: &[Sealed]) -> Result<Verifier, Fault> {
    let alone = read(epochs, |verifier, page| verifier.page(page));
    let mut keyring = Keyring::default();
    let ahead = read(epochs, |verifier, page| verifier.page_with(page, Proven::of(page, &mut keyring)));
    let found = |read: &Result<Verifier, Fault>| read.as_ref().map(Verifier::tally).map_err(Clone::clone);
    assert_eq!(found(&ahead), found(&alone));
    alone
}

fn read(
    epochs: &[Sealed],
    mut page: impl FnMut(&mut Verifier, &[u8]) -> Result<(), Fault>,
) -> Result<Verifier, Fault> {
    let mut verifier = Verifier::new();
    for epoch in epochs {
        verifier.begin(&epoch.header)?;
        epoch.pages.iter().try_for_each(|block| page(&mut verifier, block))?;
        verifier.finish()?;
    }
    Ok(verifier)
}

proptest! {
    #![proptest_config(ProptestConfig { cases: how_many() / 10, ..ProptestConfig::default() })]

    #[test]
    fn what_an_honest_pool_publishes_verifies(steps in steps()) {
        let mut table = Table::new();
        steps.iter().for_each(|step| table.take(step));
        table.wait(20_000);
        let epochs = published(&table);
        prop_assert!(!epochs.is_empty());
        let verified = verify(&epochs).map_err(|fault| TestCaseError::fail(fault.to_string()))?;
        prop_assert_eq!(verified.tally().epochs, epochs.len() as u64);
        prop_assert_eq!(verified.state().unwrap().accounts().total(), 0);
    }
}
