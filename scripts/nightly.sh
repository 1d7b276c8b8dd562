#!/usr/bin/env bash
# The long runs of the simulation, the operator's crashes and the churn. Leaves a report in docs/nightly, to be committed.
# SIM_SEEDS, OPERATOR_KILLS and CHURN_SECONDS say how much; the tests print the seeds that repeat a run.
# A million seeds take an hour on two cores: scribbles stand for signatures there (SIM_VOUCH), and nowhere else.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export SIM_SEEDS=${SIM_SEEDS:-1000000}
export SIM_VOUCH=${SIM_VOUCH:-1}
export OPERATOR_KILLS=${OPERATOR_KILLS:-300}
export CHURN_SECONDS=${CHURN_SECONDS:-1800}

scripts/setup.sh
cargo build --locked --workspace --bins --tests

commit=$(git rev-parse HEAD)
git diff --quiet HEAD || commit="$commit with local changes"
report=docs/nightly/$(date -u +%Y-%m-%d).txt
mkdir -p docs/nightly
{
    echo "commit $commit"
    echo "simulation seeds $SIM_SEEDS, operator kills $OPERATOR_KILLS, churn of $CHURN_SECONDS s"
    echo "begun $(date -u +%FT%TZ)"
    echo
} >"$report"

status=0
run() { cargo test --locked --workspace --test "$1" -- --include-ignored --nocapture --test-threads 1 "$2" >>"$report" 2>&1 || status=$?; }
run simulation simulation_
run e2e crashes
run e2e churn
printf '\nended %s, exit %s\n' "$(date -u +%FT%TZ)" "$status" >>"$report"

grep -E '^(test |ended)' "$report" || true
echo "report: $report"
exit "$status"
