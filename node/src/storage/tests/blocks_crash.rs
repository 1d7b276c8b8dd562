//! Power cuts: what was pinned is there, what was only cached may be gone, nothing else is found.

use super::Dice;
use super::sim_disk::SimDisk;
use crate::storage::blocks::{BlockError, BlockStore};
use cid::Cid;
use cid::multihash::Multihash;
use std::collections::BTreeSet;

const SEEDS: u64 = 25;
const STEPS: usize = 25;
const QUOTA: u64 = 20_000;

fn block(dice: &mut Dice) -> (Cid, Vec<u8>) {
    let bytes = vec![dice.below(40) as u8; 1 + dice.below(3) as usize * 700];
    let digest = swarm_crypto::digest::sha2_256(&bytes);
    let hash = Multihash::wrap(0x12, &digest).unwrap();
    (Cid::new_v1(0x55, hash), bytes)
}

/// The blocks that must be there, and those whose pin or unpin was under way when the power went.
fn write(disk: &SimDisk, script: &mut Dice) -> (BTreeSet<Cid>, Option<Cid>) {
    let mut pinned = BTreeSet::new();
    let Ok(store) = BlockStore::with_backend(disk.clone(), QUOTA) else {
        return (pinned, None);
    };
    for _ in 0..STEPS {
        let (cid, bytes) = block(script);
        let (choice, held) = (script.below(4), pinned.iter().next().copied());
        let (done, touched) = match (choice, held) {
            (0, Some(held)) => (store.unpin(&held).map(|()| pinned.remove(&held)), held),
            (1, _) => (store.put_pinned(&[(cid, &bytes)]).map(|()| pinned.insert(cid)), cid),
            (2, _) if store.has(&cid) => {
                (store.pin_content(&[cid], swarm_protocol::Timestamp(1)).map(|()| pinned.insert(cid)), cid)
            }
            _ => (store.put(&cid, &bytes).map(|()| true), cid),
        };
        match done {
            Ok(_) | Err(BlockError::QuotaFull { .. }) => {}
            Err(_) => return (pinned, Some(touched)),
        }
    }
    (pinned, None)
}

#[test]
fn what_is_pinned_survives_a_power_cut() {
    for seed in 0..SEEDS {
        let whole = SimDisk::created();
        write(&whole, &mut Dice(seed));
        let mut dice = Dice(!seed);
        let cut = dice.below(whole.changes());
        let disk = SimDisk::created();
        disk.cut_power_after(cut);
        let (pinned, in_flight) = write(&disk, &mut Dice(seed));
        let found = disk.after_crash(&mut dice);
        let store = BlockStore::with_backend(found, QUOTA).unwrap();
        for cid in pinned.iter().filter(|cid| Some(**cid) != in_flight) {
            assert!(store.is_pinned(cid), "seed {seed}, cut after {cut}: {cid} is not pinned");
            assert!(store.get(cid).unwrap().is_some(), "seed {seed}, cut after {cut}: {cid} is gone");
        }
        assert!(store.bytes() <= QUOTA);
    }
}
