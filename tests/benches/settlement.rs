//! An epoch's end with few and with a million proofs, what of it anybody can check how fast, and a restart with a
//! million open jobs. Arguments name parts of it: boundary, verify, restart.

mod support;

use anyhow::{Context, Result, bail};
use std::collections::{BTreeMap, btree_map};
use std::hint::black_box;
use std::time::Duration;
use support::{Target, figure, median, ratio, timed, worked};
use swarm_crypto::address::Address;
use swarm_crypto::digest::blake3;
use swarm_crypto::eip712::statement_hash;
use swarm_crypto::key::{self, SecretKey, Signature};
use swarm_crypto::keyring::Keyring;
use swarm_crypto::merkle;
use swarm_node::storage::ledger::{Ledger, RedbLedger};
use swarm_protocol::codec::{Link, raw_cid};
use swarm_protocol::money::MicroUsdc;
use swarm_protocol::pool::verify::{Proven, Verifier};
use swarm_protocol::pool::*;
use swarm_protocol::race::{self, Roster, RosterEntry};
use swarm_protocol::statement::*;
use swarm_protocol::{Machine, Millis, Posted, Timestamp};

const START: Timestamp = Timestamp(1_800_000_000_000);
const MODEL: &str = "queenbee-nano";
const SIZES: [u64; 4] = [1_000, 10_000, 100_000, 1_000_000];
const VERIFIED: u64 = 100_000;
const VERIFY_ROUNDS: usize = 3;
/// Threads that check signatures ahead of the one that reads.
const AHEAD: usize = 2;
const OPEN: u64 = 1_000_000;
const JOBS_PER_CLIENT: u64 = 1_000;
const MINERS: u64 = 500;
/// Rows of one durable append.
const BATCH: usize = 4096;

fn key(n: u64) -> SecretKey {
    let mut bytes = [1; 32];
    bytes[..8].copy_from_slice(&(n + 1).to_be_bytes());
    SecretKey::from_bytes(&bytes).expect("a small scalar is a key")
}

fn config() -> PoolConfig {
    PoolConfig {
        node: None,
        reserve: MicroUsdc(0),
        name: "swarmpool.eth".into(),
        operator: key(0).address(),
        models: [(MODEL.to_owned(), JobType::LlmGen)].into(),
        posted: Posted::default(),
        secret: [7; 32],
    }
}

/// Whether statements are really signed, which takes most of the time.
#[derive(Clone, Copy, PartialEq)]
enum Signing {
    Real,
    None,
}

/// A ledger in the making, by the rules but without anybody who takes part.
struct Writer {
    state: State,
    rows: Vec<Vec<u8>>,
    pages: Vec<Vec<u8>>,
    signing: Signing,
    keys: Vec<(SecretKey, Address)>,
}

impl Writer {
    fn new(signing: Signing) -> Result<Self> {
        let mut pool = Pool::create(config(), START);
        let Some(PoolEffect::Record(genesis)) = pool.poll_effect() else { bail!("no genesis") };
        let mut replay = Replay::new(None);
        replay.row(0, &genesis)?;
        let state = replay.finish().context("there was a genesis")?;
        let named = |n| (key(n), key(n).address());
        let keys = (0..=MINERS + OPEN / JOBS_PER_CLIENT).map(named).collect();
        Ok(Self { state, rows: vec![genesis], pages: Vec::new(), signing, keys })
    }

    fn sign(&self, by: u64, body: impl Into<Body>) -> Signed {
        let (key, address) = &self.keys[usize::try_from(by).expect("few keys")];
        let statement = Statement::derived(self.state.pool(), *address, START, body.into());
        match self.signing {
            Signing::Real => statement.sign(key),
            Signing::None => Signed { payload: statement.encode(), signature: Signature([0; 65]) },
        }
    }

    fn record(&mut self, record: Record) {
        let entry = Entry { at: START + Millis(1), transfers: self.state.transfers(&record), record };
        let row = entry.encode();
        self.pages.extend(self.state.apply(&entry, &row));
        self.rows.push(row);
    }

    /// The epoch ends; in the next one every miner is paid by share.
    fn end_epoch(&mut self) {
        let (pool, epoch) = (self.state.pool(), self.state.epoch().number);
        let secret = |epoch| race::epoch_secret(&config().secret, &pool, epoch);
        let entry = |(_, wallet): &(SecretKey, Address)| RosterEntry {
            wallet: *wallet,
            w: 1,
            fee168: MicroUsdc(0),
            loss24: 0,
            established: false,
            models: vec![MODEL.into()],
            slots: 1,
            mode: PayoutMode::Pps,
        };
        let miners = &self.keys[1..=usize::try_from(MINERS).expect("few keys")];
        let mut roster: Vec<RosterEntry> = miners.iter().map(entry).collect();
        roster.sort_by_key(|entry| entry.wallet);
        let boundary = Boundary {
            epoch,
            end_seq: self.state.next_seq(),
            secret: secret(epoch),
            next_secret_hash: race::secret_commitment(&secret(epoch + 1)),
            roster: Roster(roster),
            posted: config().posted,
            rates: BTreeMap::new(),
            settlement: SETTLEMENT_VERSION,
        };
        self.record(Record::Boundary(Box::new(boundary)));
        let header = self.state.sealing().expect("a boundary was just applied").header.link();
        self.record(Record::HeaderFixed { epoch, header });
    }

    /// A job that waits.
    fn admit(&mut self, n: u64) -> Link {
        let client = 1 + MINERS + n / JOBS_PER_CLIENT % (OPEN / JOBS_PER_CLIENT);
        if n.is_multiple_of(JOBS_PER_CLIENT) {
            self.record(Record::Credited { client: self.keys[client as usize].1 });
        }
        let job = self.sign(client, job(n));
        let (id, secret) = (job.id(), race::epoch_secret(&config().secret, &self.state.pool(), 0));
        self.record(Record::Admitted { job, seed: race::draw_seed(&secret.0, &id, 1) });
        id
    }

    /// The same, leased and answered.
    fn answer(&mut self, n: u64) {
        let job = self.admit(n);
        let miner = 1 + n % MINERS;
        let wallet = self.keys[miner as usize].1;
        let claims = vec![self.sign(miner, Claim { job, attempt: 1 })];
        let until = START + Millis(1) + Millis::from_secs(60);
        self.record(Record::Leased { job, term: 1, wallet, window: 0, claims, until });
        let Some(Stage::Leased(granted)) = self.state.job(&job).map(|entry| entry.stage.clone()) else {
            return;
        };
        let (transcript_bytes, output_bytes, output) = (4_000, 200, raw_cid(b"text"));
        let proof =
            Proof { job, lease: granted.lease, transcript: job, transcript_bytes, output, output_bytes };
        let proof = self.sign(miner, proof);
        self.record(Record::Accepted { job, lease: granted.lease, proof, units: 100 + n % 7 });
    }
}

fn job(n: u64) -> Job {
    Job {
        job_type: JobType::LlmGen,
        model: MODEL.into(),
        input: Input::Text(format!("Tell the story of the {n}th bee of the hive.")),
        params: Params { max_tokens: 64, temperature: 7_000, top_p: 9_500, seed: Some(n), stop: vec![] },
        price: MicroUsdc(1_000),
        not_after: START + Millis::from_secs(23 * 3600),
        max_runtime_s: 60,
        vram_mb: 0,
        assurance: Assurance::Seeded,
    }
}

/// What an epoch leaves for its end.
#[derive(Debug, Clone, Copy, PartialEq)]
enum Load {
    Solo,
    Pps,
    /// Its jobs are all to be forgotten as it ends.
    Forgotten,
}

/// How long the machine does nothing else at the end of an epoch, until all that follows is on its way.
fn boundary(proofs: u64, load: Load) -> Result<(Duration, Duration)> {
    let mut writer = Writer::new(Signing::None)?;
    if load == Load::Pps {
        writer.end_epoch();
        // Of these a rate is made.
        (0..JOBS_PER_CLIENT).for_each(|n| writer.answer(OPEN + n));
        writer.end_epoch();
    }
    let (_, writing) = timed(|| (0..proofs).for_each(|n| writer.answer(n)));
    let leaves = writer.state.epoch().leaves.clone();
    let rows = std::mem::take(&mut writer.rows);
    let mut pool = Pool::restore(config(), writer.state, START + Millis(2))?;
    while pool.poll_effect().is_some() {}
    let due = pool.poll_timeout().context("an epoch ends")?;
    let hours = if load == Load::Forgotten { 25 } else { 1 };
    let due = due.max(START + Millis::from_secs(hours * 3_600 + 1));
    let crossed = pool.state().epoch().number;
    let (effects, stopped) = timed(|| {
        pool.handle_timeout(due);
        std::iter::from_fn(|| pool.poll_effect()).count()
    });
    anyhow::ensure!(pool.state().epoch().number == crossed + 1, "the epoch has ended");
    let (_, header) = timed(|| {
        pool.handle_timeout(due + Millis(1));
        std::iter::from_fn(|| pool.poll_effect()).count()
    });
    println!(
        "{proofs} proofs, {load:?}: the boundary takes {:.1} ms ({effects} effects), the header after it {:.1} ms; {:.0} acceptances/s folded",
        stopped.as_secs_f64() * 1e3,
        header.as_secs_f64() * 1e3,
        proofs as f64 / writing.as_secs_f64()
    );
    if proofs == SIZES[3] && load == Load::Solo {
        inclusion(&leaves);
        export(&rows);
    }
    Ok((stopped, header))
}

fn inclusion(leaves: &[swarm_crypto::digest::Digest]) {
    let root = merkle::root(leaves);
    let index = leaves.len() as u64 / 3;
    let (proof, built) = timed(|| merkle::inclusion_proof(leaves, index).expect("it is there"));
    let leaf = leaves[usize::try_from(index).expect("in memory")];
    let (holds, checked) =
        timed(|| merkle::verify_inclusion(&leaf, index, leaves.len() as u64, &proof, &root));
    assert!(holds);
    println!(
        "a proof among {}: built in {:.1} ms, checked in {:.1} µs, {} bytes",
        leaves.len(),
        built.as_secs_f64() * 1e3,
        checked.as_secs_f64() * 1e6,
        proof.len() * 32
    );
}

/// Making the published pages of an epoch's rows.
fn export(rows: &[Vec<u8>]) {
    let bytes: usize = rows.iter().map(Vec::len).sum();
    let (_, time) = timed(|| {
        let mut head = swarm_crypto::digest::Digest::ZERO;
        let mut pages = RecordPages::new(0, head);
        for (seq, row) in (0..).zip(rows) {
            let after = chain_hash(&head, row);
            black_box(pages.push(row, seq, (head, after)));
            head = after;
        }
        black_box(pages.finish())
    });
    let rate = |n: usize| n as f64 / time.as_secs_f64();
    println!("export: {:.0} rows/s, {:.0} MiB/s", rate(rows.len()), rate(bytes) / f64::from(1 << 20));
}

/// An epoch recomputed, over the signatures in it verified and nothing else: page by page by turns.
fn verification() -> Result<()> {
    let (header, pages) = sealed_epoch()?;
    let mut keys = BTreeMap::new();
    let signed = pages.iter().map(|page| signatures(page, &mut keys)).collect::<Result<Vec<_>>>()?;
    let count: usize = signed.iter().map(Vec::len).sum();
    let mut ratios = Vec::new();
    for round in 0..VERIFY_ROUNDS {
        let (whole, raw) = recomputed(&header, &pages, &signed, round)?;
        println!(
            "{VERIFIED} proofs, {count} signatures in {} pages: recomputed in {:.1} s, the signatures alone {:.1} s",
            pages.len(),
            whole.as_secs_f64(),
            raw.as_secs_f64()
        );
        ratios.push(raw.as_secs_f64() / whole.as_secs_f64());
    }
    ratio("settlement/verify-over-signatures", median(ratios), Target::AtLeast(0.7));
    let threads = (0..VERIFY_ROUNDS).map(|_| {
        let (one, many) = (read(&header, &pages)?, read_ahead(&header, &pages)?);
        println!("read on one thread in {:.1} s, with {AHEAD} ahead of it in {:.1} s", one, many);
        Ok(one / many)
    });
    let threads = threads.collect::<Result<Vec<_>>>()?;
    figure("settlement/verify-ahead-over-one-thread", median(threads));
    Ok(())
}

/// The header and the record pages of an epoch whose statements are all really signed.
fn sealed_epoch() -> Result<(Vec<u8>, Vec<Vec<u8>>)> {
    let mut writer = Writer::new(Signing::Real)?;
    (0..VERIFIED).for_each(|n| writer.answer(n));
    let mut pages = std::mem::take(&mut writer.pages);
    // Those of leaves are not read.
    pages.retain(|page| swarm_protocol::codec::decode::<RecordPage>(page).is_ok());
    let mut pool = Pool::restore(config(), writer.state, START + Millis(2))?;
    pool.handle_timeout(START + Millis::from_secs(3_601));
    pool.handle_timeout(START + Millis::from_secs(3_602));
    let mut header = Vec::new();
    while let Some(effect) = pool.poll_effect() {
        if let PoolEffect::Store(block) = effect {
            match swarm_protocol::codec::decode::<EpochHeader>(&block) {
                Ok(_) => header = block,
                Err(_) if swarm_protocol::codec::decode::<RecordPage>(&block).is_ok() => pages.push(block),
                Err(_) => {}
            }
        }
    }
    Ok((header, pages))
}

/// Processor times of one reading of the epoch, and of its signatures; which of the two reads a page first alternates.
fn recomputed(
    header: &[u8],
    pages: &[Vec<u8>],
    signed: &[Vec<Verifiable>],
    round: usize,
) -> Result<(Duration, Duration)> {
    let check = |signed: &[Verifiable]| {
        for (public, hash, signature) in signed {
            key::verify(public, hash, signature).expect("it was just verified");
        }
    };
    let mut verifier = Verifier::new();
    let (begun, mut whole) = worked(|| verifier.begin(header));
    begun?;
    let mut raw = Duration::ZERO;
    for (nth, (page, signed)) in pages.iter().zip(signed).enumerate() {
        let first = (nth + round).is_multiple_of(2);
        if first {
            raw += worked(|| check(signed)).1;
        }
        let (read, time) = worked(|| verifier.page(page));
        read?;
        whole += time;
        if !first {
            raw += worked(|| check(signed)).1;
        }
    }
    let (finished, time) = worked(|| verifier.finish());
    finished?;
    let count: usize = signed.iter().map(Vec::len).sum();
    anyhow::ensure!(verifier.tally().signatures == count as u64, "every signature counts");
    Ok((whole + time, raw))
}

/// Seconds in which the epoch is read on one thread.
fn read(header: &[u8], pages: &[Vec<u8>]) -> Result<f64> {
    let (done, time) = timed(|| -> Result<()> {
        let mut verifier = Verifier::new();
        verifier.begin(header)?;
        pages.iter().try_for_each(|page| verifier.page(page))?;
        Ok(verifier.finish()?)
    });
    done?;
    Ok(time.as_secs_f64())
}

/// Seconds in which the epoch is read while others check signatures ahead, as `swarm-client verify` does.
fn read_ahead(header: &[u8], pages: &[Vec<u8>]) -> Result<f64> {
    let (done, time) = timed(|| {
        std::thread::scope(|scope| -> Result<()> {
            let workers: Vec<_> = (0..AHEAD)
                .map(|nth| {
                    let (send, proven) = std::sync::mpsc::sync_channel(2);
                    scope.spawn(move || {
                        let mut keyring = Keyring::default();
                        let own = pages.iter().skip(nth).step_by(AHEAD);
                        // Nobody waits any more once the reading has failed.
                        own.map(|page| Proven::of(page, &mut keyring))
                            .try_for_each(|page| send.send(page))
                            .ok();
                    });
                    proven
                })
                .collect();
            let mut verifier = Verifier::new();
            verifier.begin(header)?;
            for (nth, page) in pages.iter().enumerate() {
                verifier.page_with(page, workers[nth % AHEAD].recv()?)?;
            }
            Ok(verifier.finish()?)
        })
    });
    done?;
    Ok(time.as_secs_f64())
}

type Verifiable = (key::PublicKey, [u8; 32], Signature);

fn signatures(page: &[u8], keys: &mut BTreeMap<Address, key::PublicKey>) -> Result<Vec<Verifiable>> {
    let page: RecordPage = swarm_protocol::codec::decode(page)?;
    anyhow::ensure!(page.carried.is_empty(), "rows are shorter than a page");
    let mut found = Vec::new();
    for row in page.records {
        let snapshots = match Entry::decode(&row)?.record {
            Record::Admitted { job, .. } => vec![job],
            Record::Leased { claims, .. } => claims,
            Record::Accepted { proof, .. } => vec![proof],
            _ => continue,
        };
        for signed in snapshots {
            let statement = Statement::decode(&signed.payload)?;
            let digest = blake3(&signed.payload);
            let hash = statement_hash(&statement.header.pool, statement.kind().as_str(), &digest);
            let public = match keys.entry(statement.header.by) {
                btree_map::Entry::Occupied(known) => *known.get(),
                btree_map::Entry::Vacant(new) => *new.insert(key::recover(&hash, &signed.signature)?),
            };
            found.push((public, hash, signed.signature));
        }
    }
    Ok(found)
}

/// From a closed ledger with a million open jobs to the first lease.
fn restart() -> Result<()> {
    let folder = tempfile::tempdir()?;
    let path = folder.path().join("ledger.redb");
    let mut writer = Writer::new(Signing::None)?;
    (0..OPEN).for_each(|n| _ = writer.admit(n));
    let id = writer.state.pool().0;
    let mut ledger = RedbLedger::open(&path, &id)?;
    for batch in writer.rows.chunks(BATCH) {
        ledger.append(ledger.next_seq(), batch)?;
    }
    let bare = std::fs::metadata(&path)?.len();
    let checkpoint = writer.state.checkpoint();
    ledger.save_checkpoint(writer.state.next_seq(), &checkpoint)?;
    drop((ledger, writer));
    let (leased, time) = timed(|| -> Result<bool> {
        let ledger = RedbLedger::open(&path, &id)?;
        let state = swarm_node::operator::restore(&ledger, &folder.path().join("blocks.redb"))?
            .context("there are records")?;
        let mut pool = Pool::restore(config(), state, START + Millis(5_000))?;
        let now = START + Millis(5_001);
        let mut intake = Intake::new(pool.id(), key(0).address());
        let miner = key(1);
        let beat = Heartbeat {
            boot_at: START,
            counter: 0,
            models: vec![ModelOffer { model: MODEL.into(), assurances: vec![Assurance::Seeded] }],
            slots: 1,
            mode: PayoutMode::Solo,
            ens: None,
            device: "cpu".into(),
            vram_mb: 0,
            draining: false,
        };
        let open = pool.state().jobs().next().map(|(id, _)| *id).context("there are jobs")?;
        for body in [Body::from(beat), Claim { job: open, attempt: 1 }.into()] {
            let signed = Statement::derived(pool.id(), miner.address(), now, body).sign(&miner);
            let verified = intake.verify(None, &signed.encode(), now)?;
            pool.handle(PoolEvent::Statement(Identified::new(verified, false)), now);
        }
        Ok(matches!(pool.state().job(&open).map(|job| &job.stage), Some(Stage::Leased(_))))
    });
    anyhow::ensure!(leased?, "the first claim gets its job");
    let per_job = |bytes: u64| bytes as f64 / OPEN as f64;
    println!("restart with {OPEN} open jobs: {:.1} s to the first lease", time.as_secs_f64());
    println!(
        "a job takes {:.0} bytes of the ledger, {:.0} of a checkpoint",
        per_job(bare),
        per_job(checkpoint.len() as u64)
    );
    figure("settlement/restart-1M-s", time.as_secs_f64());
    Ok(())
}

fn main() -> Result<()> {
    support::machine();
    if support::asked("boundary") {
        let mut last = (Duration::ZERO, Duration::ZERO);
        for proofs in SIZES {
            last = boundary(proofs, Load::Solo)?;
        }
        ratio("settlement/boundary-1M-ms", last.0.as_secs_f64() * 1e3, Target::AtMost(50.0));
        figure("settlement/header-1M-ms", last.1.as_secs_f64() * 1e3);
        for (name, load) in [("pps", Load::Pps), ("forgotten", Load::Forgotten)] {
            let (stopped, _) = boundary(SIZES[3], load)?;
            let name = format!("settlement/boundary-1M-{name}-ms");
            ratio(&name, stopped.as_secs_f64() * 1e3, Target::AtMost(50.0));
        }
    }
    if support::asked("verify") {
        verification()?;
    }
    if support::asked("restart") {
        restart()?;
    }
    Ok(())
}
