//! Ledgers that have let go of what is published, and those of earlier versions.

use crate::harness::{Site, job_of};
use crate::recompute::{SEALED, good};
use crate::reference;
use redb::{Database, ReadableTable, TableDefinition};
use std::os::unix::fs::PermissionsExt;
use std::path::Path;

const CHECKPOINT: TableDefinition<'_, &str, &[u8]> = TableDefinition::new("ledger-checkpoint");
const OPERATOR: [&str; 6] = ["--epoch", "1s", "--keep-epochs", "1", "--heartbeat", "1s"];

/// Flips a bit of every checkpoint.
fn damage_checkpoints(ledger: &Path) {
    let database = Database::open(ledger).unwrap();
    let transaction = database.begin_write().unwrap();
    for slot in ["latest", "other"] {
        let mut table = transaction.open_table(CHECKPOINT).unwrap();
        let mut row = table.get(slot).unwrap().unwrap().value().to_vec();
        *row.last_mut().unwrap() ^= 1;
        table.insert(slot, row.as_slice()).unwrap();
    }
    transaction.commit().unwrap();
}

#[test]
fn a_ledger_without_its_checkpoints_is_read_from_what_is_published() {
    let site = Site::new();
    let operator = site.operator(&OPERATOR);
    let miner = site.miner("alice.eth", &[]);
    operator.expect("1 miners in its roster");
    let job = site.job("job", &job_of("The carriage", 12));
    let answers: Vec<_> = (0..3).map(|_| site.submit(&job).good().json()).collect();
    let last = answers[2]["receipt"]["epoch"].as_u64().unwrap();
    operator.expect(&format!("the records of epoch {last} are in its published pages only now"));
    let before = site.client(&["balance", "--json"]).good().json();
    operator.terminate().good();
    let (dropped, reading) = (reference::dropped(&site), reference::read(&site));
    assert!(dropped > 12, "{dropped} records were dropped");
    assert_eq!(reading.receipts.len(), 3);

    let folder = site.data("operator");
    damage_checkpoints(&folder.join("ledger.redb"));
    let operator = site.operator(&OPERATOR);
    operator.expect("reading the records of sealed epochs from their published pages");
    operator.expect("ledger replayed");
    let after = site.client(&["balance", "--json"]).good().json();
    assert_eq!(before["free_usdc"], after["free_usdc"]);
    site.submit(&job).good();
    good(&site.client(&["verify", "--json"]).good().json(), &SEALED);
    operator.expect_after(operator.mark(), "published pages only now");
    operator.terminate().good();
    reference::read(&site);

    // Without what is published there is no way to know.
    damage_checkpoints(&folder.join("ledger.redb"));
    std::fs::remove_file(folder.join("blocks.redb")).unwrap();
    let refused = site.operator_with(&OPERATOR, &[("SWARMPOOL_NO_RELAY", "yes")]).finish();
    assert_eq!(refused.code(), Some(2), "{refused:?}");
    assert!(refused.stderr.contains("restore a backup"), "{}", refused.stderr);
    miner.terminate().good();
}

/// The folder was left behind by `kill -9` of a program that wrote format 4.
#[test]
fn a_folder_of_an_earlier_format_goes_on() {
    let (site, fixture) = (Site::new(), Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/format-4"));
    let folder = site.data("operator");
    std::fs::create_dir_all(&folder).unwrap();
    for file in std::fs::read_dir(fixture).unwrap() {
        let (from, to) = (file.as_ref().unwrap().path(), folder.join(file.unwrap().file_name()));
        std::fs::copy(from, &to).unwrap();
        std::fs::set_permissions(&to, PermissionsExt::from_mode(0o600)).unwrap();
    }
    std::fs::set_permissions(&folder, PermissionsExt::from_mode(0o700)).unwrap();

    let operator = site.operator(&OPERATOR);
    operator.expect("ledger format 4 is 5 now");
    operator.expect("ledger replayed: 26 records, epoch 6");
    let miner = site.miner("alice.eth", &[]);
    site.submit(&site.job("job", &job_of("The carriage", 12))).good();
    let old = operator.expect("the records of epoch 5 are in its published pages only now");
    assert!(!old.is_empty());
    good(&site.client(&["verify", "--json"]).good().json(), &SEALED);
    miner.terminate().good();
    operator.terminate().good();
    assert!(reference::dropped(&site) >= 20);
}
