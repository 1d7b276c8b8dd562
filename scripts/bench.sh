#!/usr/bin/env bash
# Measures; the result is on stdout, a line `ratio <name> <value> (target …)` for each figure.
# Arguments name benchmarks, all of them if there are none: scripts/bench.sh pool ledger
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

benches=("$@")
[ $# -gt 0 ] || benches=(statements pool settlement ledger lifecycle tree bitswap gossip idle latency decode batch engine stream)
if [[ " ${benches[*]} " = *" lifecycle "* ]]; then scripts/setup.sh queues >&2; else scripts/setup.sh >&2; fi
flags=()
for bench in "${benches[@]}"; do flags+=(--bench "$bench"); done
cargo bench --locked --quiet -p swarm-tests "${flags[@]}" --no-run >&2

# The nodes of the benchmarks are not to meet those that run here already.
SWARMPOOL_RUNTIME_DIR=$(mktemp -d)
export SWARMPOOL_RUNTIME_DIR
trap 'rm -rf "$SWARMPOOL_RUNTIME_DIR"' EXIT
# One core for the engines, on both sides of a comparison; the rest is the pool's.
export RAYON_NUM_THREADS=1

echo "commit $(git describe --always --dirty --abbrev=10), $(date -u +%F)"
for bench in "${benches[@]}"; do
    printf '\n== %s\n' "$bench"
    tunables=${GLIBC_TUNABLES:-}
    # It is an engine itself, and has large pages as engines are given them.
    [ "$bench" != batch ] || tunables=glibc.malloc.hugetlb=1
    GLIBC_TUNABLES=$tunables cargo bench --locked --quiet -p swarm-tests --bench "$bench"
done
