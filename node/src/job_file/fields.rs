//! The fields of one object of a job file, each read once, with messages that name them.

use super::json::Json;
use crate::cli::nearest;
use std::fmt;

const MAX_SHOWN: usize = 40;

/// What is wrong with which field.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Fault {
    path: String,
    problem: String,
}

impl Fault {
    pub(super) fn new(path: impl Into<String>, problem: impl Into<String>) -> Self {
        Self { path: path.into(), problem: problem.into() }
    }
}

impl fmt::Display for Fault {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(formatter, "{} {}", self.path, self.problem)
    }
}

/// A value that was written, cut to what fits into a line.
pub(super) fn shown(text: &str) -> String {
    let mut cut: String =
        text.chars().take(MAX_SHOWN).map(|c| if c.is_control() { ' ' } else { c }).collect();
    if text.chars().nth(MAX_SHOWN).is_some() {
        cut.push('…');
    }
    cut
}

/// A value and where it stands.
#[derive(Debug, Clone)]
pub(super) struct Field<'a> {
    pub(super) path: String,
    value: &'a Json,
}

/// An object whose names are all known.
#[derive(Debug)]
pub(super) struct Fields<'a> {
    path: String,
    entries: &'a [(String, Json)],
}

impl<'a> Fields<'a> {
    /// Refuses what is no object, and names outside `known`.
    pub(super) fn of(field: &Field<'a>, known: &[&str]) -> Result<Self, Fault> {
        let Json::Object(entries) = field.value else {
            return Err(field.not("an object in braces"));
        };
        let fields = Self { path: field.path.clone(), entries };
        match entries.iter().find(|(name, _)| !known.contains(&name.as_str())) {
            Some((name, _)) => Err(fields.unknown(name, known)),
            None => Ok(fields),
        }
    }

    fn unknown(&self, name: &str, known: &[&str]) -> Fault {
        let place = if self.path.is_empty() { "a job file" } else { &self.path };
        let problem = match nearest(name, known) {
            Some(near) => format!("is not a field of {place}; did you mean \"{near}\"?"),
            None => format!("is not a field of {place}, which has: {}", known.join(", ")),
        };
        Fault::new(self.at(&shown(name)), problem)
    }

    pub(super) fn at(&self, name: &str) -> String {
        if self.path.is_empty() { name.to_owned() } else { format!("{}.{name}", self.path) }
    }

    pub(super) fn get(&self, name: &str) -> Option<Field<'a>> {
        let (_, value) = self.entries.iter().find(|(found, _)| found == name)?;
        Some(Field { path: self.at(name), value })
    }

    /// The field, or a fault that shows what to add.
    pub(super) fn require(&self, name: &str, example: &str) -> Result<Field<'a>, Fault> {
        let missing = || Fault::new(self.at(name), format!("is missing; add \"{name}\": {example}"));
        self.get(name).ok_or_else(missing)
    }

    /// A whole number in `range`, or `default`.
    pub(super) fn whole(&self, name: &str, range: (u64, u64), default: u64) -> Result<u64, Fault> {
        self.get(name).map_or(Ok(default), |field| field.whole(range))
    }
}

impl<'a> Field<'a> {
    pub(super) fn root(value: &'a Json) -> Self {
        Self { path: String::new(), value }
    }

    pub(super) fn not(&self, expected: &str) -> Fault {
        let path = if self.path.is_empty() { "the file" } else { &self.path };
        Fault::new(path, format!("must be {expected}, not {}", self.value.kind()))
    }

    /// True for an object with a field of that name.
    pub(super) fn has(&self, name: &str) -> bool {
        matches!(self.value, Json::Object(entries) if entries.iter().any(|(found, _)| found == name))
    }

    /// Text that is not empty.
    pub(super) fn text(&self) -> Result<&'a str, Fault> {
        match self.string("text in quotes")? {
            "" => Err(Fault::new(&self.path, "must not be empty")),
            text => Ok(text),
        }
    }

    /// Text, or a fault that says what was `expected`.
    pub(super) fn string(&self, expected: &str) -> Result<&'a str, Fault> {
        match self.value {
            Json::Text(text) => Ok(text),
            _ => Err(self.not(expected)),
        }
    }

    /// One of the words in `choices`.
    pub(super) fn choice(&self, choices: &[&'static str]) -> Result<&'static str, Fault> {
        let text = self.text()?;
        let unknown = || {
            let quoted: Vec<String> = choices.iter().map(|choice| format!("\"{choice}\"")).collect();
            Fault::new(&self.path, format!("must be {}, not \"{}\"", quoted.join(" or "), shown(text)))
        };
        choices.iter().find(|choice| **choice == text).copied().ok_or_else(unknown)
    }

    /// A list of at most `max` values.
    pub(super) fn list(&self, max: usize) -> Result<Vec<Field<'a>>, Fault> {
        let Json::List(items) = self.value else {
            return Err(self.not("a list in brackets"));
        };
        if items.len() > max {
            return Err(Fault::new(&self.path, format!("has {} entries; {max} is the most", items.len())));
        }
        let item = |(index, value)| Field { path: format!("{}[{index}]", self.path), value };
        Ok(items.iter().enumerate().map(item).collect())
    }

    /// A whole number from `least` to `most`.
    pub(super) fn whole(&self, (least, most): (u64, u64)) -> Result<u64, Fault> {
        let Json::Number(text) = self.value else {
            return Err(self.not("a whole number"));
        };
        if text.contains(['.', 'e', 'E']) {
            return Err(Fault::new(&self.path, format!("must be a whole number, not {}", shown(text))));
        }
        let range = || Fault::new(&self.path, format!("must be {least} to {most}, not {}", shown(text)));
        text.parse().ok().filter(|n| (least..=most).contains(n)).ok_or_else(range)
    }

    /// A decimal number from `least` to `most`, all in 1/10000, read without rounding.
    pub(super) fn ten_thousandths(&self, (least, most): (u32, u32)) -> Result<u32, Fault> {
        let (Json::Number(text) | Json::Text(text)) = self.value else {
            return Err(self.not("a number"));
        };
        let fault = |problem: &str| Fault::new(&self.path, format!("{problem}, not {}", shown(text)));
        let (whole, fraction) = text.split_once('.').unwrap_or((text, "0"));
        let digits = |part: &str| !part.is_empty() && part.bytes().all(|b| b.is_ascii_digit());
        if !digits(whole.strip_prefix('-').unwrap_or(whole)) || !digits(fraction) {
            return Err(fault("must be a plain decimal number such as 0.7"));
        }
        if fraction.len() > 4 {
            return Err(fault("must have at most four decimals"));
        }
        let range = format!("must be {} to {}", written(least), written(most));
        let units = format!("{whole}{fraction:0<4}").parse().ok();
        units.filter(|units| (least..=most).contains(units)).ok_or_else(|| fault(&range))
    }
}

fn written(units: u32) -> String {
    let text = format!("{}.{:04}", units / 10_000, units % 10_000);
    text.trim_end_matches('0').trim_end_matches('.').to_owned()
}
