//! The pool: nodes that run here, the network, the operator, the clock and the name.

use super::{Check, fail, failed, none, ok};
use crate::cli::NodeArgs;
use crate::clock::Clock;
use crate::home::{home_root, visitor_config};
use crate::network::{Network, NetworkConfig, PeerInfo, default_listen_addresses};
use crate::session::{JoinError, JoinTerms, Joined, join};
use crate::status::{NodeStatus, running};
use crate::storage::blocks::BlockStore;
use crate::storage::pins::{KNOWN_OPERATORS_FILE, known_operator};
use crate::tables::age;
use crate::words::span;
use anyhow::Result;
use libp2p::Multiaddr;
use std::sync::Arc;
use swarm_crypto::address::Address;
use swarm_protocol::{Millis, Timestamp};

/// How long the operator is looked for.
const PATIENCE: Millis = Millis::from_secs(10);
/// Room for content, of which there is none.
const QUOTA_BYTES: u64 = 1 << 20;

pub(super) async fn checks(args: &NodeArgs) -> Result<Vec<Check>> {
    let nodes = running(args).await?;
    let mut checks: Vec<Check> = nodes.iter().map(node).collect();
    if nodes.is_empty() {
        checks.push(none("node", "none runs here"));
    }
    let clock = Clock::start();
    let blocks = Arc::new(BlockStore::in_memory(QUOTA_BYTES)?);
    match Network::start(config(args, nodes.is_empty())?, blocks).await {
        Ok((network, mut events)) => {
            let joined = join(&network, &mut events, &terms(args)?, clock, Some(PATIENCE)).await;
            let now = clock.now();
            let peers = network.peers().await.unwrap_or_default();
            checks.push(ports(&network.listen_addresses().await.unwrap_or_default(), &nodes));
            checks.extend(args.network.bootstrap.iter().map(|address| bootstrap(address, &peers)));
            checks.push(operator(&joined, &peers));
            checks.push(time(&joined, now));
            network.shutdown().await;
        }
        Err(error) => checks.push(failed("ports", &error)),
    }
    checks.push(name(args.miner.ens.as_deref()));
    Ok(checks)
}

/// Under an identity of its own; ports that a running node has are left to it.
fn config(args: &NodeArgs, is_alone: bool) -> Result<NetworkConfig> {
    let agent = format!("swarm-node/{} (doctor)", env!("CARGO_PKG_VERSION"));
    let config = visitor_config(&args.network, &args.pool.pool, agent)?;
    Ok(if is_alone { config } else { NetworkConfig { listen: default_listen_addresses(), ..config } })
}

/// The operator that a miner here would accept; whoever is found is not remembered.
fn terms(args: &NodeArgs) -> Result<JoinTerms> {
    let known = known_operator(&home_root(&args.files)?.join(KNOWN_OPERATORS_FILE), &args.pool.pool)?;
    let known = known.map(|known| known.parse::<Address>()).transpose()?;
    let operator = args.pool.operator.or(args.pool.accept_operator).or(known);
    Ok(JoinTerms { pool: args.pool.pool.clone(), operator, accept: None, known_operators: None })
}

fn node(status: &NodeStatus) -> Check {
    let what = format!("node {}", status.node);
    let up = age(status.started_ms, status.now_ms);
    let count = |route: &str| status.peers.iter().filter(|peer| peer.route == route).count();
    let peers = format!(
        "{} peers: {} direct, {} punched, {} relayed",
        status.peers.len(),
        count("direct"),
        count("punched"),
        count("relayed")
    );
    match &status.view {
        Some(seen) if !seen.operator_in_reach => {
            let found =
                format!("runs since {up}, its operator is out of reach for {}", span(Millis(seen.age_ms)));
            fail(
                what,
                found,
                "see whether the operator runs, and name a node that reaches it with --bootstrap",
            )
        }
        None if status.role == "miner" => {
            let found = format!("runs since {up} and has not found the operator yet; {peers}");
            fail(what, found, "name a node of the pool with --bootstrap")
        }
        Some(_) | None => ok(what, format!("runs since {up}; {peers}")),
    }
}

fn ports(listening: &[Multiaddr], nodes: &[NodeStatus]) -> Check {
    let own = nodes.iter().flat_map(|node| node.listening.iter().cloned());
    let all: Vec<String> = match nodes.is_empty() {
        true => listening.iter().map(ToString::to_string).collect(),
        false => own.collect(),
    };
    let is_local =
        |address: &&String| ["/ip4/127.", "/ip6/::1/"].iter().any(|local| address.starts_with(local));
    let first = all.iter().find(|address| !is_local(address)).or(all.first());
    match (first, all.len()) {
        (None, _) => fail("ports", "nothing can be listened on", "correct --listen, or free the port"),
        (Some(first), 1) => ok("ports", format!("listening at {first}")),
        (Some(first), n) => ok("ports", format!("listening at {first} and {} more", n - 1)),
    }
}

fn bootstrap(address: &Multiaddr, peers: &[PeerInfo]) -> Check {
    let check = format!("bootstrap {address}");
    let text = address.to_string();
    let is_there = |peer: &&PeerInfo| {
        let found = peer.address.to_string();
        text.starts_with(&found) || found.starts_with(&text)
    };
    match peers.iter().find(is_there) {
        Some(peer) => {
            ok(check, format!("connected, {}", peer.agent.as_deref().unwrap_or("it says not what it runs")))
        }
        None => {
            fail(check, "does not answer", "check that address, that a node runs there, and its firewall")
        }
    }
}

fn operator(joined: &Result<Joined, JoinError>, peers: &[PeerInfo]) -> Check {
    match joined {
        Ok(joined) => {
            let line = peers.iter().find(|peer| peer.peer == joined.peer);
            let route = line.map_or("", |peer| peer.route.name());
            ok("operator", format!("{} answers, {route}", joined.operator))
        }
        Err(error) => failed("operator", error),
    }
}

fn time(joined: &Result<Joined, JoinError>, now: Timestamp) -> Check {
    match joined {
        Ok(joined) => {
            let theirs = joined.beacon.statement().header.at;
            let off = if now > theirs { now.since(theirs) } else { theirs.since(now) };
            ok("clock", format!("within {} s of the operator's", off.0 / 1000 + 1))
        }
        Err(error @ JoinError::Clock { .. }) => failed("clock", error),
        Err(_) => none("clock", "nobody is there to compare it with"),
    }
}

fn name(ens: Option<&str>) -> Check {
    match ens {
        Some(name) => none("name", format!("{name}, which this version asks nobody to confirm")),
        None => none("name", "none; others see the wallet's address (--ens gives one)"),
    }
}
