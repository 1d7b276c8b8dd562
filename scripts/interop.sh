#!/usr/bin/env bash
# Tests against foreign nodes: Helia and js-libp2p from npm, with a node of its own to run them, and py-libp2p from PyPI.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/setup.sh foreign
cargo build --locked --workspace --features swarm-node/kubo --bins --tests
cargo test --locked --workspace --features swarm-node/kubo --test e2e -- --ignored --skip slow_and_lossy helia gossips tree
