//! The command lines of `swarm-node` and `swarm-client`, and how both end.

use std::ffi::{OsStr, OsString};
use std::io::IsTerminal;
use std::process::ExitCode;

use clap::{ArgMatches, CommandFactory, FromArgMatches};

use crate::config;

mod client;
mod dispatch;
mod error;
mod models;
mod node;
mod shared;
#[cfg(test)]
mod tests;
mod values;

pub use client::{
    AuditArgs, ClientArgs, ClientCommand, EarningsArgs, GetArgs, HistoryArgs, OutputArgs, ReadingArgs,
    SealedArgs, SubmitArgs, VerifyArgs,
};
pub(crate) use error::clap_message;
pub use error::{Exit, UserError, report};
pub use models::{ModelsCommand, PullArgs};
pub use node::{
    AccelMode, ContentArgs, LedgerKind, LimitArgs, MetricsArgs, MinerArgs, NodeArgs, NodeCommand, NodeRole,
    OperatorArgs, Payout, RedisArgs,
};
pub use shared::{FileArgs, LogArgs, NetworkArgs, PoolArgs};
pub(crate) use values::nearest;
pub use values::{ContentPath, Earner, Subject};

const NODE_LOG: &str = "warn,libp2p_gossipsub=error,swarm_node=info";
const CLIENT_LOG: &str = "error";

/// All of `swarm-node`.
pub fn node_main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    end(match parse::<NodeArgs>(arguments.into_iter().collect()) {
        Ok(Parsed::Run(args, matches)) => args
            .check(&matches)
            .and_then(|()| args.log.start(if args.command.is_some() { CLIENT_LOG } else { NODE_LOG }))
            .map_err(anyhow::Error::new)
            .and_then(|()| dispatch::node(args)),
        Ok(Parsed::Shown(exit)) => Ok(exit),
        Err(error) => Err(error.into()),
    })
}

/// All of `swarm-client`.
pub fn client_main(arguments: impl IntoIterator<Item = OsString>) -> ExitCode {
    end(match parse::<ClientArgs>(arguments.into_iter().collect()) {
        Ok(Parsed::Run(args, _)) => {
            // The log would be written across what is drawn.
            let drawn = matches!(args.command, ClientCommand::Watch) && std::io::stderr().is_terminal();
            let started = if drawn { Ok(()) } else { args.log.start(CLIENT_LOG) };
            started.map_err(anyhow::Error::new).and_then(|()| dispatch::client(args))
        }
        Ok(Parsed::Shown(exit)) => Ok(exit),
        Err(error) => Err(error.into()),
    })
}

fn end(result: anyhow::Result<Exit>) -> ExitCode {
    match result {
        Ok(exit) => exit.into(),
        Err(error) => report(&error),
    }
}

#[derive(Debug)]
enum Parsed<T> {
    Run(T, ArgMatches),
    /// Help or the version was asked for.
    Shown(Exit),
}

fn parse<T: CommandFactory + FromArgMatches>(arguments: Vec<OsString>) -> Result<Parsed<T>, UserError> {
    let plain = hide_variables(T::command());
    let mut command = plain.clone();
    if let Some(path) = config::path(&arguments) {
        command = config::apply(command, &path)?;
    }
    let is_empty = |name: &OsStr| std::env::var_os(name).is_some_and(|value| value.is_empty());
    let command = without_empty_variables(command, &plain, &is_empty);
    let program = command.get_name().to_owned();
    let parsed = command.try_get_matches_from(arguments).and_then(|m| Ok((T::from_arg_matches(&m)?, m)));
    match parsed {
        Ok((args, matches)) => Ok(Parsed::Run(args, matches)),
        Err(error) if is_help(&error) => {
            // A closed pipe is no reason to complain.
            let _ = error.print();
            Ok(Parsed::Shown(if error.use_stderr() { Exit::Misused } else { Exit::Done }))
        }
        Err(error) => Err(error::from_clap(&error, &program)),
    }
}

fn is_help(error: &clap::Error) -> bool {
    use clap::error::ErrorKind::*;
    matches!(error.kind(), DisplayHelp | DisplayVersion | DisplayHelpOnMissingArgumentOrSubcommand)
}

/// An empty variable is no value: its flag is what it is in `plain`, without a variable and without a settings file, which
/// a variable beats.
fn without_empty_variables(
    command: clap::Command,
    plain: &clap::Command,
    is_empty: &dyn Fn(&OsStr) -> bool,
) -> clap::Command {
    let emptied = |argument: &&clap::Arg| argument.get_env().is_some_and(is_empty);
    let unset = |command: clap::Command, argument: &clap::Arg| {
        command.mut_arg(argument.get_id(), |_| argument.clone().env(None::<&'static str>))
    };
    let command = plain.get_arguments().filter(emptied).fold(command, unset);
    let unset_below = |command: clap::Command, below: &clap::Command| {
        command.mut_subcommand(below.get_name(), |now| without_empty_variables(now, below, is_empty))
    };
    plain.get_subcommands().fold(command, unset_below)
}

/// The rule in the examples says it once for all flags.
fn hide_variables(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|argument| argument.hide_env(true));
    command.mut_subcommands(|subcommand| subcommand.mut_args(|argument| argument.hide_env(true)))
}
