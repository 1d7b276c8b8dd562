//! The first inputs of the corpus: what a small pool said and wrote, the vectors, and what no honest node says.

use crate::corpus::write;
use crate::protocol::{NOW, key, pool};
use swarm_crypto::digest::Digest;
use swarm_inference::testing::{Shape, gguf};
use swarm_node::content::car::CarWriter;
use swarm_node::network::bitswap::{Block, Message, Presence, Want, WantKind};
use swarm_protocol::codec::{Link, raw_cid};
use swarm_protocol::money::MicroUsdc;
use swarm_protocol::pool::{Pool, PoolConfig, PoolEffect, PoolEvent, RecordPage};
use swarm_protocol::query::{Answer, Fate, Query};
use swarm_protocol::race::Roster;
use swarm_protocol::sampler::Candidate;
use swarm_protocol::statement::{
    Asset, Assurance, Beacon, Body, Claim, Heartbeat, Identified, Input, Intake, Job, JobType, Lease,
    Listing, ListingEntry, MAX_DETAIL_BYTES, MAX_LISTING_ENTRIES, MAX_MODELS, MAX_NAME_BYTES,
    MAX_NAMED_CLAIMS, MAX_OUTPUT_BYTES, MAX_STOPS, MAX_TEMPERATURE, MAX_TOKENS, MAX_TRANSCRIPT_BYTES,
    ModelOffer, ModelSupply, Params, PayoutMode, Proof, Reason, Refusal, Role, Signed, Statement, lease_id,
};
use swarm_protocol::transcript::{Step, StopReason, Transcript};
use swarm_protocol::workload::{bench, embed, image};
use swarm_protocol::{Machine, Millis, Posted};

const DAG_PB: u64 = 0x70;
const MODEL: &str = "queenbee-nano";

pub fn write_all() {
    let payloads = payloads();
    for (title, payload) in &payloads {
        write("payload", title, payload);
        let intake = [&[0, 5, 64, 0][..], payload].concat();
        write("intake", title, &intake);
    }
    for (signer, topic, late, times) in [
        (2, 1, 64, 0),
        (2, 1, 64, 1),
        (2, 5, 64, 2),
        (2, 5, 64, 3),
        (2, 5, 64, 4),
        (2, 1, 0, 0),
        (2, 1, 255, 0),
    ] {
        for kind in ["good-claim", "good-job", "good-heartbeat"] {
            let payload = &payloads.iter().find(|(title, _)| title == kind).expect("it is made").1;
            let bytes = [&[signer, topic, late, times][..], payload].concat();
            write("intake", &format!("{kind}-{signer}-{topic}-{late}-{times}"), &bytes);
        }
    }
    let stranger = &payloads.iter().find(|(title, _)| title == "vector-job-0").expect("it is made").1;
    write("intake", "strangers", &[&[1, 5, 64, 3][..], stranger].concat());
    pool_session();
    frames();
    transcripts();
    embeddings();
    benchmarks();
    pictures();
    ipfs();
    files();
    for (n, steps) in [
        &b"\x00\0\0\0\x03\0\x01\xff\x06\0\x01\x03\x0d\0\0\x01\x0b\0\0\0\x08\0\x01\x01\x0f\0\xff\x09"[..],
        b"\x00\0\0\0\x03\0\xff\x20\x00\x01\0\0\x03\x01\x02\x02\x0b\0\0\0\x07\0\x02\x05\x0f\0\xff\x0b\x0a\0\0\0",
        b"\x00\0\0\0\x03\0\x03\xf1\x0b\0\0\0\x08\0\x03\x01",
        b"\x00\0\0\0\x03\0\x03\x01\x0b\0\0\0\x08\0\x03\x01",
        &[&[0, 0, 0, 0][..], &[10, 0, 0, 0].repeat(20)].concat(),
    ]
    .into_iter()
    .enumerate()
    {
        write("bitswap-core", &format!("script-{n}"), steps);
    }
}

fn job() -> Job {
    Job {
        job_type: JobType::LlmGen,
        model: MODEL.into(),
        input: Input::Text("Once".into()),
        params: Params {
            max_tokens: 8,
            temperature: 0,
            top_p: 10_000,
            seed: Some(1),
            stop: vec!["\n".into()],
        },
        price: MicroUsdc(100_000),
        not_after: NOW + Millis::from_secs(600),
        max_runtime_s: 60,
        vram_mb: 0,
        assurance: Assurance::Seeded,
    }
}

fn heartbeat() -> Heartbeat {
    let offer = ModelOffer { model: MODEL.into(), assurances: vec![Assurance::Seeded] };
    Heartbeat {
        boot_at: NOW,
        counter: 0,
        models: vec![offer],
        slots: 1,
        mode: PayoutMode::Solo,
        ens: Some("alice.eth".into()),
        device: "cpu".into(),
        vram_mb: 0,
        draining: false,
    }
}

fn lease() -> Lease {
    let (job, seed) = (Link([1; 32]), Digest([2; 32]));
    let wallet = key(3).address();
    let lease = lease_id(&pool(), &job, 1, &wallet, &seed);
    Lease { lease, job, term: 1, wallet, seed, window: 0, claims: vec![job], until: NOW }
}

fn beacon() -> Beacon {
    let supply = ModelSupply { rate: None, model: MODEL.into(), miners: 1 };
    Beacon {
        node: None,
        name: "swarmpool.eth".into(),
        asset: Asset::Usdc { chain: 1, contract: key(1).address() },
        chain: 1,
        contract: key(1).address(),
        epoch: 3,
        pending: 1,
        leased: 2,
        models: vec![supply],
        posted: Posted::default(),
        tree: Some(cid::Cid::new_v1(DAG_PB, *Link([4; 32]).cid().hash())),
    }
}

fn entry() -> ListingEntry {
    ListingEntry {
        job: Link([1; 32]),
        attempt: 1,
        seed: Digest([2; 32]),
        epoch: 3,
        model: MODEL.into(),
        price: MicroUsdc(100_000),
        assurance: Assurance::Seeded,
        vram_mb: 0,
        listed_at: NOW,
        free: (4, 4),
    }
}

fn proof() -> Proof {
    let (job, output) = (Link([1; 32]), raw_cid(b"text"));
    Proof { job, lease: Digest([3; 32]), transcript: job, transcript_bytes: 1, output, output_bytes: 4 }
}

/// Payloads by title: one of every built kind by the vectors, and those that break one rule each.
fn payloads() -> Vec<(String, Vec<u8>)> {
    let long = || "n".repeat(MAX_NAME_BYTES + 1);
    let with = |change: &dyn Fn(&mut Job)| {
        let mut job = job();
        change(&mut job);
        Body::from(job)
    };
    let params = |change: &dyn Fn(&mut Params)| with(&|job| change(&mut job.params));
    let refusal = |detail: String| Refusal {
        subject: Link([1; 32]),
        job: Link([1; 32]),
        reason: Reason::NoFunds,
        detail,
    };
    let offers = || vec![heartbeat().models[0].clone(); MAX_MODELS + 1];
    let bodies: Vec<(&str, Body)> = vec![
        ("good-job", job().into()),
        ("good-claim", Claim { job: Link([1; 32]), attempt: 1 }.into()),
        ("good-heartbeat", heartbeat().into()),
        ("model", with(&|job| job.model = long())),
        ("max-tokens", params(&|params| params.max_tokens = 0)),
        ("temperature", params(&|params| params.temperature = MAX_TEMPERATURE + 1)),
        ("top-p", params(&|params| params.top_p = 0)),
        ("stops", params(&|params| params.stop = vec!["x".into(); MAX_STOPS + 1])),
        ("runtime", with(&|job| job.max_runtime_s = 0)),
        ("input", with(&|job| job.input = Input::Chat(Vec::new()))),
        (
            "chat",
            with(&|job| {
                job.input = Input::Chat(vec![swarm_protocol::statement::Message {
                    role: "user".into(),
                    content: "Hi".into(),
                }])
            }),
        ),
        ("linked", with(&|job| job.input = Input::Linked { cid: raw_cid(b"x"), bytes: 0 })),
        ("sealed", with(&|job| job.input = Input::Sealed { cid: raw_cid(b"x") })),
        ("detail", refusal("d".repeat(MAX_DETAIL_BYTES + 1)).into()),
        ("entries", Listing { entries: vec![entry(); MAX_LISTING_ENTRIES + 1] }.into()),
        ("claims", Lease { claims: vec![Link([1; 32]); MAX_NAMED_CLAIMS + 1], ..lease() }.into()),
        ("transcript", Proof { transcript_bytes: MAX_TRANSCRIPT_BYTES + 1, ..proof() }.into()),
        ("output", Proof { output_bytes: MAX_OUTPUT_BYTES + 1, ..proof() }.into()),
        ("beacon", beacon().into()),
        ("name", Beacon { name: long(), ..beacon() }.into()),
        ("node", Beacon { node: Some("x".repeat(129)), ..beacon() }.into()),
        ("models", Heartbeat { models: offers(), ..heartbeat() }.into()),
        ("slots", Heartbeat { slots: 0, ..heartbeat() }.into()),
        ("ens", Heartbeat { ens: Some(long()), ..heartbeat() }.into()),
        ("device", Heartbeat { device: long(), ..heartbeat() }.into()),
    ];
    let of = |(title, body): (&str, Body)| {
        let by = if body.kind().signer() == Role::Operator { key(1) } else { key(3) };
        (title.to_owned(), Statement::derived(pool(), by.address(), NOW, body).encode())
    };
    let mut payloads: Vec<(String, Vec<u8>)> = bodies.into_iter().map(of).collect();
    let claim = payloads[1].1.clone();
    payloads.push(("unbuilt".into(), replaced(&claim, b"\x65claim", b"\x6arevocation")));
    payloads.push(("unknown-kind".into(), replaced(&claim, b"\x65claim", b"\x65dance")));
    payloads.push(("unknown-version".into(), replaced(&claim, b"\x61v\x01", b"\x61v\x02")));
    let null = replaced(&payloads[0].1, b"\x64seed\x01", b"\x64seed\xf6");
    payloads.push(("null".into(), null));
    payloads.extend(vectors().into_iter().map(|(kind, payload, _)| (format!("vector-{kind}"), payload)));
    payloads
}

fn replaced(bytes: &[u8], old: &[u8], new: &[u8]) -> Vec<u8> {
    let at = bytes.windows(old.len()).position(|window| window == old).expect("it is there");
    [&bytes[..at], new, &bytes[at + old.len()..]].concat()
}

/// Kind, payload and snapshot of every published vector.
fn vectors() -> Vec<(String, Vec<u8>, Vec<u8>)> {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/vectors/statements.json");
    let text = std::fs::read_to_string(path).expect("the vectors are there");
    let vectors: serde_json::Value = serde_json::from_str(&text).expect("they are JSON");
    let vectors = vectors["statements"].as_array().expect("a list").iter();
    let hex = |value: &serde_json::Value| hex::decode(value.as_str().expect("hex")).expect("hex");
    let named = |(n, vector): (usize, &serde_json::Value)| {
        let kind = vector["kind"].as_str().expect("a kind");
        (format!("{kind}-{n}"), hex(&vector["payload"]), hex(&vector["snapshot"]))
    };
    vectors.enumerate().map(named).collect()
}

/// A pool from its genesis to two sealed epochs: its rows, its checkpoint, its blocks.
fn pool_session() {
    let posted = Posted { epoch: Millis::from_secs(20), ..Posted::default() };
    let config = PoolConfig {
        node: None,
        reserve: swarm_protocol::money::MicroUsdc(0),
        name: "swarmpool.eth".into(),
        operator: key(1).address(),
        models: [(MODEL.to_owned(), JobType::LlmGen)].into(),
        posted,
        secret: [7; 32],
    };
    let mut table = Table { pool: Pool::create(config, NOW), now: NOW, rows: Vec::new(), blocks: Vec::new() };
    let mut intake = Intake::new(pool(), key(1).address());
    table.hears(&mut intake, 3, heartbeat().into());
    let id = table.hears(&mut intake, 2, job().into());
    table.hears(&mut intake, 2, Job { price: MicroUsdc(5), ..job() }.into());
    table.hears(&mut intake, 3, Claim { job: id, attempt: 1 }.into());
    let seed = table.pool.state().job(&id).expect("it is admitted").seed;
    let lease = lease_id(&pool(), &id, 1, &key(3).address(), &seed);
    let proof = table.hears(&mut intake, 3, Proof { job: id, lease, ..proof() }.into());
    table.pool.handle(PoolEvent::Examined { job: id, proof, outcome: Ok(12) }, table.now);
    table.settle();
    table.wait(Millis::from_secs(45));
    for (n, row) in table.rows.iter().enumerate() {
        write("entry", &format!("row-{n}"), row);
    }
    write("checkpoint", "session", &table.pool.state().checkpoint());
    for block in &table.blocks {
        let is_page = swarm_protocol::codec::decode::<RecordPage>(block).is_ok();
        let name = match swarm_protocol::codec::decode::<Roster>(block) {
            Ok(_) => "roster",
            Err(_) if is_page => "record-page",
            Err(_) => "header",
        };
        write(name, &Link::of(block).to_string()[50..], block);
        let keys = match name {
            "roster" => ["fee168", "loss24", "models"],
            "record-page" => ["records", "previous", "first_seq"],
            _ => ["audits_root", "debits_root", "proofs_root"],
        };
        write(name, &format!("unsorted-{}", block.len()), &swapped(block, keys));
    }
    for (n, leaf) in table.pool.state().jobs().enumerate() {
        let leaf = swarm_protocol::pool::Leaf {
            job: *leaf.0,
            proof: Link([2; 32]),
            wallet: key(3).address(),
            price: MicroUsdc(7),
            units: 12,
            mode: PayoutMode::Solo,
        };
        let leaf = swarm_protocol::codec::encode(&leaf);
        write("leaf", &format!("leaf-{n}"), &leaf);
        write("leaf", "unsorted", &swapped(&leaf, ["price", "proof", "units"]));
    }
}

struct Table {
    pool: Pool,
    now: swarm_protocol::Timestamp,
    rows: Vec<Vec<u8>>,
    blocks: Vec<Vec<u8>>,
}

impl Table {
    fn hears(&mut self, intake: &mut Intake, by: u8, body: Body) -> Link {
        let signed = Statement::derived(pool(), key(by).address(), self.now, body).sign(&key(by));
        let verified = intake.verify(None, &signed.encode(), self.now).expect("it is valid");
        let id = verified.id();
        self.pool.handle(PoolEvent::Statement(Identified::new(verified, false)), self.now);
        self.settle();
        id
    }

    fn settle(&mut self) {
        while let Some(effect) = self.pool.poll_effect() {
            match effect {
                PoolEffect::Record(row) => self.rows.push(row),
                PoolEffect::Store(block) if block.len() > 40 => self.blocks.push(block),
                _ => {}
            }
        }
    }

    fn wait(&mut self, span: Millis) {
        let until = self.now + span;
        while let Some(at) = self.pool.poll_timeout().filter(|at| *at <= until) {
            self.now = self.now.max(at);
            self.pool.handle_timeout(self.now);
            self.settle();
        }
    }
}

/// The same map with its first two of these keys, which follow one another, in the wrong order.
fn swapped(bytes: &[u8], keys: [&str; 3]) -> Vec<u8> {
    let place = |key: &str| {
        let head = [&[0x60 | u8::try_from(key.len()).expect("a short key")], key.as_bytes()].concat();
        bytes.windows(head.len()).position(|window| window == head).unwrap_or(bytes.len())
    };
    let [first, second, end] = keys.map(place);
    [&bytes[..first], &bytes[second..end], &bytes[first..second], &bytes[end..]].concat()
}

fn frames() {
    let vectors = vectors();
    for (kind, _, snapshot) in &vectors {
        write("snapshot", kind, snapshot);
    }
    write("snapshot", "too-long", &[0; 9000]);
    write("snapshot", "unsorted", &swapped(&vectors[0].2, ["payload", "signature", "the end"]));
    let signed = Signed::decode(&vectors[0].2).expect("a vector");
    let (wallet, job) = (key(3).address(), Link([1; 32]));
    let open = |models| Query::OpenJobs { wallet, models };
    let many = vec!["m".to_owned(); MAX_MODELS + 1];
    let queries = [
        Query::Hand(signed.clone()),
        open(vec![MODEL.into()]),
        open(many),
        Query::Job { job },
        Query::Roster { wallet },
        Query::Beacon,
        Query::Snapshot { job },
        Query::Sealed,
        Query::Account { wallet },
        Query::Hand(Signed { payload: vec![0; 10_000], ..signed.clone() }),
    ];
    for (n, query) in queries.iter().enumerate() {
        write("query", &format!("query-{n}"), &query.encode());
    }
    let name = Some("alice.eth".to_owned());
    let leased =
        Fate::Leased { lease: Digest([4; 32]), wallet, name: name.clone(), term: 2, units: 40, proven: true };
    let answers = [
        Answer::Taken,
        Answer::Refused("seen before".into()),
        Answer::Error("e".repeat(600)),
        Answer::Jobs(vec![signed.clone(); 2]),
        Answer::Jobs(vec![signed.clone(); 5]),
        Answer::Fate(Fate::Unknown),
        Answer::Fate(Fate::Pending { attempt: 2, ahead: 7 }),
        Answer::Fate(leased),
        Answer::Fate(Fate::Accepted { receipt: signed.clone(), name }),
        Answer::Fate(Fate::Ended { refusal: signed.clone() }),
        Answer::Pool { beacon: signed.clone(), opened: signed.clone() },
        Answer::Snapshot(Some(signed)),
        Answer::Sealed(None),
        Answer::Account(Default::default()),
    ];
    for (n, answer) in answers.iter().enumerate() {
        write("answer", &format!("answer-{n}"), &answer.encode());
    }
    let texts = [
        (0, Link([1; 32]).to_string()),
        (1, wallet.to_string()),
        (2, "0.100001".to_owned()),
        (2, "18446744073709.551615".to_owned()),
    ];
    for (n, (which, text)) in texts.iter().enumerate() {
        write("texts", &format!("text-{n}"), &[&[*which], text.as_bytes()].concat());
    }
}

fn transcripts() {
    let step =
        |candidates: usize| Step { token: 9, candidates: vec![Candidate { token: 9, cost: 5 }; candidates] };
    let of = |model: &str, steps: Vec<Step>| Transcript {
        model: model.into(),
        model_digest: Digest([3; 32]),
        prompt: vec![1, 2, 300],
        steps,
        stop: StopReason::Eos,
    };
    let good = of(MODEL, vec![step(3), step(16)]).encode();
    write("transcript", "good", &good);
    write("transcript", "unsorted", &swapped(&good, ["model", "steps", "prompt"]));
    write("transcript", "name", &of(&"n".repeat(200), vec![]).encode());
    write("transcript", "steps", &of(MODEL, vec![step(0); MAX_TOKENS as usize + 1]).encode());
    write("transcript", "candidates", &of(MODEL, vec![step(300)]).encode());
}

fn embeddings() {
    let of = |model: &str, texts: Vec<Vec<u32>>| {
        embed::Transcript { model: model.into(), model_digest: Digest([3; 32]), texts }.encode()
    };
    let good = of(MODEL, vec![vec![101, 7592, 102], vec![101, 70_000, 102]]);
    write("embedding", "good", &good);
    write("embedding", "name", &of(&"n".repeat(200), vec![]));
    write("embedding", "texts", &of(MODEL, vec![vec![]; embed::MAX_TEXTS + 1]));
    write("embedding", "tokens", &of(MODEL, vec![vec![1; embed::MAX_TEXT_TOKENS + 1]]));
}

fn benchmarks() {
    let spec = bench::Spec::parse("bf16 512 64 4096 3").unwrap();
    let laps = vec![(90_000, 5), (70_000, 1 << 30), (80_000, 300)];
    let of = |model: &str, laps: &[bench::Lap]| {
        let (model, spec) = (model.to_owned(), spec.to_string());
        bench::Transcript { model, model_digest: Digest([3; 32]), spec, laps: laps.to_vec() }.encode()
    };
    write("benchmark", "good", &of(MODEL, &laps));
    write("benchmark", "name", &of(&"n".repeat(200), &laps));
    write("benchmark", "laps", &of(MODEL, &[(1, 1); 40]));
    write("figures", "good", &bench::Figures::of(&spec, &laps).unwrap().encode());
}

fn pictures() {
    let of = |model: &str, spec: &str, prompt: Vec<u32>, steps: usize| {
        let (model, spec) = (model.to_owned(), spec.to_owned());
        let steps = vec![vec![-1; image::SUMMARY_NUMBERS]; steps];
        let (model_digest, seed) = (Digest([3; 32]), Digest([4; 32]));
        image::Transcript { model, model_digest, spec, prompt, seed, steps }.encode()
    };
    write("picture", "good", &of(MODEL, "64 128 2 7500", vec![49_406, 320, 49_407], 2));
    write("picture", "spec", &of(MODEL, "64 128 2", vec![], 1));
    write("picture", "name", &of(&"n".repeat(200), "64 64 1 1000", vec![], 1));
    write("picture", "tokens", &of(MODEL, "64 64 1 1000", vec![1; image::MAX_PROMPT_TOKENS + 1], 1));
    write("picture", "steps", &of(MODEL, "64 64 1 1000", vec![], image::MAX_STEPS as usize + 1));
    let chunk = |kind: &[u8; 4], content: &[u8]| {
        let summed = [&kind[..], content].concat();
        let length = u32::try_from(content.len()).expect("a few bytes").to_be_bytes();
        [&length[..], &summed, &crc32fast::hash(&summed).to_be_bytes()].concat()
    };
    let file = |form: &[u8], rows: &[u8]| {
        let header = chunk(b"IHDR", &[&[0, 0, 0, 8, 0, 0, 0, 8], form].concat());
        // One stored block of deflate, within what zlib puts around it.
        let length = u16::try_from(rows.len()).expect("a few bytes").to_le_bytes();
        let rest = length.map(|byte| !byte);
        let sum = adler32(rows).to_be_bytes();
        let data = [&[0x78, 1, 1][..], &length, &rest, rows, &sum].concat();
        [&b"\x89PNG\r\n\x1a\n"[..], &header, &chunk(b"IDAT", &data), &chunk(b"IEND", &[])].concat()
    };
    let (form, rows) = ([8, 2, 0, 0, 0], [0; 8 * 25]);
    let good = file(&form, &rows);
    write("png", "good", &good);
    write("png", "form", &file(&[16, 2, 0, 0, 0], &rows));
    write("png", "rows", &file(&form, &rows[1..]));
    write("png", "cut", &good[..good.len() - 12]);
    write("png", "checksum", &[&good[..good.len() - 1], b"x"].concat());
}

/// RFC 1950.
fn adler32(bytes: &[u8]) -> u32 {
    let step = |(a, b): (u32, u32), byte: &u8| {
        ((a + u32::from(*byte)) % 65_521, (b + a + u32::from(*byte)) % 65_521)
    };
    let (a, b) = bytes.iter().fold((1, 0), step);
    b << 16 | a
}

fn ipfs() {
    let data = b"block".to_vec();
    let (cid, kind) = (raw_cid(&data), WantKind::Have);
    let message = Message {
        wants: vec![Want::new(cid, kind, false), Want::new(raw_cid(b"x"), WantKind::Block, true)],
        full: true,
        blocks: vec![Block { cid, data: data.clone() }],
        presences: vec![Presence { cid, has: false }],
        ..Message::default()
    };
    write("bitswap-message", "all", &message.encode());
    write("bitswap-message", "old-block", b"\x12\x03abc");
    let mut writer = CarWriter::new(Vec::new(), &[cid]).expect("memory");
    writer.put(&cid, &data).expect("memory");
    let car = writer.finish().expect("memory");
    write("car", "one-block", &car);
    write("car", "large-section", &[&car[..], b"\xff\xff\xff\x7f"].concat());
    // A node over one block of five bytes, and one with five bytes of its own.
    let link = [&b"\x0a\x24"[..], &cid.to_bytes()].concat();
    let node = [&b"\x12\x26"[..], &link, b"\x0a\x06\x08\x02\x18\x05\x20\x05"].concat();
    write("unixfs-node", "one-link", &node);
    write("unixfs-node", "data", b"\x0a\x0b\x08\x02\x12\x05hello\x18\x05");
    write(
        "unixfs-node",
        "long",
        &[&b"\x12\x26"[..], &link, b"\x0a\x0a\x08\x02\x18\x80\x80\x08\x20\x80\x80\x08"].concat(),
    );
    write("unixfs-node", "lengths", &[&b"\x0a\x90\x80\x01"[..], &b"\x20\x01".repeat(8_200)].concat());
    for (title, script) in [
        ("flat", &b"\x05\x09\x82"[..]),
        ("high", b"\x05\xc0\xc0\xc0\xc0\xc0\xc0\xc0\xc0\xc0\xc0"),
        ("cut", b"\x01\x47\x47\x47\x47"),
        ("lying", b"\x05\xe1\x83"),
        ("forgotten", b"\x05\x82\x55"),
        ("long", b"\x3f\x47\x47\x47\x47\x47\x47"),
    ] {
        write("unixfs-file", title, script);
    }
}

fn files() {
    let path = concat!(env!("CARGO_MANIFEST_DIR"), "/../models/queenbee-nano/manifest.json");
    let manifest = std::fs::read_to_string(path).expect("the model is there");
    write("manifest", "queenbee", manifest.as_bytes());
    for (title, old, new) in [
        ("size", "1629632", "0"),
        ("context", "\"context_length\": 256", "\"context_length\": 0"),
        ("vocabulary", "2048", "0"),
        ("candidates", "\"top_k\": 16", "\"top_k\": 2049"),
    ] {
        write("manifest", title, manifest.replace(old, new).as_bytes());
    }
    let shape = Shape { layers: 1, width: 32, hidden: 32, heads: 2, kv_heads: 1, ..Shape::default() };
    let model = gguf(shape).expect("a small model");
    let header_alone = &model[..model.len().min(24_000)];
    write("tokenizer", "small", header_alone);
    write("tokenizer", "another-kind", &replaced(header_alone, b"gpt2", b"gpt3"));
    let text = |length: u64, text: &str| [&length.to_le_bytes()[..], text.as_bytes()].concat();
    let header = |tensors: u64, metadata: u64, rest: &[&[u8]]| {
        [&b"GGUF\x03\0\0\0"[..], &tensors.to_le_bytes(), &metadata.to_le_bytes(), &rest.concat()].concat()
    };
    let array = |kind: u32, length: u64| {
        [&9u32.to_le_bytes()[..], &kind.to_le_bytes(), &length.to_le_bytes()].concat()
    };
    write("tokenizer", "tensors", &header(1 << 40, 0, &[]));
    write("tokenizer", "metadata", &header(0, 1 << 40, &[]));
    write("tokenizer", "string", &header(0, 1, &[&text(1 << 40, "a")]));
    write("tokenizer", "array", &header(0, 1, &[&text(1, "a"), &array(0, 1 << 40)]));
    write("tokenizer", "nested", &header(0, 1, &[&text(1, "a"), &array(9, 1)]));
    write("tokenizer", "kind", &header(0, 1, &[&text(1, "a"), &[99, 0, 0, 0]]));
    write(
        "tokenizer",
        "alignment",
        &header(0, 1, &[&text(17, "general.alignment"), &[4, 0, 0, 0, 7, 0, 0, 0]]),
    );
    write("tokenizer", "dimensions", &header(1, 0, &[&text(1, "t"), &[9, 0, 0, 0]]));
    let shape = [&2u32.to_le_bytes()[..], &(1u64 << 20).to_le_bytes(), &(1u64 << 20).to_le_bytes()].concat();
    write("tokenizer", "elements", &header(1, 0, &[&text(1, "t"), &shape]));
    let job = "{\"job_type\":\"llm_gen\",\"model\":\"queenbee-nano\",\"input\":{\"text\":\"Once\"},\"params\":{\"max_tokens\":8,\"stop\":[\"x\"]},\"payment\":{\"amount\":\"0.10\",\"currency\":\"USDC\"},\"limits\":{\"max_runtime_s\":60},\"ttl_s\":600}";
    write("job-file", "good", job.as_bytes());
    write("job-file", "twice", job.replace("\"model\"", "\"model\":\"a\",\"model\"").as_bytes());
    write("job-file", "long-stop", job.replace("\"x\"", &format!("\"{}\"", "x".repeat(80))).as_bytes());
    write(
        "job-file",
        "chat",
        job.replace("\"text\":\"Once\"", "\"messages\":[{\"role\":\"user\",\"content\":\"Hi\"}]").as_bytes(),
    );
    write("job-file", "no-model", job.replace("\"model\":\"queenbee-nano\",", "").as_bytes());
    write("job-file", "sealed", job.replace("\"text\":\"Once\"", "\"sealed\":{}").as_bytes());
    write("job-file", "two-inputs", job.replace("\"Once\"", "\"Once\",\"file\":\"a\"").as_bytes());
    write("job-file", "not-text", b"{\xff}");
    write("job-file", "embed", job.replace("llm_gen", "embed").as_bytes());
    write("job-file", "image", job.replace("llm_gen", "sd_infer").as_bytes());
    let picture = "{\"job_type\":\"sd_infer\",\"model\":\"m\",\"input\":{\"picture\":{\"prompt\":\"a bee\",\"width\":64,\"guidance\":7.5}},\"params\":{\"seed\":7},\"payment\":{\"amount\":\"0.10\",\"currency\":\"USDC\"}}";
    write("job-file", "picture", picture.as_bytes());
    write("job-file", "no-text", job.replace("Once", "").as_bytes());
    for field in ["job_type", "model", "input", "params", "payment", "limits"] {
        write("job-file", field, job.replacen(field, "other", 1).as_bytes());
        write(
            "job-file",
            &format!("{field}-null"),
            job.replacen(&format!("\"{field}\":"), &format!("\"{field}\":null,\"x\":"), 1).as_bytes(),
        );
    }
    let node = "{\"pool\":\"swarmpool.eth\",\"peer_id\":\"12D3KooW\",\"role\":\"operator\",\"pid\":PID,\"addresses\":[\"/ip4/127.0.0.1/tcp/4001\"]}";
    write("address-file", "own", node.as_bytes());
    write("address-file", "gone", node.replace("PID", "999999999").as_bytes());
}
