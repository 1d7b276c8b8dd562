//! The specification names what is on the wire.

use ipld_core::ipld::Ipld;
use std::collections::BTreeSet;
use swarm_crypto::address::{Address, PoolId};
use swarm_crypto::digest::{Digest, blake3};
use swarm_protocol::Posted;
use swarm_protocol::codec::{Link, decode, encode, to_row};
use swarm_protocol::money::MicroUsdc;
use swarm_protocol::pool::{Counts, EpochHeader, Leaf, SETTLEMENT_VERSION, Totals};
use swarm_protocol::race::RosterEntry;
use swarm_protocol::statement::{Asset, Kind, PayoutMode, Statement};

const COMMON: [&str; 6] = ["at", "by", "kind", "nonce", "pool", "v"];

fn specification() -> String {
    let path = format!("{}/../docs/protocol.md", env!("CARGO_MANIFEST_DIR"));
    std::fs::read_to_string(&path).unwrap_or_else(|error| panic!("{path}: {error}"))
}

/// The text under a heading, up to the next one.
fn section(text: &str, heading: &str) -> String {
    let start = text.find(&format!("{heading}\n")).unwrap_or_else(|| panic!("no section '{heading}'"));
    let rest = &text[start + heading.len()..];
    rest[..rest.find("\n#").unwrap_or(rest.len())].to_owned()
}

fn fields(section: &str) -> BTreeSet<String> {
    let rows = section.lines().filter_map(|line| line.strip_prefix("| `")?.split_once('`'));
    rows.map(|(field, _)| field.to_owned()).collect()
}

/// Names of the fields of `value` and of the structures in it, but for those with tables of their own.
fn collect(value: &Ipld, found: &mut BTreeSet<String>) {
    match value {
        Ipld::Map(map) => {
            for (name, value) in map {
                match name.as_str() {
                    "text" | "linked" | "usdc" => {}
                    "chat" => collect(value, found),
                    "posted" => _ = found.insert(name.clone()),
                    _ => {
                        found.insert(name.clone());
                        collect(value, found);
                    }
                }
            }
        }
        Ipld::List(list) => list.iter().for_each(|value| collect(value, found)),
        _ => {}
    }
}

#[test]
fn the_fields_on_the_wire_are_those_in_the_specification() {
    let text = specification();
    for kind in Kind::ALL.iter().filter(|kind| kind.is_built()) {
        let mut spoken = BTreeSet::new();
        for payload in crate::statements::payloads(*kind) {
            collect(&decode::<Ipld>(&payload).unwrap(), &mut spoken);
        }
        spoken.retain(|field| !COMMON.contains(&field.as_str()));
        assert_eq!(fields(&section(&text, &format!("#### `{kind}`"))), spoken, "{kind}");
    }
    let mut posted = BTreeSet::new();
    collect(&decode::<Ipld>(&encode(&Posted::default())).unwrap(), &mut posted);
    assert_eq!(fields(&section(&text, "## 13. Posted numbers")), posted);
}

#[test]
fn the_constants_of_the_sampler_are_as_written() {
    let text = specification();
    let roots: serde_json::Value = crate::vectors("sampler.json");
    for root in roots["roots"].as_array().unwrap() {
        assert!(text.contains(&format!("`0x{}`", root.as_str().unwrap())), "{root}");
    }
}

#[test]
fn the_derived_nonce_is_as_written() {
    for payload in Kind::ALL.iter().flat_map(|kind| crate::statements::payloads(*kind)) {
        let statement = Statement::decode(&payload).unwrap();
        let Ipld::Map(mut map) = decode::<Ipld>(&payload).unwrap() else { panic!("payloads are maps") };
        map.retain(|field, _| !COMMON.contains(&field.as_str()));
        let content = (statement.header.at, statement.kind().as_str(), Ipld::Map(map));
        assert_eq!(statement.header.nonce.0, blake3(&encode(&content)).0[..16]);
    }
}

#[test]
fn a_link_in_plain_cbor_is_the_bytes_of_its_cid() {
    let row = to_row(&Link([7; 32]));
    assert_eq!(row[..2], [0x58, 36], "36 bytes");
    assert_eq!(row[2..6], [1, 0x71, 0x12, 0x20]);
    assert_eq!(row[6..], [7; 32]);
}

/// Field names of a value's first level.
fn names_of<T: serde::Serialize>(value: &T) -> BTreeSet<String> {
    let Ipld::Map(map) = decode::<Ipld>(&encode(value)).unwrap() else { panic!("a structure is a map") };
    map.into_keys().collect()
}

#[test]
fn headers_leaves_and_roster_entries_are_as_written() {
    let text = specification();
    let header = EpochHeader {
        pool: PoolId([1; 32]),
        asset: Asset::Test,
        epoch: 1,
        previous: Some(Link([2; 32])),
        first_seq: 3,
        end_seq: 4,
        range_hash: Digest::ZERO,
        counts: Counts::default(),
        volume: MicroUsdc(5),
        proofs_root: Digest::ZERO,
        leaf_pages: Vec::new(),
        record_pages: Vec::new(),
        payouts_root: Digest::ZERO,
        debits_root: Digest::ZERO,
        audits_root: Digest::ZERO,
        totals: Totals::default(),
        secret: Digest::ZERO,
        settlement: SETTLEMENT_VERSION,
        pps_scaled: false,
        audits_unserved: 0,
    };
    let epochs =
        section(&text, "## 11. Epochs").replace("`first_seq`, `end_seq`", "`first_seq` |\n| `end_seq`");
    assert_eq!(fields(&epochs), names_of(&header));
    let wallet = Address::ZERO;
    let (job, proof, price) = (Link([3; 32]), Link([4; 32]), MicroUsdc(6));
    let leaf = Leaf { job, proof, wallet, price, units: 7, mode: PayoutMode::Solo };
    let entry = RosterEntry {
        mode: swarm_protocol::statement::PayoutMode::Solo,
        wallet,
        w: 1,
        fee168: MicroUsdc(0),
        loss24: 0,
        established: false,
        models: Vec::new(),
        slots: 1,
    };
    let named = [names_of(&header.counts), names_of(&header.totals), names_of(&leaf), names_of(&entry)];
    let words: BTreeSet<&str> = epochs.split(|c: char| !c.is_alphanumeric() && c != '_').collect();
    for name in named.iter().flatten() {
        assert!(words.contains(name.as_str()), "'{name}' is not in the specification");
    }
}
