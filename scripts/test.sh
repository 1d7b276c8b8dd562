#!/usr/bin/env bash
# All tests that a commit has to pass, those against foreign nodes and a foreign settlement too. With arguments, which go
# to the tests, only some: scripts/test.sh job_file
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/setup.sh tests
# Black-box tests start the programs, which cargo does not build for a crate of tests.
cargo build --locked --workspace --bins --tests
cargo test --locked --workspace -- "$@"
[ $# -gt 0 ] || { scripts/interop.sh && scripts/settlement.sh; }
