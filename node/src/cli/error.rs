use std::error::Error;
use std::fmt;
use std::process::ExitCode;

/// How a program ends.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Exit {
    /// Everything that was asked for is done.
    Done,
    /// The job or the input failed.
    Failed,
    /// Something unexpected, or the program was misused.
    Misused,
}

impl Exit {
    /// The number that the shell sees.
    pub fn number(self) -> u8 {
        match self {
            Exit::Done => 0,
            Exit::Failed => 1,
            Exit::Misused => 2,
        }
    }
}

impl From<Exit> for ExitCode {
    fn from(exit: Exit) -> ExitCode {
        ExitCode::from(exit.number())
    }
}

/// A mistake that a person can mend: what is wrong, and what to do about it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct UserError {
    pub message: String,
    pub hint: Option<String>,
    pub code: Exit,
}

impl UserError {
    /// The job or the input is at fault.
    pub fn input(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, code: Exit::Failed }
    }

    /// The program was started wrongly, or finds something that it cannot work with.
    pub fn misuse(message: impl Into<String>) -> Self {
        Self { message: message.into(), hint: None, code: Exit::Misused }
    }

    /// Says what to do next.
    #[must_use]
    pub fn hint(self, hint: impl Into<String>) -> Self {
        Self { hint: Some(hint.into()), ..self }
    }
}

impl fmt::Display for UserError {
    fn fmt(&self, formatter: &mut fmt::Formatter<'_>) -> fmt::Result {
        formatter.write_str(&self.message)
    }
}

impl Error for UserError {}

/// Tells the user on stderr what went wrong and what to do, and gives the exit code.
///
/// Errors that are no [`UserError`] say in their text what is wrong and then, after `; `, what to do.
pub fn report(error: &anyhow::Error) -> ExitCode {
    let (text, exit) = described(error);
    eprintln!("{text}");
    exit.into()
}

fn described(error: &anyhow::Error) -> (String, Exit) {
    let known = error.chain().find_map(|cause| cause.downcast_ref::<UserError>());
    let (message, hint, exit) = match known {
        Some(error) => (error.message.clone(), error.hint.clone(), error.code),
        None => {
            let text = chain(error);
            let (message, hint) =
                text.split_once("; ").unwrap_or((&text, "run it again with -v to see more"));
            (message.to_owned(), Some(hint.to_owned()), Exit::Misused)
        }
    };
    let hint = hint.map(|hint| format!("\n  → {}", one_line(&hint))).unwrap_or_default();
    (format!("error: {}{hint}", one_line(&message)), exit)
}

/// What went wrong and why, each cause once: some errors repeat theirs in their own text.
fn chain(error: &anyhow::Error) -> String {
    let mut text = String::new();
    for cause in error.chain().map(ToString::to_string) {
        if text.is_empty() {
            text = cause;
        } else if !text.contains(&cause) {
            text = format!("{text}: {cause}");
        }
    }
    text
}

fn one_line(text: &str) -> String {
    text.split_whitespace().collect::<Vec<_>>().join(" ")
}

/// The first paragraph of what the argument parser says, on one line.
pub(crate) fn clap_message(error: &clap::Error) -> String {
    let text = error.render().to_string();
    let message = text.split("\n\n").next().unwrap_or_default();
    one_line(message.strip_prefix("error: ").unwrap_or(message))
}

/// A mistake found by the argument parser.
pub(super) fn from_clap(error: &clap::Error, program: &str) -> UserError {
    let text = error.render().to_string();
    let tip = text.split("\n\n").find_map(|paragraph| paragraph.trim().strip_prefix("tip: ").map(one_line));
    // It cannot know that no command here takes such a value.
    let tip = tip.filter(|tip| !tip.starts_with("to pass "));
    UserError::misuse(clap_message(error)).hint(tip.unwrap_or_else(|| format!("see {program} --help")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use anyhow::Context;

    #[test]
    fn mistakes_are_one_line_and_what_to_do() {
        let mistake = UserError::input("job.json: model is missing").hint("add it");
        let wrapped = anyhow::Error::new(mistake).context("submitting");
        let expected = ("error: job.json: model is missing\n  → add it".to_owned(), Exit::Failed);
        assert_eq!(described(&wrapped), expected);
    }

    #[test]
    fn the_unexpected_keeps_its_causes_and_exits_with_two() {
        let error =
            Err::<(), _>(std::io::Error::other("disk\non fire")).context("writing the log").unwrap_err();
        let (text, exit) = described(&error);
        assert_eq!(text, "error: writing the log: disk on fire\n  → run it again with -v to see more");
        assert_eq!(exit, Exit::Misused);
    }
}
