//! Histories as archives, for the second implementation of settlement: `tests/interop/settlement.py`.

use crate::histories::{Table, how_many, steps};
use crate::verification::published;
use proptest::strategy::{Strategy, ValueTree};
use proptest::test_runner::TestRunner;
use serde::Serialize;
use std::io::Write;
use std::path::Path;
use swarm_protocol::codec::{self, Link};
use swarm_protocol::statement::JobType;

#[derive(Serialize)]
struct CarHeader {
    roots: Vec<Link>,
    version: u64,
}

fn section(out: &mut Vec<u8>, parts: &[&[u8]]) {
    let mut length: usize = parts.iter().map(|part| part.len()).sum();
    while length >= 0x80 {
        out.push((length & 0x7f) as u8 | 0x80);
        length >>= 7;
    }
    out.push(length as u8);
    parts.iter().for_each(|part| out.extend_from_slice(part));
}

/// All that a table has published, as a CAR of version 1 whose root is the newest header.
fn archive(table: &Table) -> Vec<u8> {
    let mut out = Vec::new();
    let (_, root) = table.pool.state().last_header().unwrap();
    section(&mut out, &[&codec::encode(&CarHeader { roots: vec![root], version: 1 })]);
    let epochs = published(table);
    for block in epochs.iter().flat_map(|epoch| epoch.pages.iter().chain([&epoch.header])) {
        section(&mut out, &[&Link::of(block).cid().to_bytes(), block]);
    }
    out
}

#[test]
#[ignore = "writes archives for another program to read: scripts/settlement.sh runs both"]
fn write_histories_as_archives() {
    let folder = std::env::var("ARCHIVES").expect("ARCHIVES names a folder");
    let mut runner = TestRunner::deterministic();
    for number in 0..how_many() {
        let steps = steps().new_tree(&mut runner).unwrap().current();
        // Half of them as most pools are, the others of each type whose proofs are audited otherwise or not at all.
        let mut table = match number % 6 {
            0 => Table::serving(JobType::Embed, 4_000),
            1 => Table::serving(JobType::SdInfer, 4_000),
            2 => Table::serving(JobType::TorchBench, 4_000),
            _ => Table::new(),
        };
        steps.iter().for_each(|step| table.take(step));
        table.wait(20_000);
        let path = Path::new(&folder).join(format!("{number:06}.car"));
        std::fs::File::create(path).unwrap().write_all(&archive(&table)).unwrap();
    }
}
