#!/usr/bin/env bash
# All tests that a commit has to pass, those against foreign nodes, a foreign settlement and an IPFS daemon too. With
# arguments, which go to the tests, only some: scripts/test.sh job_file
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/setup.sh tests
scripts/minilm.sh || echo "minilm: it could not be fetched; its test will say that it is skipped" >&2
scripts/tokenizers.sh || echo "tokenizers: they could not be fetched; their test will say that it is skipped" >&2
# Black-box tests start the programs, which cargo does not build for a crate of tests. One build serves all scripts of
# tests, with every feature that needs nothing to be built; check.sh builds without.
cargo build --locked --workspace --features swarm-node/kubo --bins --tests
cargo test --locked --workspace --features swarm-node/kubo -- "$@"
[ $# -gt 0 ] || { scripts/test-install.sh && scripts/interop.sh && scripts/settlement.sh && scripts/kubo.sh; }
