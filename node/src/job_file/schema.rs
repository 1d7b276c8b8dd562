//! The published schema, `docs/job.schema.json`.

use std::sync::LazyLock;

use jsonschema::Validator;
use serde_json::Value;

/// The schema as published.
pub const SCHEMA: &str = include_str!("../../../docs/job.schema.json");

static VALIDATOR: LazyLock<Validator> = LazyLock::new(|| {
    let schema: Value = serde_json::from_str(SCHEMA).expect("a test reads the schema");
    jsonschema::validator_for(&schema).expect("a test compiles the schema")
});

/// Refuses what the schema refuses, in its own words.
pub(super) fn check(job: &Value) -> Result<(), String> {
    VALIDATOR.validate(job).map_err(|error| {
        let place = error.instance_path().to_string();
        format!("{} breaks docs/job.schema.json: {error}", place.trim_start_matches('/').replace('/', "."))
    })
}
