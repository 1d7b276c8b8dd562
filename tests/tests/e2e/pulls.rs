//! `swarm-node models pull` and `remove`: from a path, from a hub with faults, and from other nodes.

use crate::harness::{Finished, Process, Site, eventually, short_job, text};
use crate::hub::{Fault, Hub, REPOSITORY, TOKEN};
use crate::peer::Peer;
use rustix::process::Signal;
use serde_json::Value;
use std::path::{Path, PathBuf};
use std::sync::Arc;
use swarm_node::content::{Child, encode_folder, import};
use swarm_node::storage::blocks::BlockStore;

const MIB: usize = 1 << 20;

fn start(site: &Site, hub: Option<&Hub>, args: &[&str]) -> Process {
    let mut command = site.command("swarm-node");
    command.args(["models"]).args(args).env_remove("HF_TOKEN");
    if let Some(hub) = hub {
        command.env("HF_ENDPOINT", &hub.endpoint).env("HF_TOKEN", TOKEN);
    }
    Process::start("models", command)
}

fn models(site: &Site, args: &[&str]) -> Finished {
    start(site, None, args).finish()
}

/// A pull that goes well, and what it says.
fn pulled(site: &Site, hub: Option<&Hub>, args: &[&str]) -> (Value, String) {
    let done = start(site, hub, &[&["pull", "--json"], args].concat()).finish().good();
    (done.json(), done.stderr)
}

/// Names of the models that were pulled.
fn installed(site: &Site) -> Vec<String> {
    let listed = models(site, &["list", "--json"]).good().json();
    let all = listed["models"].as_array().unwrap().iter();
    all.skip(2).map(|model| model["manifest"]["name"].as_str().unwrap().to_owned()).collect()
}

fn queenbee() -> PathBuf {
    Path::new(env!("CARGO_MANIFEST_DIR")).join("../models/queenbee-nano")
}

fn weights() -> Vec<u8> {
    std::fs::read(queenbee().join("queenbee-nano-q8_0.gguf")).unwrap()
}

fn bert(file: &str) -> Vec<u8> {
    std::fs::read(Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/bert").join(file)).unwrap()
}

/// Where what has come of a pull lies, and how long it is.
fn part(site: &Site) -> Option<(PathBuf, u64)> {
    let below =
        |folder: PathBuf| std::fs::read_dir(folder).into_iter().flatten().flatten().map(|entry| entry.path());
    let parts = below(site.home().join("models")).flat_map(below);
    let mut parts = parts.filter(|path| path.extension().is_some_and(|kind| kind == "part"));
    parts.find_map(|path| path.metadata().ok().map(|part| (path, part.len())))
}

/// Waits until so much has come.
fn wait_for(site: &Site, bytes: usize) -> PathBuf {
    let enough = |(path, length): (PathBuf, u64)| (length >= bytes as u64).then_some(path);
    let deadline = std::time::Instant::now() + crate::harness::PATIENCE;
    loop {
        match part(site).and_then(enough) {
            Some(path) => return path,
            None => assert!(std::time::Instant::now() < deadline, "{bytes} bytes never came"),
        }
        std::thread::sleep(std::time::Duration::from_millis(2));
    }
}

/// Whether the largest model that may be stated does not fit here.
fn small_disk(site: &Site) -> bool {
    swarm_node::storage::disk::available_bytes(&site.home()).unwrap() < 1 << 40
}

#[test]
fn a_file_of_the_current_folder_is_pulled_and_what_holds_no_weights_is_refused() {
    let site = Site::new();
    let pull = |file: &str| {
        let mut command = site.command("swarm-node");
        command.args(["models", "pull", file, "--name", "here"]).current_dir(queenbee());
        Process::start("models", command).finish()
    };
    let told = pull("README.md");
    assert!(told.code() == Some(1) && told.stderr.contains("README.md holds no weights"), "{told:?}");
    assert_eq!(installed(&site), Vec::<String>::new());
    pull("queenbee-nano-q8_0.gguf").good();
    assert_eq!(installed(&site), ["here"]);
}

#[test]
fn a_model_is_pulled_from_a_path_listed_validated_and_removed() {
    let site = Site::new();
    let manifest = text(&queenbee().join("manifest.json"));
    let told = models(&site, &["pull", &manifest]);
    assert!(told.code() == Some(2) && told.stderr.contains("queenbee-nano is built in"), "{told:?}");
    let (done, said) = pulled(&site, None, &[&manifest, "--name", "worker"]);
    assert!(said.contains("pulling worker, 1.55 MiB") && said.contains("1.55 MiB came at"), "{said}");
    assert_eq!(installed(&site), ["worker"]);
    let of_list = models(&site, &["list", "--json"]).good().json()["models"][2].clone();
    assert_eq!((&of_list["cid"], &of_list["provider"]), (&done["cid"], &Value::from("candle")));
    models(&site, &["validate", "worker"]).good();
    // The same again is no harm; another under its name is refused.
    let (again, said) = pulled(&site, None, &[&manifest, "--name", "worker"]);
    assert!(again["cid"] == done["cid"] && said.contains("installed already, the same"), "{said}");
    let gguf = text(&queenbee().join("queenbee-nano-q8_0.gguf"));
    let told = models(&site, &["pull", &gguf, "--name", "worker"]);
    assert!(
        told.code() == Some(1) && told.stderr.contains("a model worker is installed already"),
        "{told:?}"
    );
    // Weights without a manifest get one, which differs by the name alone.
    pulled(&site, None, &[&gguf, "--name", "drone"]);
    let mut made = models(&site, &["inspect", "drone"]).good().json();
    made["name"] = "queenbee-nano".into();
    assert_eq!(made, models(&site, &["inspect", "queenbee-nano"]).good().json());
    let told = models(&site, &["remove", "worker"]).good();
    assert_eq!(told.stdout, "worker is removed, 1.55 MiB are free again\n");
    assert_eq!(installed(&site), ["drone"]);
    let told = models(&site, &["remove", "worker"]);
    assert!(told.code() == Some(1) && told.stderr.contains("there is drone"), "{told:?}");
}

#[test]
fn wrong_files_and_wrong_names_are_refused_and_leave_nothing() {
    let site = Site::new();
    let folder = site.home().join("wrong");
    std::fs::create_dir(&folder).unwrap();
    let good = std::fs::read_to_string(queenbee().join("manifest.json")).unwrap();
    let mut bad = weights();
    bad[1_000_000] ^= 1;
    std::fs::write(folder.join("queenbee-nano-q8_0.gguf"), &bad).unwrap();
    let manifest = text(&folder.join("manifest.json"));
    let digest = "4a83651f6ff7d957c191e664be1cb6dc56913a055527efb2c41e192e5d6f7992";
    for (code, written, name, told) in [
        (1, good.clone(), "bee", format!("its source says {digest}; nothing was installed")),
        (1, good.replace("1629632", "1629633"), "bee", "has 1629632 bytes, its manifest says 1629633".into()),
        (
            1,
            good.replace("1629632", "1099511627776"),
            "bee",
            if small_disk(&site) { "are free in " } else { "has 1629632 bytes" }.into(),
        ),
        (
            1,
            good.replace("\"queenbee-nano-q8_0.gguf\"", "\"../x.gguf\""),
            "bee",
            "file name without folders".into(),
        ),
        (
            1,
            good.replace("\"queenbee-nano-q8_0.gguf\"", "\"manifest.json\""),
            "bee",
            "cannot be installed".into(),
        ),
        (1, "{".into(), "bee", "is no model".into()),
        (
            2,
            good.replace("\"queenbee-nano\"", "\"../bee\""),
            "",
            "a model cannot be installed as '../bee'".into(),
        ),
    ] {
        std::fs::write(&manifest, &written).unwrap();
        let name: &[&str] = if name.is_empty() { &[] } else { &["--name", name] };
        let refused = models(&site, &[&["pull", manifest.as_str()], name].concat());
        assert_eq!(refused.code(), Some(code), "{told}: {refused:?}");
        assert!(refused.stderr.contains(&told), "{told}: {refused:?}");
        assert!(refused.stderr.contains("\n  → "), "{refused:?}");
    }
    assert_eq!((installed(&site), part(&site)), (Vec::<String>::new(), None));
    for source in ["bee", "a/b/c/d", "hf:bee", "bee/hive@../x"] {
        let refused = models(&site, &["pull", source]);
        assert!(
            refused.code() == Some(2) && refused.stderr.contains("is no source of a model"),
            "{refused:?}"
        );
    }
}

#[test]
fn a_hub_that_breaks_off_is_asked_for_the_rest_and_its_model_runs() {
    let site = Site::new();
    let files = [("README.md", b"a hive".to_vec()), ("hive-q8_0.gguf", weights())];
    let hub = Hub::start(&files, Fault::Drops { after: 700_000, times: 2 });
    let (done, said) = pulled(&site, Some(&hub), &[REPOSITORY]);
    assert_eq!((done["model"].as_str(), installed(&site)), (Some("hive-q8_0"), vec!["hive-q8_0".to_owned()]));
    assert!(said.contains("breaks off at 700000 of 1629632 bytes"), "{said}");
    let large: Vec<_> = hub.requests().into_iter().filter(|request| request.starts_with("large")).collect();
    // From where it was, and the token stays with the hub.
    assert_eq!(
        large,
        ["", " from 700000", " from 1400000"].map(|from| format!("large /blobs/hive-q8_0.gguf{from}"))
    );
    assert!(hub.requests()[0].ends_with("?blobs=true with token"), "{:?}", hub.requests());
    let manifest = models(&site, &["inspect", "hive-q8_0"]).good().json();
    assert_eq!((&manifest["licence"], &manifest["size"]), (&"Apache-2.0".into(), &1_629_632.into()));
    models(&site, &["validate", "hive-q8_0"]).good();
    // What a model embeds with comes as three files, and the small ones have the digests of git.
    let files = ["model.safetensors", "config.json", "tokenizer.json"].map(|file| (file, bert(file)));
    let hub = Hub::start(&files, Fault::NoParts);
    pulled(&site, Some(&hub), &[REPOSITORY, "--name", "comb"]);
    let manifest = models(&site, &["inspect", "comb"]).good().json();
    let kinds = [&manifest["workload"], &manifest["architecture"], &manifest["dimensions"]];
    assert_eq!(kinds, [&Value::from("embed"), &"bert".into(), &32.into()]);
}

#[test]
fn a_pull_that_is_killed_goes_on_from_where_it_was_and_ctrl_c_ends_one_at_once() {
    let site = Site::new();
    let hub = Hub::start(&[("hive.gguf", weights())], Fault::Stalls(900_000));
    let pull = start(&site, Some(&hub), &["pull", REPOSITORY]);
    wait_for(&site, 900_000);
    let other = start(&site, Some(&hub), &["pull", REPOSITORY]).finish();
    assert!(other.code() == Some(1) && other.stderr.contains("being pulled by another process"), "{other:?}");
    assert_eq!(installed(&site), Vec::<String>::new(), "half of it is no model");
    let told = models(&site, &["list"]).good().stderr;
    assert!(told.contains("KiB of a pull that has not ended are in"), "{told}");
    pull.kill();
    let pull = start(&site, Some(&hub), &["pull", REPOSITORY]);
    eventually("it asks for the rest", || {
        hub.requests().iter().any(|r| r.ends_with("from 900000")).then_some(())
    });
    pull.signal(Signal::INT);
    let told = pull.finish();
    assert!(told.code() == Some(1) && told.stderr.contains("interrupted; what has come stays"), "{told:?}");
    hub.mend();
    let (_, said) = pulled(&site, Some(&hub), &[REPOSITORY]);
    let length = part(&site);
    assert!(said.contains("KiB were there") || said.contains("MiB were there"), "{said}");
    assert_eq!((installed(&site), length), (vec!["hive".to_owned()], None));
    let folder = site.home().join("models");
    assert_eq!(std::fs::read(folder.join("hive/hive.gguf")).unwrap(), weights());
    assert_eq!(std::fs::read_dir(folder).unwrap().count(), 1, "nothing is left of the pull");
}

#[test]
fn a_hub_that_lies_floods_drips_or_is_shut_installs_nothing_and_says_why() {
    let site = Site::new();
    let small_disk = small_disk(&site);
    for (fault, told) in [
        (Fault::Lies, "nothing was installed"),
        (Fault::Endless, "is longer than the 1629632 bytes that were stated"),
        (Fault::Drips, "are too slow"),
        (Fault::Stalls(10), "does not give bee/hive"),
        (Fault::Drops { after: 10, times: 100 }, "does not give bee/hive"),
        (Fault::States(1 << 40), if small_disk { "1.00 TiB on the disk" } else { "its list of files says" }),
        (Fault::States(1 << 60), "a file of its kind has 1 to 1099511627776"),
        (Fault::States(0), "has 0 bytes"),
        (Fault::States(5), "its list of files says 5"),
        (Fault::Down, "it answers 503"),
    ] {
        let hub = Hub::start(&[("hive.gguf", weights())], fault);
        let refused = start(&site, Some(&hub), &["pull", REPOSITORY, "--patience", "1s"]).finish();
        assert!(refused.code() == Some(1) && refused.stderr.contains(told), "{fault:?}: {refused:?}");
        assert!(refused.stderr.lines().count() < 12, "{fault:?}: {refused:?}");
        assert_eq!(installed(&site), Vec::<String>::new(), "{fault:?}");
    }
    let hub = Hub::start(&[("hive.gguf", vec![7; 20_000])], Fault::Nothing);
    let refused = start(&site, Some(&hub), &["pull", REPOSITORY]).finish();
    assert!(refused.stderr.contains("hive cannot be run here: not a GGUF file"), "{refused:?}");
    let hub = Hub::start(&[("a.gguf", weights()), ("b.gguf", weights())], Fault::Gated);
    let several = start(&site, Some(&hub), &["pull", REPOSITORY]).finish();
    assert!(several.code() == Some(1) && several.stderr.contains("there is a.gguf, b.gguf"), "{several:?}");
    pulled(&site, Some(&hub), &["bee/hive/b.gguf"]);
    let mut command = site.command("swarm-node");
    command.args(["models", "pull", REPOSITORY]).env("HF_ENDPOINT", &hub.endpoint).env_remove("HF_TOKEN");
    let gated = Process::start("models", command).finish();
    assert!(gated.code() == Some(1) && gated.stderr.contains("set HF_TOKEN"), "{gated:?}");
    assert!(!gated.stderr.contains(TOKEN));
}

#[test]
fn a_pulled_model_of_safetensors_runs_jobs() {
    let site = Site::new();
    let fixtures = Path::new(env!("CARGO_MANIFEST_DIR")).join("fixtures/decoders/qwen3");
    let file = |name: &str| std::fs::read(fixtures.join(name)).unwrap();
    let tokenizer = swarm_inference::testing::tokenizer_json().into_bytes();
    let files = [("model.safetensors", file("model.safetensors")), ("config.json", file("config.json"))];
    let hub = Hub::start(&[&files[..], &[("tokenizer.json", tokenizer)]].concat(), Fault::Nothing);
    pulled(&site, Some(&hub), &[REPOSITORY]);
    assert_eq!(installed(&site), ["hive"]);
    let _operator = site.operator(&["--model", "hive"]);
    let _miner = site.miner("alice.eth", &["--model", "hive"]);
    let mut job = short_job("the thin cat in the");
    job["model"] = "hive".into();
    let done = site.submit(&site.job("hive", &job)).good().json();
    assert_eq!(done["receipt"]["miner_usdc"], "0.075", "{done}");
}

/// A model that takes a while: behind the weights lies what no tensor names.
fn large(folder: &Path) -> String {
    let mut bytes = weights();
    let mut state = 1u64;
    bytes.extend(
        std::iter::repeat_with(|| {
            state = state.wrapping_mul(6_364_136_223_846_793_005).wrapping_add(1);
            (state >> 33) as u8
        })
        .take(96 * MIB),
    );
    let path = folder.join("large.gguf");
    std::fs::write(&path, bytes).unwrap();
    text(&path)
}

#[test]
fn miners_give_each_other_models_and_a_pull_that_is_killed_goes_on_from_the_last_whole_block() {
    let site = Site::new();
    let (done, _) = pulled(&site, None, &[&large(&site.home())]);
    let cid = done["cid"].as_str().unwrap().to_owned();
    let _operator = site.operator(&[]);
    let miner = site.miner("alice.eth", &["--model", "large"]);
    miner.expect(&format!("models pull {cid}"));
    let told = models(&site, &["remove", "large"]);
    assert!(told.code() == Some(1) && told.stderr.contains("large is in use by process"), "{told:?}");

    let other = Site::new();
    let pull = |args: &[&str]| {
        let mut command = other.command("swarm-node");
        command.env("SWARMPOOL_RUNTIME_DIR", site.runtime()).args(["models", "pull", &cid]).args(args);
        Process::start("pull", command)
    };
    let killed = pull(&[]);
    let part = wait_for(&other, 7 * MIB);
    killed.kill();
    let came = part.metadata().unwrap().len();
    assert!((7 * MIB as u64..97 * MIB as u64).contains(&came), "it was not killed in the middle: {came}");
    // What came is not believed: one wrong byte, and what follows it comes again.
    let mut bytes = std::fs::read(&part).unwrap();
    bytes[5 * MIB + 10] ^= 1;
    std::fs::write(&part, bytes).unwrap();
    assert_eq!(installed(&other), Vec::<String>::new());
    let done = pull(&["--json"]).finish().good();
    assert!(done.stderr.contains("5.00 MiB were there"), "{done:?}");
    assert_eq!(done.json()["cid"], *cid);
    let same = |site: &Site| std::fs::read(site.home().join("models/large/large.gguf")).unwrap();
    assert!(same(&other) == same(&site));
    assert_eq!(installed(&other), ["large"]);

    miner.terminate();
    let told = models(&site, &["remove", "large"]).good();
    assert!(told.stdout.contains("large is removed, 97.5"), "{told:?}");
    let told = pull(&["--patience", "2s", "--name", "again"]).finish();
    assert!(told.code() == Some(1) && told.stderr.contains("was not fetched"), "{told:?}");
}

#[tokio::test(flavor = "multi_thread")]
async fn what_a_stranger_publishes_with_a_wrong_digest_is_not_installed() {
    let site = Site::new();
    let mut bad = weights();
    bad[1_000_000] ^= 1;
    let manifest = std::fs::read_to_string(queenbee().join("manifest.json")).unwrap();
    let manifest = manifest.replace("\"queenbee-nano\"", "\"wasp\"");
    let store = Arc::new(BlockStore::in_memory(64 << 20).unwrap());
    let publish = |files: &[(&str, &[u8])]| {
        let mut links = Vec::new();
        for (name, bytes) in files {
            let (cid, blocks) = import(bytes);
            let borrowed: Vec<_> = blocks.iter().map(|(cid, block)| (*cid, block.as_slice())).collect();
            store.put_pinned(&borrowed).unwrap();
            links.push((*name, Child { cid, length: bytes.len() as u64, size: bytes.len() as u64 }));
        }
        let folder = encode_folder(&links);
        let cid = swarm_protocol::codec::dag_pb_cid(&folder);
        store.put_pinned(&[(cid, &folder)]).unwrap();
        cid.to_string()
    };
    let file = "queenbee-nano-q8_0.gguf";
    let traversing = manifest.replace(file, "../../x.gguf");
    let table = [
        (publish(&[("manifest.json", manifest.as_bytes()), (file, &bad)]), "its source says 4a83651f"),
        (
            publish(&[("manifest.json", manifest.as_bytes()), (file, &bad[..1_000])]),
            "cannot be read as a model",
        ),
        (publish(&[("manifest.json", manifest.as_bytes())]), "which it has not"),
        (publish(&[("manifest.json", traversing.as_bytes())]), "file name without folders"),
        (publish(&[("manifest.json", &[b' '; 70_000])]), "over the limit"),
        (publish(&[(file, &bad)]), "it has no manifest.json"),
    ];
    let _stranger = Peer::with(&site, "miner", store.clone()).await;
    for (cid, told) in table {
        let refused = tokio::task::block_in_place(|| models(&site, &["pull", &cid]));
        assert!(refused.code() == Some(1) && refused.stderr.contains(told), "{told}: {refused:?}");
    }
    assert_eq!(tokio::task::block_in_place(|| installed(&site)), Vec::<String>::new());
}
