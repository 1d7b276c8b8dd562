use super::*;
use crate::Millis;
use crate::codec::raw_cid;
use crate::money::{Account, MicroUsdc};
use crate::query::{MAX_VIEW_STATEMENTS, ViewPlace};
use crate::race::Rank;
use crate::statement::{
    Assurance, Cancel, Claim, Heartbeat, Input, Intake, JobType, ModelOffer, Params, PayoutMode, Receipt,
    Signed, lease_id,
};
use swarm_crypto::key::SecretKey;

const START: Timestamp = Timestamp(1_800_000_000_000);
const MODEL: &str = "queenbee-nano";

fn key(n: u8) -> SecretKey {
    SecretKey::from_bytes(&[n; 32]).unwrap()
}

fn config() -> PoolConfig {
    PoolConfig {
        node: None,
        reserve: crate::money::MicroUsdc(0),
        name: "swarmpool.eth".into(),
        operator: key(1).address(),
        models: [(MODEL.to_owned(), JobType::LlmGen)].into(),
        posted: Posted::default(),
        secret: [7; 32],
    }
}

/// A pool, the rows of its ledger, what it said, and a clock.
struct Table {
    pool: Pool,
    intake: Intake,
    rows: Vec<Vec<u8>>,
    said: Vec<Statement>,
    examine: Vec<Examination>,
    now: Timestamp,
}

impl Table {
    fn new() -> Self {
        let pool = Pool::create(config(), START);
        let intake = Intake::new(pool.id(), key(1).address());
        let mut table = Self { pool, intake, rows: vec![], said: vec![], examine: vec![], now: START };
        table.settle();
        table
    }

    fn settle(&mut self) {
        while let Some(effect) = self.pool.poll_effect() {
            match effect {
                PoolEffect::Record(row) => self.rows.push(row),
                PoolEffect::Publish(_, statement) => self.said.push(statement),
                PoolEffect::Examine(examination) => self.examine.push(*examination),
                PoolEffect::Store(_)
                | PoolEffect::FetchInput { .. }
                | PoolEffect::Tree(_)
                | PoolEffect::Story(_) => {}
            }
        }
    }

    fn hear(&mut self, by: u8, body: impl Into<Body>) -> Link {
        let signed =
            Statement::derived(self.pool.id(), key(by).address(), self.now, body.into()).sign(&key(by));
        let verified = self.intake.verify(None, &signed.encode(), self.now).unwrap();
        self.pool.handle(PoolEvent::Statement(Identified::new(verified, false)), self.now);
        self.settle();
        signed.id()
    }

    fn wait(&mut self, span: Millis) {
        let until = self.now + span;
        while let Some(at) = self.pool.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.pool.handle_timeout(self.now);
            self.settle();
        }
        self.now = until;
    }

    fn miner(&mut self, by: u8) {
        let offer = ModelOffer { model: MODEL.into(), assurances: vec![Assurance::Seeded] };
        self.hear(
            by,
            Heartbeat {
                boot_at: self.now,
                counter: 0,
                models: vec![offer],
                slots: 1,
                mode: PayoutMode::Solo,
                ens: None,
                device: "cpu".into(),
                vram_mb: 0,
                draining: false,
            },
        );
    }

    fn job(&mut self, by: u8, price: u64) -> JobId {
        let not_after = self.now + Millis::from_secs(60);
        self.hear(
            by,
            Job {
                job_type: JobType::LlmGen,
                model: MODEL.into(),
                input: Input::Text("once".into()),
                params: Params { max_tokens: 8, temperature: 0, top_p: 10_000, seed: None, stop: vec![] },
                price: MicroUsdc(price),
                not_after,
                max_runtime_s: 30,
                vram_mb: 0,
                assurance: Assurance::Seeded,
            },
        )
    }

    fn stage(&self, job: &JobId) -> &Stage {
        &self.pool.state.jobs[job].stage
    }

    fn lease(&self, job: &JobId) -> Digest {
        let entry = &self.pool.state.jobs[job];
        let Stage::Leased(granted) = &entry.stage else { panic!("not leased: {:?}", entry.stage) };
        lease_id(&self.pool.id(), job, entry.attempt, &granted.wallet, &entry.seed)
    }

    fn prove(&mut self, by: u8, job: JobId, lease: Digest) -> Link {
        let output = raw_cid(b"text");
        self.hear(by, Proof { job, lease, transcript: job, transcript_bytes: 1, output, output_bytes: 4 })
    }

    fn examined(&mut self, outcome: Result<u64, ExamineFault>) {
        let examination = self.examine.pop().expect("a proof is being examined");
        let event = PoolEvent::Examined { job: examination.id, proof: examination.proof_id, outcome };
        self.pool.handle(event, self.now);
        self.settle();
    }

    fn receipts(&self) -> Vec<Receipt> {
        self.said
            .iter()
            .filter_map(|s| if let Body::Receipt(r) = &s.body { Some(r.clone()) } else { None })
            .collect()
    }

    fn refusals(&self) -> Vec<Reason> {
        self.said
            .iter()
            .filter_map(|s| if let Body::Refusal(r) = &s.body { Some(r.reason) } else { None })
            .collect()
    }

    fn free(&self, by: u8) -> u64 {
        self.pool.state.accounts.amount(&Account::ClientFree(key(by).address())).0
    }

    fn replayed(&self) -> State {
        let mut replay = Replay::new(None);
        self.rows.iter().zip(0..).for_each(|(row, seq)| replay.row(seq, row).unwrap());
        replay.finish().unwrap()
    }
}

#[test]
fn a_job_is_claimed_run_proven_and_paid_and_a_replay_knows_it_all() {
    let mut table = Table::new();
    table.miner(2);
    let job = table.job(9, 100_001);
    table.hear(2, Claim { job, attempt: 1 });
    let lease = table.lease(&job);
    table.prove(2, job, lease);
    table.examined(Ok(12));
    let receipt = table.receipts().pop().unwrap();
    assert_eq!((receipt.miner_part.0, receipt.operator_part.0, receipt.index), (75_000, 25_001, 0));
    assert_eq!(table.free(9), 100_000_000 - 100_001);
    table.wait(Millis::from_secs(3 * 3600 + 1));
    assert_eq!(table.pool.earned(&key(2).address()), (MicroUsdc(0), MicroUsdc(75_000)));
    assert_eq!(table.pool.state.epoch.number, 3);
    let replayed = table.replayed();
    assert_eq!(replayed, table.pool.state);
    assert_eq!(State::from_checkpoint(&replayed.checkpoint()).unwrap(), replayed);
}

#[test]
fn the_least_draw_wins_at_the_close_of_the_window() {
    let mut table = Table::new();
    (2..8).for_each(|by| table.miner(by));
    let job = table.job(9, 100);
    for by in 2..8 {
        if *table.stage(&job) == Stage::Pending {
            table.hear(by, Claim { job, attempt: 1 });
        }
    }
    table.wait(Millis(400));
    let entry = &table.pool.state.jobs[&job];
    let Stage::Leased(granted) = &entry.stage else { panic!("{:?}", entry.stage) };
    let best = (2..8).map(|by| Rank::of(&entry.seed, &job, key(by).address(), None, true)).min().unwrap();
    assert_eq!(granted.wallet, best.wallet);
}

#[test]
fn an_open_job_is_offered_once_all_have_had_their_turn_in_its_race() {
    for (miners, windows) in [(1, 1), (4, 1), (33, 5)] {
        let mut table = Table::new();
        (0..miners).for_each(|n| table.miner(100 + n));
        let job = table.job(9, 100);
        let offered = |table: &Table| {
            let now = table.now;
            let open = table.pool.open_jobs(&key(50).address(), &[MODEL.to_owned()], 4, now);
            open.iter().any(|entry| entry.job == job)
        };
        table.wait(Millis(windows * 400 - 1));
        assert!(!offered(&table), "{miners} miners still race");
        table.wait(Millis(1));
        assert!(offered(&table), "the race of {miners} miners is over");
    }
}

#[test]
fn a_late_proof_counts_until_somebody_else_has_the_lease() {
    let mut table = Table::new();
    table.miner(2);
    let job = table.job(9, 100);
    table.hear(2, Claim { job, attempt: 1 });
    let lease = table.lease(&job);
    table.wait(Millis::from_secs(31));
    assert_eq!(*table.stage(&job), Stage::Pending);
    table.prove(2, job, lease);
    table.miner(3);
    table.hear(3, Claim { job, attempt: 2 });
    assert!(matches!(table.stage(&job), Stage::Leased { .. }));
    table.examined(Ok(1));
    assert_eq!(table.refusals(), [Reason::StaleLease]);
    let lease = table.lease(&job);
    table.prove(3, job, lease);
    table.examined(Ok(1));
    assert_eq!(table.receipts().len(), 1);
    assert_eq!(table.replayed(), table.pool.state);
}

#[test]
fn whoever_lost_a_job_cannot_have_it_again_and_it_expires_refunded() {
    let mut table = Table::new();
    table.miner(2);
    let job = table.job(9, 100);
    table.hear(2, Claim { job, attempt: 1 });
    table.wait(Millis::from_secs(31));
    table.miner(2);
    table.hear(2, Claim { job, attempt: 2 });
    assert_eq!(*table.stage(&job), Stage::Pending);
    table.wait(Millis::from_secs(60));
    assert_eq!(*table.stage(&job), Stage::Expired);
    assert_eq!(table.free(9), 100_000_000);
    assert_eq!(table.refusals(), [Reason::NotEligible, Reason::JobExpired]);
}

#[test]
fn a_pending_job_can_be_cancelled_a_leased_one_cannot() {
    let mut table = Table::new();
    let first = table.job(9, 100);
    table.hear(8, Cancel { job: first });
    table.hear(9, Cancel { job: first });
    assert_eq!(*table.stage(&first), Stage::Cancelled);
    table.miner(2);
    let second = table.job(9, 101);
    table.hear(2, Claim { job: second, attempt: 1 });
    table.hear(9, Cancel { job: second });
    assert!(matches!(table.stage(&second), Stage::Leased { .. }));
    assert_eq!(table.refusals(), [Reason::NotYours, Reason::JobCancelled, Reason::NotPending]);
}

#[test]
fn jobs_without_funds_price_or_model_are_refused_by_name() {
    let mut table = Table::new();
    table.job(9, 3);
    table.job(9, 100_000_001);
    table.pool.config.models.clear();
    table.job(9, 100);
    assert_eq!(table.refusals(), [Reason::PriceTooLow, Reason::NoFunds, Reason::UnknownModel]);
    assert_eq!(table.rows.len(), 1, "only the genesis");
}

#[test]
fn bad_content_ends_the_lease_missing_content_does_not() {
    let mut table = Table::new();
    table.miner(2);
    let job = table.job(9, 100);
    table.hear(2, Claim { job, attempt: 1 });
    let lease = table.lease(&job);
    table.prove(2, job, lease);
    table.examined(Err(ExamineFault::Unavailable("gone".into())));
    assert!(matches!(table.stage(&job), Stage::Leased { .. }));
    table.prove(2, job, lease);
    table.examined(Err(ExamineFault::Unacceptable("wrong token".into())));
    assert_eq!(*table.stage(&job), Stage::Pending);
    assert_eq!(table.refusals(), [Reason::ContentUnavailable, Reason::Unacceptable]);
    assert!(table.pool.state.standings[&key(2).address()].cooled_until() > table.now);
}

#[test]
fn a_restored_queue_is_in_the_order_of_the_live_one() {
    let mut table = Table::new();
    table.miner(2);
    let jobs: Vec<JobId> = (0..6).map(|n| table.job(9, 100 + n)).collect();
    table.hear(2, Claim { job: jobs[1], attempt: 1 });
    table.wait(Millis::from_secs(31));
    let again = [0, 2, 3, 4, 5, 1].map(|n| jobs[n]);
    assert_eq!(table.pool.live.queue.values().copied().collect::<Vec<_>>(), again);
    assert_eq!(Live::of(&table.replayed()).queue, table.pool.live.queue);
    table.wait(Millis::from_secs(30));
    assert!(jobs.iter().all(|job| *table.stage(job) == Stage::Expired));
    assert!(table.pool.live.queue.is_empty());
}

#[test]
fn the_same_events_give_the_same_effects() {
    let run = || {
        let mut table = Table::new();
        (2..5).for_each(|by| table.miner(by));
        let jobs: Vec<JobId> = (0..5).map(|n| table.job(9, 100 + n)).collect();
        jobs.iter().for_each(|job| {
            table.hear(2, Claim { job: *job, attempt: 1 });
        });
        table.wait(Millis::from_secs(7300));
        (table.rows, table.said)
    };
    assert_eq!(run(), run());
}

/// What all pages together say, checked as a reader checks it, and how many there were.
fn read_pages(table: &mut Table, mut between: impl FnMut(&mut Table, usize)) -> (crate::view::View, usize) {
    let (mut view, mut place, mut pages) = (crate::view::View::default(), Some(ViewPlace::START), 0);
    while let Some(from) = place {
        let page = table.pool.view_page(&from, table.now);
        let ours = page.unsigned.iter().map(|statement| statement.sign(&key(1)));
        let statements: Vec<Signed> = page.signed.into_iter().chain(ours).collect();
        assert!(statements.len() <= MAX_VIEW_STATEMENTS);
        for signed in statements {
            view.apply(&table.intake.verify(None, &signed.encode(), table.now).unwrap());
        }
        (place, pages) = (page.next, pages + 1);
        between(table, pages);
    }
    (view, pages)
}

#[test]
fn the_pages_of_the_view_name_every_live_miner_and_open_job_once() {
    let mut table = Table::new();
    (2..102).for_each(|by| table.miner(by));
    let jobs: Vec<JobId> = (0..60).map(|n| table.job(150, 100 + n)).collect();
    for (by, job) in (2..42).zip(&jobs) {
        table.hear(by, Claim { job: *job, attempt: 1 });
    }
    table.wait(Millis::from_secs(2));
    assert!(jobs[..40].iter().all(|job| matches!(table.stage(job), Stage::Leased(_))));
    let (view, pages) = read_pages(&mut table, |_, _| {});
    assert_eq!((view.miners().len(), view.jobs().count(), pages), (100, 60, 4 + 3 + 2));
    let leased = |n: usize| matches!(view.job(&jobs[n]), Some(crate::view::JobState::Leased { .. }));
    assert!((0..40).all(leased) && !(40..60).any(leased));
    assert_eq!(view.unstated(table.now).count(), 0);
}

#[test]
fn reading_goes_on_where_it_was_whatever_happened_meanwhile() {
    let mut table = Table::new();
    (2..102).for_each(|by| table.miner(by));
    let jobs: Vec<JobId> = (0..40).map(|n| table.job(150, 100 + n)).collect();
    let begun = table.now;
    let (view, _) = read_pages(&mut table, |table, page| {
        if page == 1 {
            table.wait(Millis(1));
            table.hear(150, Cancel { job: jobs[0] });
            table.miner(102);
            table.job(151, 500);
        }
    });
    assert_eq!(view.jobs().count(), 40, "39 of the first 40, and one more");
    assert!(view.job(&jobs[0]).is_none() && jobs[1..].iter().all(|job| view.job(job).is_some()));
    assert_eq!(view.unstated(begun).count(), 0);
}

#[test]
fn what_is_over_is_forgotten_a_few_at_each_record() {
    let mut table = Table::new();
    let first = table.job(9, 100);
    (1..40).for_each(|n| _ = table.job(9, 100 + n));
    table.wait(Millis::from_secs(3 * 3600 - 1));
    assert_eq!(table.pool.state.jobs.len(), 40, "two epochs after their end they are remembered");
    table.wait(Millis::from_secs(2));
    // The boundary and its header.
    assert_eq!(table.pool.state.jobs.len(), 40 - 2 * state::FORGOTTEN_AT_ONCE);
    assert!(!table.pool.state.jobs.contains_key(&first), "the earliest goes first");
    table.job(9, 1_000);
    assert_eq!((table.pool.state.jobs.len(), table.pool.state.nonces.len()), (1, 1));
    assert_eq!(table.replayed(), table.pool.state);
}
