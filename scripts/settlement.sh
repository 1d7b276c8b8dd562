#!/usr/bin/env bash
# Settlement by others: 10,000 histories recomputed by a second implementation in Python, from archives of what a pool
# publishes, and payout trees checked by OpenZeppelin's package. HISTORIES says how many.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/setup.sh foreign
folder=$(mktemp -d "${TMPDIR:-/tmp}/swarmpool-settlement.XXXXXX")
trap 'rm -rf "$folder"' EXIT
mkdir "$folder/archives"

ARCHIVES=$folder/archives TREES=$folder/trees.json \
    cargo test --locked --workspace --features swarm-node/kubo --test it -- --ignored write_trees write_histories_as_archives
node tests/interop/check-trees.mjs <"$folder/trees.json"
tests/interop/.venv/bin/python tests/interop/settlement.py "$folder/archives"
