use std::io::Read;

use swarm_inference::testing::{Shape, manifest, model};
use swarm_inference::{Manifest, ManifestError, Model, Weights};

fn json(model: &Model) -> String {
    serde_json::to_string(&model.manifest).unwrap()
}

#[test]
fn a_manifest_round_trips_and_unknown_fields_are_refused() {
    let manifest = manifest("some");
    let json = serde_json::to_string(&manifest).unwrap();
    assert_eq!(Manifest::from_json(&json).unwrap(), manifest);
    let extra = json.replacen('{', r#"{"colour":"red","#, 1);
    assert!(matches!(Manifest::from_json(&extra), Err(ManifestError::Json(_))));
}

#[test]
fn fields_out_of_range_are_named() {
    let json = serde_json::to_value(manifest("some")).unwrap();
    let cases = [
        ("name", serde_json::json!("")),
        ("file", serde_json::json!("../secret")),
        ("file", serde_json::json!("..")),
        ("size", serde_json::json!(0)),
        ("blake3", serde_json::json!("AB".repeat(32))),
        ("context_length", serde_json::json!(0)),
        ("vocab_size", serde_json::json!(1 << 20)),
        ("top_k", serde_json::json!(257)),
        ("tolerance", serde_json::json!({ "mean": 1 << 21, "worst": 1, "strangers": 1, "strays": 1 })),
        ("tolerance", serde_json::json!({ "mean": 1, "worst": 1, "strangers": 1, "strays": 10_001 })),
    ];
    for (name, value) in cases {
        let mut json = json.clone();
        json[name] = value;
        match Manifest::from_json(&json.to_string()) {
            Err(ManifestError::Field { field, .. }) => assert_eq!(field, name),
            other => panic!("{name}: {other:?}"),
        }
    }
}

#[test]
fn weights_with_another_digest_are_refused_with_both() {
    let model = model("tiny", Shape::default()).unwrap();
    let Weights::Memory(bytes) = &model.weights else {
        panic!("generated models are in memory");
    };
    let mut damaged = bytes.to_vec();
    *damaged.last_mut().unwrap() ^= 1;
    let found = blake3::hash(&damaged).to_hex().to_string();
    let changed = Model { weights: Weights::Memory(damaged.into()), ..model.clone() };
    let error = changed.open().err().unwrap().to_string();
    assert!(error.contains(&found) && error.contains(&model.manifest.blake3), "{error}");
    let short = Model { weights: Weights::Memory(bytes[1..].into()), ..model };
    assert!(matches!(short.open(), Err(ManifestError::Size { .. })));
}

#[test]
fn a_file_beside_its_manifest_is_opened_at_its_start() {
    let folder = tempfile::tempdir().unwrap();
    let model = model("tiny", Shape::default()).unwrap();
    let path = folder.path().join("manifest.json");
    std::fs::write(&path, json(&model)).unwrap();
    let on_disk = Model::from_manifest_file(&path).unwrap();
    assert!(matches!(on_disk.open(), Err(ManifestError::Read { .. })));
    let Weights::Memory(bytes) = &model.weights else {
        panic!("generated models are in memory");
    };
    let file = folder.path().join(&model.manifest.file);
    std::fs::write(&file, bytes).unwrap();
    let mut read = Vec::new();
    on_disk.open().unwrap().read_to_end(&mut read).unwrap();
    assert_eq!(read, **bytes);
    std::fs::write(&file, vec![0; bytes.len()]).unwrap();
    assert!(matches!(on_disk.open(), Err(ManifestError::Digest { .. })));
}
