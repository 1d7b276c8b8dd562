#!/usr/bin/env bash
# Tests against foreign IPFS nodes from npm: Helia, with a node of its own to run it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! command -v npm >/dev/null; then
    echo "error: npm is not installed" >&2
    echo "  → install it (Debian: apt-get install npm); the node that runs Helia comes from npm itself" >&2
    exit 2
fi

scripts/setup.sh
npm --prefix tests/interop/helia ci --ignore-scripts --no-audit --no-fund --loglevel=error
cargo build --locked --workspace --bins --tests
cargo test --locked --workspace --test e2e -- --ignored helia
