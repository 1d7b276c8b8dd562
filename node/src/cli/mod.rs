//! The command lines of `swarm-node` and `swarm-client`, and how both end.

use std::ffi::OsString;
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
    let mut command = hide_variables(T::command());
    if let Some(path) = config::path(&arguments) {
        command = config::apply(command, &path)?;
    }
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

/// The rule in the examples says it once for all flags.
fn hide_variables(command: clap::Command) -> clap::Command {
    let command = command.mut_args(|argument| argument.hide_env(true));
    command.mut_subcommands(|subcommand| subcommand.mut_args(|argument| argument.hide_env(true)))
}
