//! Where the parsed command lines go.

use super::{ClientArgs, Exit, NodeArgs, UserError};

pub(super) fn node(args: NodeArgs) -> anyhow::Result<Exit> {
    Err(UserError::misuse(format!("this build has no {}", args.role.name())).into())
}

pub(super) fn client(args: ClientArgs) -> anyhow::Result<Exit> {
    let _ = args.command;
    Err(UserError::misuse("this build has no client").into())
}
