//! The file of `--config`: settings named like the flags, which beat them.

use std::ffi::OsString;
use std::fs::File;
use std::io::Read;
use std::path::{Path, PathBuf};

use clap::{Arg, Command};
use toml::{Table, Value};

use crate::cli::{UserError, nearest};

/// The largest settings file, in bytes.
pub const MAX_CONFIG_BYTES: u64 = 64 * 1024;

const VARIABLE: &str = "SWARMPOOL_CONFIG";
const NOT_SETTINGS: [&str; 4] = ["config", "help", "version", "verbose"];

/// The file that the arguments, or else the environment, name.
pub fn path(arguments: &[OsString]) -> Option<PathBuf> {
    let mut rest = arguments.iter().skip(1).take_while(|argument| *argument != "--");
    while let Some(argument) = rest.next() {
        if argument == "--config" {
            return rest.next().map(PathBuf::from);
        }
        if let Some(path) = argument.to_str().and_then(|text| text.strip_prefix("--config=")) {
            return Some(PathBuf::from(path));
        }
    }
    std::env::var_os(VARIABLE).filter(|value| !value.is_empty()).map(PathBuf::from)
}

/// Makes the file's settings the defaults of `command`, so that flags and variables go before them.
pub fn apply(command: Command, path: &Path) -> Result<Command, UserError> {
    let fault = |problem: String| {
        UserError::misuse(format!("{}: {problem}", path.display()))
            .hint("correct the file; swarm-node --help and swarm-client --help list all settings")
    };
    let table = read(path)?;
    let known: Vec<&str> = command.get_arguments().filter_map(Arg::get_long).filter(is_setting).collect();
    let mut settings = Vec::new();
    for (name, value) in &table {
        if !known.contains(&name.as_str()) {
            return Err(unknown(name, &known, path));
        }
        let values = written(value).map_err(|problem| fault(format!("{name} {problem}")))?;
        // An empty text is no value, and an empty list has none: the flag stays what it is.
        if values.iter().any(|value| !value.is_empty()) {
            settings.push((name.clone(), values));
        }
    }
    let command = settings.into_iter().fold(command, with_default);
    check(&command).map_err(|error| fault(crate::cli::clap_message(&error)))?;
    Ok(command)
}

fn is_setting(name: &&str) -> bool {
    !NOT_SETTINGS.contains(name)
}

fn read(path: &Path) -> Result<Table, UserError> {
    let name = path.display();
    let mut text = String::new();
    File::open(path).and_then(|file| file.take(MAX_CONFIG_BYTES + 1).read_to_string(&mut text)).map_err(
        |error| UserError::misuse(format!("{name} cannot be read: {error}")).hint("check --config"),
    )?;
    if text.len() as u64 > MAX_CONFIG_BYTES {
        return Err(UserError::misuse(format!("{name} has more than {MAX_CONFIG_BYTES} bytes"))
            .hint("name a file of settings with --config"));
    }
    text.parse().map_err(|error: toml::de::Error| {
        let at = error.span().map_or(0, |span| span.start);
        let line = text[..at].matches('\n').count() + 1;
        UserError::misuse(format!("{name}: line {line}: {}", error.message()))
            .hint("write lines such as pool = \"swarmpool.eth\"")
    })
}

fn unknown(name: &str, known: &[&str], path: &Path) -> UserError {
    let error = UserError::misuse(format!("{}: {name} is not a setting", path.display()));
    match nearest(name, known) {
        Some(near) => error.hint(format!("did you mean {near}?")),
        None => error.hint(format!("the settings are: {}", known.join(", "))),
    }
}

fn written(value: &Value) -> Result<Vec<String>, String> {
    Ok(vec![match value {
        Value::String(text) => text.clone(),
        Value::Integer(number) => number.to_string(),
        Value::Boolean(yes) => yes.to_string(),
        Value::Array(items) => {
            let texts = items.iter().map(|item| item.as_str().map(str::to_owned));
            return texts
                .collect::<Option<_>>()
                .ok_or_else(|| "must be a list of texts in quotes".to_owned());
        }
        Value::Float(_) | Value::Datetime(_) => return Err("must be written in quotes".to_owned()),
        Value::Table(_) => return Err("is no section: settings stand at the top".to_owned()),
    }])
}

fn with_default(command: Command, (name, values): (String, Vec<String>)) -> Command {
    let id =
        command.get_arguments().find(|argument| argument.get_long() == Some(&name)).map(Arg::get_id).cloned();
    match id {
        Some(id) => command.mut_arg(id, |argument| argument.default_values(values).required(false)),
        None => command,
    }
}

/// The file's values have to hold without any flag or variable.
fn check(command: &Command) -> Result<(), clap::Error> {
    let bare = |argument: Arg| argument.env(None::<&'static str>).required(false);
    let alone = command.clone().mut_args(bare).subcommand_required(false).arg_required_else_help(false);
    alone.try_get_matches_from([command.get_name().to_owned()]).map(|_| ())
}
