//! JSON as written: numbers keep their text, and no name stands twice in one object.

use std::fmt;

use serde::Deserializer;
use serde::de::{MapAccess, Visitor};
use serde_json::value::RawValue;

/// A JSON value whose numbers are exact.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Json {
    Null,
    Bool(bool),
    Number(String),
    Text(String),
    List(Vec<Json>),
    Object(Vec<(String, Json)>),
}

impl Json {
    /// What it is, for people.
    pub(super) fn kind(&self) -> &'static str {
        match self {
            Json::Null => "null",
            Json::Bool(_) => "true or false",
            Json::Number(_) => "a number",
            Json::Text(_) => "text",
            Json::List(_) => "a list",
            Json::Object(_) => "an object",
        }
    }
}

/// Why text is not usable JSON.
#[derive(Debug)]
pub(super) enum Error {
    Syntax(serde_json::Error),
    Duplicate(String),
}

impl From<serde_json::Error> for Error {
    fn from(error: serde_json::Error) -> Self {
        Error::Syntax(error)
    }
}

/// Reads `text`, which serde_json must have accepted before: positions in errors are relative to a part of it.
pub(super) fn parse(text: &str) -> Result<Json, Error> {
    value(serde_json::from_str::<&RawValue>(text)?, "")
}

fn value(raw: &RawValue, path: &str) -> Result<Json, Error> {
    let text = raw.get();
    Ok(match text.as_bytes().first() {
        Some(b'{') => Json::Object(object(text, path)?),
        Some(b'[') => {
            let items: Vec<&RawValue> = serde_json::from_str(text)?;
            let item = |(index, raw): (usize, &&RawValue)| value(raw, &format!("{path}[{index}]"));
            Json::List(items.iter().enumerate().map(item).collect::<Result<_, _>>()?)
        }
        Some(b'"') => Json::Text(serde_json::from_str(text)?),
        Some(b't' | b'f') => Json::Bool(serde_json::from_str(text)?),
        Some(b'n') => Json::Null,
        Some(_) | None => Json::Number(text.to_owned()),
    })
}

fn object(text: &str, path: &str) -> Result<Vec<(String, Json)>, Error> {
    let entries = serde_json::Deserializer::from_str(text).deserialize_map(Entries)?;
    let mut fields: Vec<(String, Json)> = Vec::with_capacity(entries.len());
    let mut seen = std::collections::BTreeSet::new();
    for (name, raw) in entries {
        let path = if path.is_empty() { name.clone() } else { format!("{path}.{name}") };
        if !seen.insert(name.clone()) {
            return Err(Error::Duplicate(path));
        }
        fields.push((name, value(raw, &path)?));
    }
    Ok(fields)
}

struct Entries;

impl<'de> Visitor<'de> for Entries {
    type Value = Vec<(String, &'de RawValue)>;

    fn expecting(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str("an object")
    }

    fn visit_map<A: MapAccess<'de>>(self, mut map: A) -> Result<Self::Value, A::Error> {
        let mut entries = Vec::new();
        while let Some(entry) = map.next_entry()? {
            entries.push(entry);
        }
        Ok(entries)
    }
}
