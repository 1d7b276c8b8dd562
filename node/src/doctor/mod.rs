//! What a GPU owner needs to know before mining and when it does not work: a row for each thing that must be right.
//!
//! It changes nothing: no folder is made, no operator remembered, and nodes that run here go on.

mod machine;
mod models;
mod pool;

use crate::cli::{Exit, NodeArgs, UserError};
use crate::providers::Providers;
use crate::tables::{Column, column, table};
use crate::words::clean;
use anyhow::Result;
use serde::Serialize;
use serde_json::json;
use std::io::Write;

/// The columns of the table; what to do stands below it.
const COLUMNS: [Column; 3] = [column("what", 24, 0), column("", 4, 0), column("found", 120, 0)];

/// One thing that was looked at. `docs/status.md` describes its JSON.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
struct Check {
    check: String,
    state: State,
    found: String,
    #[serde(skip_serializing_if = "Option::is_none")]
    advice: Option<String>,
}

/// How it is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize)]
#[serde(rename_all = "lowercase")]
enum State {
    /// As it should be.
    Ok,
    /// Not as it should be.
    Fail,
    /// Not there, and not needed.
    None,
}

impl State {
    fn word(self) -> &'static str {
        match self {
            State::Ok => "OK",
            State::Fail => "FAIL",
            State::None => "-",
        }
    }
}

fn ok(check: impl Into<String>, found: impl Into<String>) -> Check {
    Check { check: check.into(), state: State::Ok, found: found.into(), advice: None }
}

fn none(check: impl Into<String>, found: impl Into<String>) -> Check {
    Check { state: State::None, ..ok(check, found) }
}

fn fail(check: impl Into<String>, found: impl Into<String>, advice: impl Into<String>) -> Check {
    Check { state: State::Fail, advice: Some(advice.into()), ..ok(check, found) }
}

/// A failure whose text says after the last semicolon what to do, as errors here do.
fn failed(check: impl Into<String>, error: &dyn std::fmt::Display) -> Check {
    let text = error.to_string();
    let (found, advice) = text.rsplit_once("; ").unwrap_or((&text, "see the log with -v"));
    fail(check, found, advice)
}

/// Looks at everything, prints what was found, and fails if anything is not as it should be.
pub async fn show(args: &NodeArgs, json: bool) -> Result<Exit> {
    tracing::info!("looking at this machine, its models and the pool {}", args.pool.pool);
    let miner = args.miner.clone();
    let providers = tokio::task::spawn_blocking(move || Providers::of(&miner)).await?;
    let devices = providers.as_ref().map_or(&[][..], |providers| &providers.devices);
    let mut checks = machine::checks(args, devices)?;
    let manifests = args.models.clone();
    match providers {
        Ok(providers) => checks.extend(
            tokio::task::spawn_blocking(move || models::checks(&providers.registry, &manifests)).await?,
        ),
        Err(error) => checks.push(match error.downcast_ref::<UserError>() {
            Some(UserError { message, hint: Some(hint), .. }) => fail("engine", message, hint),
            _ => failed("engine", &error),
        }),
    }
    checks.extend(pool::checks(args).await?);
    let is_well = checks.iter().all(|check| check.state != State::Fail);
    let text = if json { format!("{}\n", json!({ "ok": is_well, "checks": checks })) } else { page(&checks) };
    // A closed pipe is no reason to complain.
    let _ = std::io::stdout().lock().write_all(text.as_bytes());
    Ok(if is_well { Exit::Done } else { Exit::Failed })
}

fn page(checks: &[Check]) -> String {
    let cells = |check: &Check| vec![clean(&check.check), check.state.word().to_owned(), clean(&check.found)];
    let mut text = table(&COLUMNS, &checks.iter().map(cells).collect::<Vec<_>>());
    for check in checks {
        if let Some(advice) = &check.advice {
            text.push_str(&format!("  → {}: {}\n", clean(&check.check), clean(advice)));
        }
    }
    text
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn an_error_says_what_is_wrong_and_what_to_do() {
        let check = failed("clock", &"a clock is off: 40 s; by far; set it");
        assert_eq!(check, fail("clock", "a clock is off: 40 s; by far", "set it"));
        let page = page(&[ok("disk", "9 GiB free"), none("gpu", "none\u{1b}[2J"), check]);
        assert_eq!(
            page,
            "  what         found\n  disk   OK    9 GiB free\n  gpu    -     none\u{fffd}[2J\n  clock  FAIL  a clock is off: 40 s; by far\n  → clock: set it\n"
        );
    }
}
