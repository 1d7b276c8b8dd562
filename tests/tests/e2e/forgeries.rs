//! A hostile node says what it may not say, to all who listen: it changes nothing, and each lie is refused by name.

use crate::harness::{PATIENCE, Process, Site, eventually, job_of, text};
use crate::peer::{POOL, Peer};
use crate::reference;
use libp2p::PeerId;
use std::time::{SystemTime, UNIX_EPOCH};
use swarm_crypto::address::{Address, PoolId};
use swarm_crypto::digest::{Digest, blake3};
use swarm_crypto::eip712::statement_hash;
use swarm_crypto::key::{SecretKey, Signature};
use swarm_node::network::{self, NetworkEvent};
use swarm_protocol::codec::{JobId, Link, raw_cid};
use swarm_protocol::money::MicroUsdc;
use swarm_protocol::query::{Answer, Fate, Query};
use swarm_protocol::statement::*;
use swarm_protocol::{Posted, Timestamp, Verdict};

const MODEL: &str = "queenbee-nano";
/// Half of the order of secp256k1's group tells low s from high; a signature's twin has order − s.
const ORDER: [u8; 32] = [
    0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xff, 0xfe, 0xba,
    0xae, 0xdc, 0xe6, 0xaf, 0x48, 0xa0, 0x3b, 0xbf, 0xd2, 0x5e, 0x8c, 0xd0, 0x36, 0x41, 0x41,
];

/// What a liar knows: the pool, and what honest nodes have said.
struct Scene {
    pool: PoolId,
    operator: Address,
    liar: SecretKey,
    job: Signed,
    lease: Signed,
    holder: Address,
}

/// A lie: on which topic, its bytes, and how the reason begins for which nobody takes it.
struct Forgery {
    name: String,
    topic: Topic,
    bytes: Vec<u8>,
    said: String,
    verdict: Verdict,
}

fn now() -> Timestamp {
    Timestamp(SystemTime::now().duration_since(UNIX_EPOCH).unwrap().as_millis() as u64)
}

fn header(pool: PoolId, by: Address, at: Timestamp) -> Header {
    let mut nonce = [0; 16];
    getrandom::fill(&mut nonce).unwrap();
    Header { pool, by, at, nonce: Nonce(nonce) }
}

/// Signs payload bytes whatever they say, as the programs would sign them.
fn sign(key: &SecretKey, pool: &PoolId, kind: &str, payload: Vec<u8>) -> Signed {
    let signature = key.sign_prehash(&statement_hash(pool, kind, &blake3(&payload)));
    Signed { payload, signature }
}

/// The other signature over the same payload that fits the same key.
fn malleated(signed: &Signed) -> Signed {
    let Signature(mut bytes) = signed.signature;
    let mut borrow = 0;
    for at in (0..32).rev() {
        let difference = i16::from(ORDER[at]) - i16::from(bytes[32 + at]) - borrow;
        borrow = i16::from(difference < 0);
        bytes[32 + at] = difference.rem_euclid(256) as u8;
    }
    bytes[64] = 27 + 28 - bytes[64];
    Signed { signature: Signature(bytes), ..signed.clone() }
}

fn replaced(bytes: &[u8], from: &[u8], to: &[u8]) -> Vec<u8> {
    let at = bytes.windows(from.len()).position(|window| window == from).unwrap();
    [&bytes[..at], to, &bytes[at + from.len()..]].concat()
}

impl Scene {
    fn said(&self, by: Address, body: Body) -> Statement {
        Statement { header: header(self.pool, by, now()), body }
    }

    /// One statement of each kind that only the operator may sign.
    fn of_the_operator(&self) -> Vec<Body> {
        let (job, subject) = (self.job.id(), Link::of(b"any"));
        let Body::Lease(lease) = Statement::decode(&self.lease.payload).unwrap().body else {
            panic!("no lease")
        };
        let detail = "no such thing".to_owned();
        let entry = ListingEntry {
            job,
            attempt: 7,
            seed: Digest([1; 32]),
            epoch: 0,
            model: MODEL.to_owned(),
            price: MicroUsdc(1),
            assurance: Assurance::Seeded,
            vram_mb: 0,
            listed_at: now(),
            free: (1, 1),
        };
        let receipt = Receipt {
            pps: None,
            job,
            proof: subject,
            client: self.holder,
            wallet: self.holder,
            epoch: 0,
            index: 0,
            leaf: Digest([2; 32]),
            price: MicroUsdc(100_000),
            miner_part: MicroUsdc(75_000),
            operator_part: MicroUsdc(25_000),
            units: 1,
            mode: PayoutMode::Solo,
            asset: Asset::Test,
            output: raw_cid(b"lie"),
            output_bytes: 3,
            held_until: 2,
        };
        let beacon = Beacon {
            node: None,
            name: POOL.to_owned(),
            asset: Asset::Test,
            chain: 0,
            contract: Address::ZERO,
            epoch: 9,
            pending: 0,
            leased: 0,
            models: Vec::new(),
            posted: Posted::default(),
            tree: None,
        };
        let (roster, secret_hash) = (subject, Digest([3; 32]));
        vec![
            Body::Admitted(Admitted { job, epoch: 0 }),
            Body::Refusal(Refusal { subject: job, job, reason: Reason::JobExpired, detail }),
            Body::Listing(Listing { entries: vec![entry] }),
            Body::Lease(Lease { wallet: self.liar.address(), ..lease.clone() }),
            Body::LeaseEnded(LeaseEnded { job, lease: lease.lease, cause: EndCause::NoProgress }),
            Body::Receipt(receipt),
            Body::Beacon(beacon),
            Body::EpochOpened(EpochOpened { epoch: 9, secret_hash, roster, posted: Posted::default() }),
            Body::EpochSealed(EpochSealed { epoch: 0, header: subject }),
        ]
    }

    /// What the client or the lease's holder could sign, and nobody else in their name.
    fn of_others(&self) -> Vec<(Address, Body)> {
        let client = Statement::decode(&self.job.payload).unwrap();
        let Body::Lease(lease) = Statement::decode(&self.lease.payload).unwrap().body else {
            panic!("no lease")
        };
        let (job, lease) = (self.job.id(), lease.lease);
        let release = Release { job, lease, cause: ReleaseCause::Withdrawn };
        vec![
            (client.header.by, client.body),
            (client.header.by, Body::Cancel(Cancel { job })),
            (self.holder, Body::Claim(Claim { job, attempt: 2 })),
            (self.holder, Body::Release(release)),
            (self.holder, Body::Proof(nowhere(job, lease))),
            (self.holder, Body::Heartbeat(alive(true))),
            (self.holder, Body::Progress(Progress { job, lease, units: 9, prefix: Digest([4; 32]) })),
        ]
    }

    fn forgeries(&self) -> Vec<Forgery> {
        let (liar, mut all) = (self.liar.address(), Vec::new());
        let mut add = |name: String, kind: Kind, signed: &Signed, said: String, verdict| {
            let topic = kind.topics().first().copied().unwrap_or(Topic::Proofs);
            all.push(Forgery { name, topic, bytes: signed.encode(), said, verdict });
        };
        let unsigned = "signature does not verify: not signed by the claimed key";
        for body in self.of_the_operator() {
            let kind = body.kind();
            let own = self.said(liar, body.clone()).sign(&self.liar);
            let said = format!("kind '{kind}' is the operator's, but {liar} signed it");
            add(format!("{kind} by a stranger"), kind, &own, said, Verdict::Reject);
            let posed = self.said(self.operator, body.clone()).sign(&self.liar);
            add(format!("{kind} in the operator's name"), kind, &posed, unsigned.to_owned(), Verdict::Reject);
            let elsewhere = PoolId::derive("other.eth", liar, 0, Address::ZERO);
            let other = Statement { header: header(elsewhere, liar, now()), body }.sign(&self.liar);
            let said = "statement of another pool".to_owned();
            add(format!("{kind} of another pool"), kind, &other, said, Verdict::Ignore);
        }
        for (by, body) in self.of_others().into_iter().filter(|(_, body)| body.kind() != Kind::Progress) {
            let kind = body.kind();
            let posed = self.said(by, body).sign(&self.liar);
            add(format!("{kind} in another's name"), kind, &posed, unsigned.to_owned(), Verdict::Reject);
        }
        let high = "signature does not verify: s is in the upper half";
        add("job, malleated".into(), Kind::Job, &malleated(&self.job), high.into(), Verdict::Reject);
        add("lease, malleated".into(), Kind::Lease, &malleated(&self.lease), high.into(), Verdict::Reject);
        let unseen = self.said(liar, Body::Cancel(Cancel { job: self.job.id() })).sign(&self.liar);
        add("cancel, malleated".into(), Kind::Cancel, &malleated(&unseen), high.into(), Verdict::Reject);
        self.odd(&mut add);
        all.extend(self.misplaced());
        all
    }

    /// Signed by the liar in its own name, and still nothing that anybody would take.
    fn odd(&self, add: &mut impl FnMut(String, Kind, &Signed, String, Verdict)) {
        let (liar, pool) = (self.liar.address(), self.pool);
        let cancel = self.said(liar, Body::Cancel(Cancel { job: self.job.id() })).encode();
        let mut odd = |name: &str, kind: &str, payload: Vec<u8>, said: &str, verdict| {
            add(
                name.to_owned(),
                Kind::Cancel,
                &sign(&self.liar, &pool, kind, payload),
                said.to_owned(),
                verdict,
            );
        };
        let long_one = replaced(&cancel, b"\x61v\x01", b"\x61v\x18\x01");
        odd("a number written too long", "cancel", long_one, "malformed: NonMinimal", Verdict::Reject);
        let swapped = replaced(&cancel, b"\x61v\x01", b"");
        let last = [&[cancel[0]], &swapped[1..], b"\x61v\x01"].concat();
        odd("fields out of order", "cancel", last, "malformed: UnorderedKey", Verdict::Reject);
        let more = [&[cancel[0] + 1], &cancel[1..], b"\x65zzzzz\x01"].concat();
        odd("a field too many", "cancel", more, "not canonical DAG-CBOR", Verdict::Reject);
        for kind in Kind::ALL.iter().filter(|kind| !kind.is_built()) {
            let name = kind.as_str();
            let payload =
                replaced(&cancel, b"\x66cancel", &[&[0x60 + name.len() as u8], name.as_bytes()].concat());
            let said = format!("kind '{name}' is not built in this version");
            odd(&format!("{name}, which is not built"), name, payload, &said, Verdict::Ignore);
        }
        let gossip = replaced(&cancel, b"\x66cancel", b"\x66gossip");
        odd("an unknown kind", "gossip", gossip, "kind 'gossip' is unknown to this version", Verdict::Ignore);
        let second = replaced(&cancel, b"\x61v\x01", b"\x61v\x02");
        let said = "protocol version 2 is not spoken here (this node speaks 1); update the older side";
        odd("another version", "cancel", second, said, Verdict::Ignore);
        let Body::Job(job) = Statement::decode(&self.job.payload).unwrap().body else { panic!("no job") };
        let endless = Params { max_tokens: 1 << 20, ..job.params.clone() };
        let endless = self.said(liar, Body::Job(Job { params: endless, ..job.clone() })).encode();
        odd("a job without bounds", "job", endless, "max_tokens is out of bounds", Verdict::Reject);
        let old = Statement { header: header(pool, liar, Timestamp(1)), body: Body::Job(job) };
        let said = "signed at Timestamp(1), too long ago for its kind";
        odd("an old job", "job", old.encode(), said, Verdict::Ignore);
    }

    /// Good statements where they do not belong, and bytes that are no statement.
    fn misplaced(&self) -> Vec<Forgery> {
        let place = |name: &str, topic, bytes: Vec<u8>, said: &str| Forgery {
            name: name.to_owned(),
            topic,
            bytes,
            said: said.to_owned(),
            verdict: Verdict::Reject,
        };
        let mut padded = self.job.encode();
        padded.push(0);
        let on_proofs = "kind 'job' is not allowed here";
        let mut all = vec![
            place("a job among proofs", Topic::Proofs, self.job.encode(), on_proofs),
            place(
                "a lease among epochs",
                Topic::Epochs,
                self.lease.encode(),
                "kind 'lease' is not allowed here",
            ),
        ];
        let progress = self.of_others().pop().unwrap().1;
        let progress = self.said(self.liar.address(), progress).sign(&self.liar).encode();
        all.push(place("progress by gossip", Topic::Proofs, progress, "kind 'progress' is not allowed here"));
        all.push(place("bytes after the end", Topic::Jobs, padded, "malformed: "));
        all.push(place(
            "too long",
            Topic::Jobs,
            vec![0; 8193],
            "message of 8193 bytes; at most 8192 are allowed",
        ));
        all
    }
}

fn nowhere(job: JobId, lease: Digest) -> Proof {
    let (transcript, output) = (Link::of(b"nowhere"), raw_cid(b"nowhere"));
    Proof { job, lease, transcript, transcript_bytes: 7, output, output_bytes: 7 }
}

fn alive(draining: bool) -> Heartbeat {
    let offer = ModelOffer { model: MODEL.to_owned(), assurances: vec![Assurance::Seeded] };
    Heartbeat {
        boot_at: now(),
        counter: 0,
        models: vec![offer],
        slots: 1,
        mode: PayoutMode::Solo,
        ens: None,
        device: "cpu".to_owned(),
        vram_mb: 0,
        draining,
    }
}

/// Hands a statement to the operator.
async fn hand(peer: &Peer, operator: PeerId, signed: Signed) -> Answer {
    peer.ask(operator, &Query::Hand(signed)).await
}

/// Waits for a statement of the operator.
async fn hear<T>(peer: &mut Peer, wanted: impl Fn(&Body) -> Option<T>) -> (Signed, T) {
    peer.wait(|event| {
        let NetworkEvent::Gossip { data, .. } = event else { return None };
        let signed = Signed::decode(data).ok()?;
        let found = wanted(&Statement::decode(&signed.payload).ok()?.body)?;
        Some((signed, found))
    })
    .await
}

async fn fate(peer: &Peer, operator: PeerId, job: JobId) -> Fate {
    match peer.ask(operator, &Query::Job { job }).await {
        Answer::Fate(fate) => fate,
        other => panic!("{other:?}"),
    }
}

/// Each lie, judged by the way in that all programs share, and by the running operator if it is handed over.
async fn refused_by_name(scene: &Scene, forgeries: &[Forgery], peer: &Peer, operator: PeerId) {
    for Forgery { name, topic, bytes, said, verdict } in forgeries {
        let rejection = Intake::new(scene.pool, scene.operator).accept(Some(*topic), bytes, now());
        let rejection = rejection.expect_err(name);
        assert!(rejection.to_string().starts_with(said), "{name}: {rejection}");
        assert_eq!(rejection.verdict(), *verdict, "{name}");
        let Ok(signed) = Signed::decode(bytes) else { continue };
        let answer = hand(peer, operator, signed).await;
        if said.ends_with("not allowed here") {
            assert_eq!(answer, Answer::Taken, "{name}");
        } else {
            assert!(matches!(&answer, Answer::Refused(why) if why.starts_with(said)), "{name}: {answer:?}");
        }
    }
}

fn on_the_wire(topic: Topic) -> network::Topic {
    match topic {
        Topic::Jobs => network::Topic::Jobs,
        Topic::Claims => network::Topic::Claims,
        Topic::Proofs => network::Topic::Proofs,
        Topic::Heartbeats => network::Topic::Heartbeats,
        Topic::Epochs => network::Topic::Epochs,
    }
}

/// Gossips one lie from a node of its own: whoever lies twice is not listened to.
async fn gossip(site: &Site, forgery: &Forgery) -> Peer {
    let peer = Peer::start(site, "stranger").await;
    let topic = on_the_wire(forgery.topic);
    let listens = |agent: Option<String>, topics: &[network::Topic]| {
        let known = agent.is_some_and(|agent| !agent.contains("stranger"));
        known && topics.contains(&topic)
    };
    let all_listen = async {
        loop {
            let peers = peer.network.peers().await.unwrap();
            if peers.iter().filter(|peer| listens(peer.agent.clone(), &peer.topics)).count() >= 3 {
                return;
            }
            tokio::time::sleep(std::time::Duration::from_millis(50)).await;
        }
    };
    tokio::time::timeout(PATIENCE, all_listen).await.expect("operator, miner and client are met");
    peer.network.publish(topic, forgery.bytes.clone()).await.unwrap();
    peer
}

/// Waits until a program has said of each lie that it heard why it is not taken.
fn heard_and_refused(who: &Process, forgeries: &[&Forgery]) {
    for forgery in forgeries {
        let alike = forgeries.iter().filter(|other| other.said == forgery.said).count();
        let line = format!("not taken: {}", forgery.said);
        eventually(&format!("{}: {line}", forgery.name), || {
            (who.lines_with(&line).len() >= alike).then_some(())
        });
    }
}

/// A miner of the test's own, which the pool takes for any other.
struct Holder {
    peer: Peer,
    key: SecretKey,
    operator: PeerId,
}

impl Holder {
    async fn join(site: &Site, pool: PoolId, key: SecretKey) -> Self {
        let mut peer = Peer::start(site, "stranger").await;
        let operator = peer.meet("operator").await;
        let holder = Self { peer, key, operator };
        assert_eq!(holder.hand(pool, Body::Heartbeat(alive(false))).await.1, Answer::Taken);
        holder
    }

    async fn hand(&self, pool: PoolId, body: Body) -> (Link, Answer) {
        let statement = Statement { header: header(pool, self.key.address(), now()), body };
        let signed = statement.sign(&self.key);
        (signed.id(), hand(&self.peer, self.operator, signed).await)
    }

    /// Says what the operator understands and will not do; gives the reason it names.
    async fn refused(&mut self, pool: PoolId, body: Body) -> Reason {
        let (subject, answer) = self.hand(pool, body).await;
        assert_eq!(answer, Answer::Taken);
        let reason = |body: &Body| match body {
            Body::Refusal(refusal) if refusal.subject == subject => Some(refusal.reason),
            _ => None,
        };
        hear(&mut self.peer, reason).await.1
    }
}

async fn identity(peer: &Peer, operator: PeerId) -> (PoolId, Address) {
    let Answer::Pool { beacon, .. } = peer.ask(operator, &Query::Beacon).await else { panic!("no beacon") };
    let header = Statement::decode(&beacon.payload).unwrap().header;
    (header.pool, header.by)
}

fn logged(site: &Site, program: &str, args: &[&str]) -> Process {
    let mut command = site.command(program);
    command.env("SWARMPOOL_LOG", "warn,libp2p_gossipsub=error,swarm_node=debug").args(args);
    Process::start(program, command)
}

#[test]
fn lies_change_nothing_and_are_refused_by_name() {
    let runtime = tokio::runtime::Builder::new_multi_thread().worker_threads(2).enable_all().build().unwrap();
    runtime.block_on(play());
}

async fn play() {
    let site = Site::new();
    let posted = ["--window", "0", "--first-progress", "250s", "--progress", "250s", "--heartbeat", "60s"];
    let operator = logged(
        &site,
        "swarm-node",
        &[&["--role", "operator", "--fetch-timeout", "1s"], &posted[..]].concat(),
    );
    operator.expect("listening on");
    let mut watcher = Peer::start(&site, "stranger").await;
    let node = watcher.meet("operator").await;
    let (pool, wallet) = identity(&watcher, node).await;
    let mut holder = Holder::join(&site, pool, SecretKey::from_bytes(&[5; 32]).unwrap()).await;

    let job = text(&site.job("job", &job_of("It is a truth", 12)));
    let client = logged(&site, "swarm-client", &["submit", "--json", &job]);
    let listed = |body: &Body| match body {
        Body::Listing(listing) => Some(listing.entries[0].job),
        _ => None,
    };
    let id = hear(&mut holder.peer, listed).await.1;
    let claim = |attempt| Body::Claim(Claim { job: id, attempt });
    holder.hand(pool, claim(1)).await;
    let leased = |body: &Body| if let Body::Lease(lease) = body { Some(lease.lease) } else { None };
    let (lease, lease_id) = hear(&mut holder.peer, leased).await;
    let Answer::Snapshot(Some(signed)) = watcher.ask(node, &Query::Snapshot { job: id }).await else {
        panic!("no job")
    };
    client.expect("leased to");

    // A second miner looks on: it has the model, but the job is taken.
    let miner = logged(&site, "swarm-node", &["--role", "miner", "--ens", "alice.eth", "--min-price", "99"]);
    miner.expect("joined swarmpool.eth");
    let (liar, by) = (SecretKey::from_bytes(&[6; 32]).unwrap(), holder.key.address());
    let scene = Scene { pool, operator: wallet, liar: liar.clone(), job: signed, lease, holder: by };
    let before = fate(&watcher, node, id).await;
    assert!(matches!(&before, Fate::Leased { wallet, units: 0, .. } if *wallet == by), "{before:?}");

    let forgeries = scene.forgeries();
    refused_by_name(&scene, &forgeries, &watcher, node).await;
    let gossiped: Vec<&Forgery> = forgeries.iter().filter(|forgery| is_gossiped(forgery)).collect();
    let liars = futures::future::join_all(gossiped.iter().map(|forgery| gossip(&site, forgery))).await;
    for who in [&operator, &miner, &client] {
        tokio::task::block_in_place(|| heard_and_refused(who, &gossiped));
    }
    drop(liars);
    assert_eq!(fate(&watcher, node, id).await, before);

    let mut stranger = Holder { peer: watcher, key: liar, operator: node };
    let proof = Body::Proof(nowhere(id, lease_id));
    assert_eq!(stranger.refused(pool, proof.clone()).await, Reason::StaleLease, "a proof of another's lease");
    assert_eq!(stranger.refused(pool, Body::Cancel(Cancel { job: id })).await, Reason::NotYours);
    let (next_term, other_seed) = (Digest([8; 32]), Digest([9; 32]));
    for seed in [next_term, other_seed] {
        let made_up = swarm_protocol::statement::lease_id(&pool, &id, 2, &by, &seed);
        let reason = holder.refused(pool, Body::Proof(nowhere(id, made_up))).await;
        assert_eq!(reason, Reason::StaleLease, "a lease that was never given");
    }
    let unknown = Body::Proof(nowhere(JobId::of(b"no job"), lease_id));
    assert_eq!(stranger.refused(pool, unknown).await, Reason::UnknownJob);
    let progress = Progress { job: id, lease: lease_id, units: 50, prefix: Digest([4; 32]) };
    let release = Release { job: id, lease: lease_id, cause: ReleaseCause::EngineFailure };
    for passed_over in [Body::Progress(progress), Body::Release(release.clone()), claim(1), claim(2)] {
        assert_eq!(stranger.hand(pool, passed_over).await.1, Answer::Taken);
    }
    assert_eq!(fate(&stranger.peer, node, id).await, before);
    assert_eq!(holder.refused(pool, proof.clone()).await, Reason::ContentUnavailable, "a proof of nothing");
    assert_eq!(fate(&stranger.peer, node, id).await, before);

    holder.hand(pool, Body::Release(release)).await;
    hear(&mut holder.peer, |body| matches!(body, Body::LeaseEnded(_)).then_some(())).await;
    let late = Body::Proof(Proof { transcript: Link::of(b"late"), ..nowhere(id, lease_id) });
    assert_eq!(holder.refused(pool, late).await, Reason::StaleLease, "a proof of a term that is over");
    // The nonce of the heartbeat again, for other words.
    let twice = |counter| Heartbeat { counter, ..alive(true) };
    let same = header(pool, by, now());
    let words =
        [twice(8), twice(9)].map(|beat| Statement { header: same.clone(), body: Body::Heartbeat(beat) });
    assert_eq!(hand(&holder.peer, node, words[0].sign(&holder.key)).await, Answer::Taken);
    let said = format!("{by} used one nonce for two statements of kind 'heartbeat'");
    assert_eq!(hand(&holder.peer, node, words[1].sign(&holder.key)).await, Answer::Refused(said));

    tokio::task::block_in_place(|| the_honest_job_is_answered(&site, operator, miner, client, id));
}

/// One lie of each sort, as it is heard by gossip.
fn is_gossiped(forgery: &Forgery) -> bool {
    [
        "listing by a stranger",
        "lease by a stranger",
        "receipt by a stranger",
        "epoch_sealed by a stranger",
        "refusal in the operator's name",
        "lease_ended in the operator's name",
        "epoch_opened in the operator's name",
        "beacon of another pool",
        "proof in another's name",
        "cancel, malleated",
        "a number written too long",
        "revocation, which is not built",
        "progress by gossip",
        "bytes after the end",
    ]
    .contains(&forgery.name.as_str())
}

fn the_honest_job_is_answered(site: &Site, operator: Process, watching: Process, client: Process, id: JobId) {
    let bob = site.miner("bob.eth", &[]);
    let told = client.finish().good().json();
    assert_eq!(told["job"], id.to_string());
    let verified = site.client(&["verify", "--json", &id.to_string()]).good().json();
    assert!(
        verified["checks"].as_array().unwrap().iter().all(|check| check["result"] != "false"),
        "{verified}"
    );
    for word in ["claiming", "is mine", "earned", "lost"] {
        assert!(watching.lines_with(word).is_empty(), "{word}");
    }
    for node in [bob, watching, operator] {
        node.terminate().good();
    }
    let reading = reference::read(site);
    // Genesis, credit, admitted, leased, given back, the name, leased, accepted: nothing that a liar said.
    assert_eq!(reading.rows(), 8);
    assert_eq!(reading.receipts.keys().copied().collect::<Vec<_>>(), [id]);
}
