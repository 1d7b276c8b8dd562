//! An epoch's records in pages, and read back by somebody who has only the pages.

use proptest::prelude::*;
use serde_bytes::ByteBuf;
use swarm_crypto::address::Address;
use swarm_crypto::digest::{Digest, blake3};
use swarm_protocol::Timestamp;
use swarm_protocol::codec::{Link, encode};
use swarm_protocol::money::{Account, MicroUsdc, Transfer};
use swarm_protocol::pool::{
    Entry, MAX_PAGE_BYTES, MAX_ROW_BYTES, PageError, Record, RecordPage, RecordPages, RecordReader,
    chain_hash, pages_around,
};

/// The largest block that any IPFS node takes.
const MAX_BLOCK_BYTES: usize = 1 << 20;

fn entry(n: u64, name: usize, transfers: usize) -> Entry {
    let from = Account::MinerHeld(Address([n as u8; 20]));
    let to = Account::MinerPayable(Address([7; 20]));
    let transfers = (0..transfers as u64).map(|amount| Transfer { from, to, amount: MicroUsdc(amount) });
    let record =
        Record::Bound { name: "x".repeat(name), wallet: Address::ZERO, confirmed: n.is_multiple_of(2) };
    Entry { at: Timestamp(n), record, transfers: transfers.collect() }
}

/// The pages of these records, and the chain hash after them.
fn pages(first: u64, previous: Digest, entries: &[Entry]) -> (Vec<Vec<u8>>, Digest) {
    let (mut pages, mut blocks, mut head) = (RecordPages::new(first, previous), Vec::new(), previous);
    for (seq, entry) in (first..).zip(entries) {
        let row = entry.encode();
        let after = chain_hash(&head, &row);
        blocks.extend(pages.push(&row, seq, (head, after)));
        head = after;
    }
    blocks.push(pages.finish());
    let links: Vec<Link> = blocks.iter().map(|block| Link::of(block)).collect();
    assert_eq!(pages.links(), links);
    (blocks, head)
}

fn read(first: u64, previous: Digest, blocks: &[Vec<u8>]) -> Result<(Vec<Entry>, u64, Digest), PageError> {
    let mut reader = RecordReader::new(first, previous);
    let mut entries = Vec::new();
    for block in blocks {
        entries.extend(reader.supply(block)?.into_iter().map(|row| row.entry));
    }
    let (last, next, head) = reader.finish()?;
    entries.extend(last.map(|row| row.entry));
    Ok((entries, next, head))
}

/// Short ones, some that fill a page, some of several pages.
fn record() -> impl Strategy<Value = (usize, usize)> {
    prop_oneof![
        20 => (0..400usize, 0..3usize),
        2 => (200_000..MAX_PAGE_BYTES + 100, 0..3usize),
        1 => (MAX_PAGE_BYTES - 100..3 * MAX_PAGE_BYTES, 0..3usize),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig { cases: 48, failure_persistence: None, ..ProptestConfig::default() })]

    #[test]
    fn what_is_read_back_is_what_was_recorded(shapes in prop::collection::vec(record(), 1..60), first in 0..1000u64) {
        let entries: Vec<Entry> =
            (0..).zip(&shapes).map(|(n, (name, transfers))| entry(n, *name, *transfers)).collect();
        let previous = blake3(&first.to_be_bytes());
        let (blocks, head) = pages(first, previous, &entries);
        prop_assert!(blocks.iter().all(|block| block.len() <= MAX_BLOCK_BYTES));
        let bytes: usize = entries.iter().map(|entry| entry.encode().len()).sum();
        prop_assert!(blocks.len() <= 2 * bytes / MAX_PAGE_BYTES + 1, "pages are filled: {} of {bytes}", blocks.len());
        prop_assert_eq!(read(first, previous, &blocks), Ok((entries.clone(), first + entries.len() as u64, head)));
        prop_assert_eq!(&pages(first, previous, &entries).0, &blocks);
    }

    #[test]
    fn a_changed_page_does_not_lead_to_the_same_end(
        shapes in prop::collection::vec(record(), 2..20),
        page in any::<prop::sample::Index>(),
        byte in any::<prop::sample::Index>(),
    ) {
        let entries: Vec<Entry> =
            (0..).zip(&shapes).map(|(n, (name, transfers))| entry(n, *name, *transfers)).collect();
        let (mut blocks, head) = pages(5, Digest::ZERO, &entries);
        let page = page.index(blocks.len());
        let byte = byte.index(blocks[page].len());
        blocks[page][byte] ^= 1;
        let end = read(5, Digest::ZERO, &blocks).map(|(_, next, head)| (next, head));
        prop_assert_ne!(end, Ok((5 + entries.len() as u64, head)));
    }
}

#[test]
fn a_page_that_is_left_out_or_comes_first_is_a_gap() {
    let entries: Vec<Entry> = (0..6).map(|n| entry(n, 300_000, 0)).collect();
    let (blocks, _) = pages(1, Digest::ZERO, &entries);
    assert!(blocks.len() > 3);
    assert_eq!(read(1, Digest::ZERO, &blocks[1..]).unwrap_err(), PageError::Gap(0));
    let without: Vec<_> = [&blocks[..1], &blocks[2..]].concat();
    assert_eq!(read(1, Digest::ZERO, &without).unwrap_err(), PageError::Gap(1));
    let page = |carried: usize, records| RecordPage {
        first_seq: 1,
        previous: Digest::ZERO,
        carried: ByteBuf::from(vec![0; carried]),
        records,
    };
    let endless =
        [page(0, vec![ByteBuf::from([0])]), page(MAX_ROW_BYTES, Vec::new())].map(|page| encode(&page));
    assert_eq!(read(1, Digest::ZERO, &endless).unwrap_err(), PageError::TooLong(1));
    let nothing = encode(&Vec::<u64>::new());
    assert!(matches!(read(1, Digest::ZERO, &[nothing]), Err(PageError::Unreadable(0, _))));
}

#[test]
fn an_acceptance_is_found_in_its_page_alone() {
    let mut table = crate::audits::pool(10_000);
    let at = crate::audits::sealed_answer(&mut table);
    let (_, job) = *table.leaves().iter().find(|(leaf, _)| *leaf == at).unwrap();
    let epochs = crate::verification::published(&table);
    let pages = |epoch: usize| {
        let decode = |page: &Vec<u8>| swarm_protocol::codec::decode::<RecordPage>(page).unwrap();
        epochs[epoch].pages.iter().map(decode).collect::<Vec<_>>()
    };
    let found: Vec<_> = pages(1).iter().filter_map(|page| page.acceptance(&job)).collect();
    let [(lease, proof)] = &found[..] else { panic!("it is there once") };
    let leaf = &table.pool.state().held()[&1].leaves[0];
    assert_eq!((lease, proof.id()), (&leaf.lease, table.picked[0].proof));
    assert!(pages(0).iter().all(|page| page.acceptance(&job).is_none()), "and in no other epoch");
    assert!(pages(1).iter().all(|page| page.acceptance(&Link([9; 32])).is_none()));
}

#[test]
fn pages_are_looked_through_from_where_an_acceptance_should_be() {
    let order = |index, accepted, pages| pages_around(index, accepted, pages).collect::<Vec<_>>();
    assert_eq!(order(0, 10, 1), [0]);
    assert_eq!(order(0, 10, 4), [0, 1, 2, 3]);
    assert_eq!(order(5, 10, 5), [2, 1, 3, 0, 4]);
    assert_eq!(order(9, 10, 4), [3, 2, 1, 0]);
    // Of an operator that says anything.
    assert_eq!(order(u64::MAX, 0, 3), [2, 1, 0]);
    assert_eq!(order(0, 0, 0), [0; 0]);
}
