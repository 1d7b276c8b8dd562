#!/usr/bin/env bash
# Tests against an IPFS daemon from npm that speaks Kubo's RPC: the contract of content stores, and whole nodes beside it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/setup.sh kubo
cargo build --locked --workspace --features swarm-node/kubo --bins --tests
cargo test --locked --workspace --features swarm-node/kubo --lib -- --ignored an_ipfs_daemon
cargo test --locked --workspace --features swarm-node/kubo --test e2e -- --ignored --test-threads 1 kubo::
