use std::time::Duration;

use super::super::bucket::Bucket;

#[test]
fn a_budget_is_used_up_and_refills() {
    let mut now = Duration::from_secs(5);
    let mut bucket = Bucket::new(10, 100, now);
    assert!(bucket.try_charge(100, now));
    assert!(!bucket.try_charge(1, now) && !bucket.has_some(now));
    now += Duration::from_millis(100);
    assert!(bucket.try_charge(1, now) && !bucket.has_some(now));
    bucket.charge(50);
    assert!(!bucket.has_some(now + Duration::from_secs(5)));
    assert!(bucket.has_some(bucket.refilled_at()));
    assert!(bucket.refilled_at() <= now + Duration::from_millis(5001));
    let later = now + Duration::from_secs(10_000_000);
    assert!(bucket.try_charge(100, later) && !bucket.try_charge(1, later), "never more than the burst");
    assert!(!bucket.has_some(now), "time that runs backwards fills nothing");
}
