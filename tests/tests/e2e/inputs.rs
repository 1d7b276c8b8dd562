//! Inputs that are files of several blocks, good ones and such as nobody should have to fetch.

use crate::harness::{Site, job_of, short_id, short_job, text};
use cid::Cid;
use serde_json::json;
use std::convert::Infallible;
use swarm_node::content::{Shape, Writer, car::CarWriter, import};

const MIB: usize = 1 << 20;

#[test]
fn a_prompt_of_several_blocks_is_kept_by_the_operator() {
    let site = Site::new();
    let operator = site.operator(&[]);
    let prompt: String = (0..3 * MIB / 8).map(|n| format!("{n:7} ")).collect();
    let file = site.home().join("prompt.txt");
    std::fs::write(&file, &prompt).unwrap();
    let mut job = job_of("", 8);
    job["input"] = json!({ "file": text(&file) });
    let client = site.start_client(&["submit", &text(&site.job("long.json", &job))]);
    operator.expect("new job");
    client.kill();
    let (root, blocks) = import(prompt.as_bytes());
    assert_eq!(blocks.len(), 4, "three leaves and a root");
    let kept = site.home().join("kept.txt");
    site.client(&["get", &root.to_string(), "--out", &text(&kept)]).good();
    assert!(std::fs::read_to_string(&kept).unwrap() == prompt);
    operator.terminate().good();
}

/// A file cut in this way, whose blocks go into an archive.
fn cut(content: &[u8], shape: Shape, archive: &mut CarWriter<std::fs::File>) -> Cid {
    let mut writer = Writer::with_shape(shape);
    let mut store = |cid, block: Vec<u8>| {
        archive.put(&cid, &block).unwrap();
        Ok::<(), Infallible>(())
    };
    let Ok(()) = writer.push(content, &mut store);
    let Ok(root) = writer.finish(&mut store);
    root.cid
}

#[test]
fn files_that_are_not_what_they_should_be_are_refused_by_name_beside_honest_jobs() {
    let site = Site::new();
    let path = site.home().join("files.car");
    let mut archive = CarWriter::new(std::fs::File::create(&path).unwrap(), &[]).unwrap();
    let ordinary = Shape { chunk: 1000, links: 100 };
    let letters = vec![b'a'; 20_000];
    let mut bytes = letters.clone();
    bytes[12_345] = 0xff;
    let files = [
        (cut(&letters, ordinary, &mut archive), 20_001, "lengths in the file's nodes contradict one another"),
        (cut(&bytes, ordinary, &mut archive), 20_000, "the input is not UTF-8 text"),
        (cut(&letters, Shape { chunk: 1, links: 20_000 }, &mut archive), 20_000, "too many links"),
        (cut(&letters, Shape { chunk: 40, links: 2 }, &mut archive), 20_000, "lie too deep"),
        // One leaf, linked again and again: a few blocks on disk, a thousand to read.
        (cut(&letters, Shape { chunk: 20, links: 40 }, &mut archive), 20_000, "too many blocks"),
    ];
    archive.finish().unwrap();
    let operator = site.operator(&[]);
    let miner = site.miner("bob.eth", &["--import", &text(&path)]);
    for (n, (root, bytes, why)) in files.iter().enumerate() {
        let mut job = short_job("");
        job["input"] = json!({ "cid": root.to_string(), "bytes": bytes });
        let refused = site.submit(&site.job("bad.json", &job));
        assert!(refused.code() == Some(1) && refused.stderr.contains(why), "{why}: {refused:?}");
        let honest = site.submit(&site.job("good.json", &short_job(&format!("Honest {n}")))).good().json();
        assert!(!operator.lines_with(&short_id(honest["job"].as_str().unwrap())).is_empty());
    }
    miner.terminate().good();
    operator.terminate().good();
}
