#!/usr/bin/env bash
# The long runs: every test that scripts/test.sh leaves out. Leaves a report in docs/nightly, to be committed.
# SIMULATION_SEEDS and OPERATOR_KILLS say how much; a first seed makes a run repeatable.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export SIMULATION_SEEDS=${SIMULATION_SEEDS:-1000000}
export SIMULATION_FIRST_SEED=${SIMULATION_FIRST_SEED:-$(date +%s)}
export OPERATOR_KILLS=${OPERATOR_KILLS:-300}

scripts/setup.sh
cargo build --locked --workspace --bins --tests

commit=$(git rev-parse HEAD)
git diff --quiet HEAD || commit="$commit with local changes"
report=docs/nightly/$(date -u +%Y-%m-%d).txt
mkdir -p docs/nightly
{
    echo "commit $commit"
    echo "seeds $SIMULATION_SEEDS from $SIMULATION_FIRST_SEED, operator kills $OPERATOR_KILLS"
    echo "begun $(date -u +%FT%TZ)"
    echo
} >"$report"

status=0
cargo test --locked --workspace -- --ignored --nocapture --test-threads 1 >>"$report" 2>&1 || status=$?
printf '\nended %s, exit %s\n' "$(date -u +%FT%TZ)" "$status" >>"$report"

grep -E '^(test |ended)' "$report" || true
echo "report: $report"
exit "$status"
