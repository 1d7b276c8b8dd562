use proptest::prelude::*;
use std::sync::LazyLock;
use swarm_crypto::address::{Address, PoolId};
use swarm_crypto::digest::Digest;
use swarm_crypto::key::SecretKey;
use swarm_protocol::codec::{Link, raw_cid};
use swarm_protocol::money::MicroUsdc;
use swarm_protocol::statement::*;
use swarm_protocol::view::{JobState, MAX_EPOCHS, View};
use swarm_protocol::{Millis, Timestamp};

const START: Timestamp = Timestamp(1_800_000_000_000);
const JOBS: [Link; 3] = [Link([1; 32]), Link([2; 32]), Link([3; 32])];

fn key(n: u8) -> SecretKey {
    SecretKey::from_bytes(&[n; 32]).unwrap()
}

fn verified(by: u8, at: Timestamp, body: Body) -> Verified {
    let pool = PoolId::derive("swarmpool.eth", key(1).address(), 0, Address::ZERO);
    let signed = Statement::derived(pool, key(by).address(), at, body).sign(&key(by));
    Intake::new(pool, key(1).address()).accept(None, &signed.encode(), at).unwrap()
}

fn listing(job: Link, attempt: u32) -> Body {
    let entry = ListingEntry {
        job,
        attempt,
        seed: Digest::ZERO,
        epoch: 1,
        model: "m".into(),
        price: MicroUsdc(4),
        assurance: Assurance::Seeded,
        vram_mb: 0,
        listed_at: START,
        free: (1, 1),
    };
    Listing { entries: vec![entry] }.into()
}

fn lease(job: Link, term: u32, wallet: u8) -> Body {
    Lease {
        lease: Digest::ZERO,
        job,
        term,
        wallet: key(wallet).address(),
        seed: Digest::ZERO,
        window: 0,
        claims: Vec::new(),
        until: START,
    }
    .into()
}

fn refusal(job: Link, reason: Reason) -> Body {
    Refusal { subject: job, job, reason, detail: String::new() }.into()
}

fn receipt(job: Link, index: u64) -> Body {
    Receipt {
        pps: None,
        job,
        proof: job,
        client: key(2).address(),
        wallet: key(3).address(),
        epoch: 1,
        index,
        leaf: Digest::ZERO,
        price: MicroUsdc(4),
        miner_part: MicroUsdc(3),
        operator_part: MicroUsdc(1),
        units: 1,
        mode: PayoutMode::Solo,
        asset: Asset::Test,
        output: raw_cid(b""),
        output_bytes: 0,
        held_until: 3,
    }
    .into()
}

fn heartbeat(boot: u64, counter: u64) -> Body {
    Heartbeat {
        boot_at: Timestamp(boot),
        counter,
        models: Vec::new(),
        slots: 1,
        mode: PayoutMode::Solo,
        ens: None,
        device: "cpu".into(),
        vram_mb: 0,
        draining: false,
    }
    .into()
}

/// What is said in the laws, in no sensible order of times: not even an operator whose clock jumps breaks them.
static SAID: LazyLock<Vec<Verified>> = LazyLock::new(|| {
    let mut bodies = Vec::new();
    for (n, job) in JOBS.into_iter().enumerate() {
        for attempt in 1..4 {
            bodies.push((1, listing(job, attempt)));
            bodies.push((1, lease(job, attempt, 3 + n as u8)));
        }
        bodies.push((1, lease(job, 2, 9)));
        bodies.push((1, Admitted { job, epoch: 1 }.into()));
        bodies.push((1, receipt(job, 0)));
        bodies.push((1, receipt(job, 1)));
        bodies.push((1, refusal(job, Reason::JobExpired)));
        bodies.push((1, refusal(job, Reason::NoFunds)));
    }
    for (epoch, header) in [(1, 4), (1, 5), (1, 6), (2, 4)] {
        bodies.push((1, EpochSealed { epoch, header: Link([header; 32]) }.into()));
    }
    for wallet in 3..7 {
        for (boot, counter) in [(1, 0), (1, 1), (2, 0), (u64::from(wallet), 5)] {
            bodies.push((wallet, heartbeat(boot, counter)));
        }
    }
    let times = (0..).map(|n: u64| START + Millis(n * 37 % 50));
    bodies.into_iter().zip(times).map(|((by, body), at)| verified(by, at, body)).collect()
});

/// Something that happens to a view.
#[derive(Debug, Clone, Copy)]
enum Step {
    Hear(usize),
    Floor(u64),
}

fn steps() -> impl Strategy<Value = Vec<Step>> {
    let step = prop_oneof![
        12 => (0..SAID.len()).prop_map(Step::Hear),
        1 => (0u64..40).prop_map(Step::Floor),
    ];
    prop::collection::vec(step, 0..40)
}

fn view(limits: (usize, usize), steps: &[Step]) -> View {
    let mut view = View::bounded(limits.0, limits.1);
    for step in steps {
        match step {
            Step::Hear(n) => view.apply(&SAID[*n]),
            Step::Floor(at) => view.raise_floor(START + Millis(*at)),
        }
    }
    view
}

fn merged(a: &View, b: &View) -> View {
    let mut both = a.clone();
    both.merge(b);
    both
}

fn limits() -> impl Strategy<Value = (usize, usize)> {
    prop_oneof![Just((1000, 1000)), Just((7, 2)), Just((1, 1)), Just((0, 0))]
}

proptest! {
    #[test]
    fn views_merge_as_semilattices_do(a in steps(), b in steps(), c in steps(), limits in limits()) {
        let (x, y, z) = (view(limits, &a), view(limits, &b), view(limits, &c));
        prop_assert_eq!(merged(&x, &y), merged(&y, &x));
        prop_assert_eq!(merged(&merged(&x, &y), &z), merged(&x, &merged(&y, &z)));
        prop_assert_eq!(merged(&x, &x), x.clone());
        prop_assert_eq!(merged(&merged(&x, &y), &y), merged(&x, &y));
        let whole = view(limits, &[a, b].concat());
        prop_assert_eq!(&merged(&x, &y), &whole);
        prop_assert_eq!(merged(&x, &y).digest(), whole.digest());
    }

    #[test]
    fn the_order_of_what_is_heard_does_not_matter(
        (some, shuffled) in steps().prop_flat_map(|s| (Just(s.clone()), Just(s).prop_shuffle())),
        limits in limits(),
    ) {
        let (one, other) = (view(limits, &some), view(limits, &shuffled));
        prop_assert_eq!(one.digest(), other.digest());
        prop_assert_eq!(one.evidence().collect::<Vec<_>>(), other.evidence().collect::<Vec<_>>());
        prop_assert_eq!(one, other);
    }

    #[test]
    fn a_view_stays_within_its_limits_and_above_its_floor(said in steps(), limits in limits()) {
        let view = view(limits, &said);
        prop_assert!(view.jobs().count() <= limits.0 && view.miners().len() <= limits.1);
        let floors = said.iter().filter_map(|s| match s {
            Step::Floor(at) => Some(START + Millis(*at)),
            Step::Hear(_) => None,
        });
        prop_assert!(view.floor() >= floors.max().unwrap_or_default());
    }
}

fn heard(bodies: &[(u8, Body)]) -> View {
    let mut view = View::default();
    for (n, (by, body)) in bodies.iter().enumerate() {
        view.apply(&verified(*by, START + Millis(n as u64), body.clone()));
    }
    view
}

#[test]
fn a_job_goes_forward_only() {
    let job = JOBS[0];
    let miner = key(3).address();
    let life = [
        (Body::from(Admitted { job, epoch: 1 }), JobState::Pending { attempt: 1 }),
        (lease(job, 1, 3), JobState::Leased { attempt: 1, wallet: miner }),
        (listing(job, 1), JobState::Leased { attempt: 1, wallet: miner }),
        (listing(job, 2), JobState::Pending { attempt: 2 }),
        (lease(job, 1, 9), JobState::Pending { attempt: 2 }),
        (refusal(job, Reason::NoFunds), JobState::Pending { attempt: 2 }),
        (lease(job, 2, 3), JobState::Leased { attempt: 2, wallet: miner }),
    ];
    for n in 1..=life.len() {
        let said: Vec<_> = life[..n].iter().map(|(body, _)| (1, body.clone())).collect();
        assert_eq!(heard(&said).job(&job), Some(life[n - 1].1), "after {n}");
    }
    let ended = heard(&[(1, refusal(job, Reason::JobExpired)), (1, lease(job, 9, 3))]);
    assert!(matches!(ended.job(&job), Some(JobState::Refunded { reason: Reason::JobExpired, .. })));
    assert_eq!(ended.evidence().count(), 0);
    assert_eq!(heard(&[]).job(&job), None);
}

#[test]
fn two_ends_keep_the_lower_cid_and_are_evidence() {
    for (a, b) in [
        (receipt(JOBS[1], 0), refusal(JOBS[1], Reason::JobCancelled)),
        (receipt(JOBS[1], 4), receipt(JOBS[1], 5)),
    ] {
        let (a, b) = (verified(1, START, a), verified(1, START, b));
        let mut view = heard(&[(1, lease(JOBS[1], 1, 3)), (1, lease(JOBS[0], 1, 3))]);
        view.apply(&a);
        assert_eq!(view.evidence().count(), 0);
        view.apply(&b);
        let least = a.id().min(b.id());
        assert_eq!(view.job(&JOBS[1]).unwrap().end(), Some(least));
        assert_eq!(view.evidence().collect::<Vec<_>>(), [(JOBS[1], [least, a.id().max(b.id())])]);
    }
}

#[test]
fn a_miner_is_what_its_last_boot_said_last() {
    let said = [(3, heartbeat(1, 9)), (3, heartbeat(2, 1)), (3, heartbeat(2, 0)), (4, heartbeat(1, 0))];
    let view = heard(&said);
    let seen = &view.miners()[&key(3).address()];
    assert_eq!((seen.heartbeat.boot_at, seen.heartbeat.counter), (Timestamp(2), 1));
    assert_eq!(view.live_miners(START + Millis(1001), Millis(999)), 1);
    assert_eq!(view.live_miners(START + Millis(1001), Millis(1000)), 2);
}

#[test]
fn an_epoch_sealed_twice_is_evidence_and_the_lower_header_counts() {
    let sealed = |epoch, header: u8| (1, EpochSealed { epoch, header: Link([header; 32]) }.into());
    let view = heard(&[sealed(0, 1), sealed(1, 9), sealed(1, 7), sealed(1, 8), sealed(2, 3)]);
    let headers = [(0, Link([1; 32])), (1, Link([7; 32])), (2, Link([3; 32]))];
    assert_eq!(view.sealed().collect::<Vec<_>>(), headers);
    assert_eq!(view.sealed_twice().collect::<Vec<_>>(), [(1, [Link([7; 32]), Link([8; 32])])]);
}

#[test]
fn of_too_many_epochs_the_last_are_kept() {
    let epochs = MAX_EPOCHS as u64 + 5;
    let said: Vec<_> =
        (0..epochs).rev().map(|epoch| (1, EpochSealed { epoch, header: Link([1; 32]) }.into())).collect();
    let kept: Vec<u64> = heard(&said).sealed().map(|(epoch, _)| epoch).collect();
    assert_eq!((kept.len(), kept.first(), kept.last()), (MAX_EPOCHS, Some(&5), Some(&(epochs - 1))));
}

#[test]
fn open_jobs_that_nothing_was_stated_of_lately_are_named() {
    let said = [
        (1, listing(JOBS[0], 1)),
        (1, listing(JOBS[1], 1)),
        (1, listing(JOBS[2], 1)),
        (1, receipt(JOBS[2], 0)),
        (1, lease(JOBS[1], 1, 3)),
    ];
    let view = heard(&said);
    let unstated = |since| view.unstated(START + Millis(since)).collect::<Vec<_>>();
    assert_eq!(unstated(0), []);
    assert_eq!(unstated(1), [JOBS[0]]);
    assert_eq!(unstated(4), [JOBS[0]]);
    assert_eq!(unstated(5), [JOBS[0], JOBS[1]]);
    let state = JobState::Leased { attempt: 1, wallet: key(3).address() };
    assert_eq!(view.stated_at(&JOBS[1], &state), Some(START + Millis(4)));
}
