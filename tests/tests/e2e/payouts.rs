//! A miner that is paid by share: the reserve takes the miner's part and pays for work units at the boundary.

use crate::harness::{Site, job_of};
use crate::reference;
use serde_json::json;

#[test]
fn a_miner_is_paid_by_share_from_the_reserve() {
    let site = Site::new();
    let operator = site.operator(&["--epoch", "3s", "--heartbeat", "1s", "--reserve", "2.5"]);
    let miner = site.miner("alice.eth", &["--payout", "pps"]);
    // The mode holds from the first epoch whose roster names it.
    operator.expect("opened, 1 miners in its roster");

    let job = site.job("job", &job_of("The carriage", 20));
    let answers: Vec<_> = (0..3).map(|_| site.submit(&job).good().json()).collect();
    let receipt = &answers[0]["receipt"];
    assert_eq!((&receipt["mode"], &receipt["miner_usdc"]), (&json!("pps"), &json!("0.075")));
    assert_eq!(receipt["at_most_usdc"], json!("0.09375"));
    assert!(receipt.get("usdc_for_a_million_units").is_none(), "no epoch with units was sealed");
    miner.expect("work units with");
    let first = receipt["epoch"].as_u64().unwrap();

    // An epoch later there is a rate, and the miner's money is on its way.
    operator.expect(&format!("epoch {} sealed", first + 2));
    let later = site.submit(&job).good().json();
    let rate = &later["receipt"]["usdc_for_a_million_units"];
    assert!(rate.as_str().is_some_and(|rate| rate != "0.00"), "{later}");
    let last = later["receipt"]["epoch"].as_u64().unwrap();
    operator.expect(&format!("epoch {} sealed", last + 2));

    miner.terminate().good();
    operator.terminate().good();
    assert_eq!(site.running(), Vec::<u32>::new());
    let paid = reference::shared(&site);
    // Funded with 2.5, given 4 parts of 0.075, and what is not in it any more is the miner's for good.
    assert_eq!(paid.reserve + paid.miner, 2_500_000 + 4 * 75_000);
    assert!(paid.miner > 3 * 70_000 && paid.miner <= 4 * 93_750, "{paid:?}");
}
