//! What was checked, and what came of it.

use super::Session;
use crate::cli::{Exit, UserError};
use anyhow::Result;
use serde_json::{Value, json};

/// One thing that was checked.
#[derive(Clone)]
pub(super) struct Check {
    pub what: &'static str,
    pub found: Found,
}

#[derive(Clone)]
pub(super) enum Found {
    True(String),
    False(String),
    Open(String),
}

pub(super) fn yes(what: &'static str, text: impl Into<String>) -> Check {
    Check { what, found: Found::True(text.into()) }
}

pub(super) fn no(what: &'static str, text: impl Into<String>) -> Check {
    Check { what, found: Found::False(text.into()) }
}

pub(super) fn open(what: &'static str, text: impl Into<String>) -> Check {
    Check { what, found: Found::Open(text.into()) }
}

impl Found {
    fn word(&self) -> (&'static str, &str) {
        match self {
            Found::True(text) => ("ok", text),
            Found::False(text) => ("FALSE", text),
            Found::Open(text) => ("open", text),
        }
    }
}

/// Prints the checks: a table, or one JSON object beside `about`; the first that failed is the error.
pub(super) fn report(
    session: &Session,
    about: (&'static str, Value),
    checks: &[Check],
    hint: impl FnOnce(&str) -> &'static str,
) -> Result<Exit> {
    session.printer.finish();
    let (subject, value) = about;
    if session.printer.is_json() {
        let rows = checks.iter().map(|check| {
            let (result, text) = check.found.word();
            json!({ "check": check.what, "result": result.to_lowercase(), "detail": text })
        });
        let rows: Vec<_> = rows.collect();
        session.printer.object(&json!({ subject: value, "checks": rows }));
    } else {
        let line = |check: &Check| {
            let (result, text) = check.found.word();
            format!("{result:<6} {:<10} {text}", check.what)
        };
        let lines: Vec<String> = checks.iter().map(line).collect();
        session.printer.answer(lines.join("\n").as_bytes());
    }
    let wrong = checks.iter().find_map(|check| match &check.found {
        Found::False(text) => Some((check.what, text)),
        Found::True(_) | Found::Open(_) => None,
    });
    match wrong {
        Some((what, text)) => {
            Err(UserError::input(format!("the {subject} is not good: {text}")).hint(hint(what)).into())
        }
        None => Ok(Exit::Done),
    }
}
