//! Everything that a pool has sealed, recomputed: from the network, and from an archive by somebody who was never there.

use crate::harness::{Site, job_of, text};
use serde_json::Value;
use swarm_crypto::address::{Address, PoolId};
use swarm_crypto::digest::Digest;
use swarm_crypto::key::SecretKey;
use swarm_crypto::merkle;
use swarm_protocol::Timestamp;
use swarm_protocol::codec::{Link, raw_cid};
use swarm_protocol::statement::{AuditPicked, Body, EpochSealed, Proof, Statement};

/// What came of each check.
fn results(verified: &Value) -> Vec<(&str, &str)> {
    let checks = verified["checks"].as_array().unwrap().iter();
    checks.map(|check| (check["check"].as_str().unwrap(), check["result"].as_str().unwrap())).collect()
}

/// All that a pool has sealed, but for its answers.
pub const SEALED: [&str; 7] = ["sealed", "chain", "records", "signatures", "races", "money", "roots"];

/// Each of these was checked, and nothing was found wrong or left open.
pub fn good(verified: &Value, checks: &[&str]) {
    assert!(results(verified).iter().all(|(_, result)| *result == "ok"), "{verified}");
    let names: Vec<_> = results(verified).iter().map(|(name, _)| *name).collect();
    for name in checks {
        assert!(names.contains(name), "{name} is not among {names:?}");
    }
}

fn all_good(verified: &Value) {
    good(verified, &SEALED);
    good(verified, &["answers"]);
}

/// What clients and miners are told of their money, from the archive, and the proofs of it.
fn paid(site: &Site, archive: &std::path::Path, answers: &[Value]) {
    let car = ["--car", &text(archive)];
    let history = site.client(&[&["history", "--json"], &car[..]].concat()).good().json();
    let kinds: Vec<_> = history["movements"].as_array().unwrap().iter().map(|moved| &moved["kind"]).collect();
    assert_eq!(kinds.iter().filter(|kind| **kind == "admitted").count(), answers.len());
    assert_eq!(history["free_usdc"], "99.60");
    let shown = site.client(&[&["history", "--last", "2"], &car[..]].concat()).good().stdout;
    assert!(shown.contains("99.60 USDC free") && shown.contains("earlier movements"), "{shown}");

    let mut earned = 0;
    for miner in ["alice.eth", "bob.eth"] {
        let own = answers.iter().filter(|answer| answer["receipt"]["miner"] == wallet(site, miner)).count();
        let node = |args: &[&str]| {
            let mut command = site.command("swarm-node");
            command.args([&["earnings", miner], &car[..], args].concat());
            crate::harness::Process::start("earnings", command).finish().good()
        };
        let told = node(&["--json"]).json();
        assert_eq!(told["jobs"].as_array().unwrap().len(), own, "{told}");
        let csv = node(&["--csv"]).stdout;
        assert_eq!(csv.lines().count(), own + 1, "{csv}");
        let proofs = site.home().join(format!("{miner}.json"));
        assert!(node(&["--proofs", &text(&proofs)]).stdout.contains("USDC held"));
        let proofs: Value = serde_json::from_str(&std::fs::read_to_string(proofs).unwrap()).unwrap();
        for job in proofs["jobs"].as_array().unwrap() {
            let digest = |value: &Value| value.as_str().unwrap()[2..].parse::<Digest>().unwrap();
            let proof: Vec<Digest> = job["proof"].as_array().unwrap().iter().map(digest).collect();
            let number = |name: &str| job[name].as_u64().unwrap();
            let (leaf, root) = (digest(&job["leaf"]), digest(&job["root"]));
            assert!(
                merkle::verify_inclusion(&leaf, number("index"), number("count"), &proof, &root),
                "{job}"
            );
        }
        earned += own;
    }
    assert_eq!(earned, answers.len());
}

/// Two headers for one epoch, which somebody heard, convince somebody else; two that agree do not. What an auditor was told and
/// the proof, which its miner has signed, do too, and months later.
fn evidence(site: &Site, elsewhere: &Site, told: &[&str]) {
    let key = std::fs::read_to_string(site.data("operator").join("key")).unwrap();
    let bytes: [u8; 32] = hex::decode(key.trim()).unwrap().try_into().unwrap();
    let key = SecretKey::from_bytes(&bytes).unwrap();
    let pool = PoolId::derive("swarmpool.eth", key.address(), 0, Address::ZERO);
    let sealed = |at, header| {
        let body = EpochSealed { epoch: 3, header: Link([header; 32]) };
        hex::encode(Statement::derived(pool, key.address(), Timestamp(at), body.into()).sign(&key).encode())
    };
    let path = elsewhere.home().join("evidence.json");
    let headers = [2, 1].map(|other| [sealed(1_790_000_000_000, 1), sealed(1_790_000_000_001, other)]);
    let audits = [Link([9; 32]), Link([3; 32])].map(|transcript| audit(&key, transcript));
    for (statements, code) in headers.into_iter().chain(audits).zip([0, 1, 0, 1]) {
        let file = serde_json::json!({ "evidence": "as it says", "operator": "", "statements": statements });
        std::fs::write(&path, file.to_string()).unwrap();
        let verdict = elsewhere.client(&[&["verify", &text(&path)], told].concat());
        assert_eq!(verdict.code(), Some(code), "{verdict:?}");
    }
}

/// What the operator told an auditor of a proof that names the transcript `[3; 32]`, and the proof.
fn audit(operator: &SecretKey, transcript: Link) -> [String; 2] {
    let miner = SecretKey::from_bytes(&[7; 32]).unwrap();
    let pool = PoolId::derive("swarmpool.eth", operator.address(), 0, Address::ZERO);
    let sign = |key: &SecretKey, body: Body| {
        Statement::derived(pool, key.address(), Timestamp(1_790_000_000_000), body).sign(key)
    };
    let (job, lease, output) = (Link([1; 32]), Digest([4; 32]), raw_cid(b"text"));
    let proof = Proof { job, lease, transcript: Link([3; 32]), transcript_bytes: 9, output, output_bytes: 4 };
    let proof = sign(&miner, proof.into());
    let told = AuditPicked {
        epoch: 3,
        index: 0,
        auditor: Address([9; 20]),
        job,
        asked: Link([2; 32]),
        proof: proof.id(),
        wallet: miner.address(),
        lease,
        transcript,
        transcript_bytes: 9,
        output,
        output_bytes: 4,
        open: false,
        until: 5,
        challenge: None,
    };
    [sign(operator, told.into()), proof].map(|signed| hex::encode(signed.encode()))
}

/// The wallet of a miner, as its own command says.
pub fn wallet(site: &Site, miner: &str) -> String {
    let key = std::fs::read_to_string(site.data(&format!("miner-{miner}")).join("key")).unwrap();
    let bytes: [u8; 32] = hex::decode(key.trim()).unwrap().try_into().unwrap();
    SecretKey::from_bytes(&bytes).unwrap().address().to_string()
}

#[test]
fn all_that_a_pool_has_sealed_is_recomputed_also_offline_and_no_byte_can_be_changed() {
    let site = Site::new();
    let operator = site.operator(&["--epoch", "10s", "--heartbeat", "1s", "--reserve", "2.5"]);
    let address = operator.expect("of pool swarmpool.eth");
    let miners = [site.miner("alice.eth", &["--payout", "pps"]), site.miner("bob.eth", &[])];
    operator.expect("opened, 2 miners in its roster");
    let job = site.job("job", &job_of("The carriage", 20));
    let answers: Vec<_> = (0..4).map(|_| site.submit(&job).good().json()).collect();
    let last = &answers[3]["receipt"];
    let epoch = last["epoch"].as_u64().unwrap();
    operator.expect(&format!("epoch {epoch} sealed"));

    let archive = site.home().join("pool.car");
    let asked = ["verify", "--json", "--answers", "--save", &text(&archive)];
    let verified = site.client(&asked).good().json();
    all_good(&verified);
    let header = verified["epoch"].as_str().unwrap().to_owned();
    // The same by its name, with the receipt that it holds, and without its transcripts.
    all_good(&site.client(&["verify", "--json", "--answers", &header]).good().json());
    let receipt = last["job"].as_str().unwrap();
    let with_receipt = site.client(&["verify", "--json", "--whole", receipt]).good().json();
    assert!(results(&with_receipt).contains(&("receipt", "ok")), "{with_receipt}");

    miners.into_iter().for_each(|miner| _ = miner.terminate().good());
    operator.terminate().good();
    assert_eq!(site.running(), Vec::<u32>::new());

    let offline = ["verify", "--json", "--answers", "--car", &text(&archive)];
    all_good(&site.client(&offline).good().json());
    let receipt = site.client(&["verify", "--json", "--car", &text(&archive), receipt]).good().json();
    assert!(results(&receipt).contains(&("receipt", "ok")), "{receipt}");

    paid(&site, &archive, &answers);

    // Somebody who was never there must be told whose signature counts.
    let elsewhere = Site::new();
    let unknown = elsewhere.client(&["verify", "--json", "--car", &text(&archive)]);
    assert_eq!(unknown.code(), Some(1), "{unknown:?}");
    let address = address.split_whitespace().find(|word| word.starts_with("0x")).unwrap().to_owned();
    let told = ["--operator", address.trim_end_matches([',', '.'])];
    all_good(&elsewhere.client(&[&offline[..], &told].concat()).good().json());

    evidence(&site, &elsewhere, &told);

    let good = std::fs::read(&archive).unwrap();
    let changed = elsewhere.home().join("changed.car");
    // All of its own header, which no hash covers, and places anywhere.
    let spread = |turn: usize| turn * 2_654_435_761 % good.len();
    for (turn, at) in (0..=good[0].into()).chain((0..40).map(spread)).enumerate() {
        let mut bytes = good.clone();
        bytes[at] ^= 1 << (turn % 8);
        std::fs::write(&changed, bytes).unwrap();
        let seen = elsewhere.client(&[&["verify", "--car", &text(&changed)], &told[..]].concat());
        assert!(matches!(seen.code(), Some(1 | 2)), "byte {at}: {seen:?}");
    }
}
