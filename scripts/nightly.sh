#!/usr/bin/env bash
# The long runs: the simulation, gossip among 10,000 nodes, every decoder fuzzed, the operator's crashes, the churn, large
# files over a lossy link (as root, after scripts/interop.sh); arguments name some of them, none means all.
# Each leaves a report in docs/nightly, to be committed. SIM_SEEDS, FUZZ_EXECUTIONS, OPERATOR_KILLS and CHURN_SECONDS
# say how much;
# the tests print the seeds that repeat a run. A million seeds take an hour on two cores: scribbles stand for
# signatures there (SIM_VOUCH), and nowhere else.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export SIM_SEEDS=${SIM_SEEDS:-1000000}
export SIM_VOUCH=${SIM_VOUCH:-1}
export FUZZ_EXECUTIONS=${FUZZ_EXECUTIONS:-100000000}
export OPERATOR_KILLS=${OPERATOR_KILLS:-300}
export CHURN_SECONDS=${CHURN_SECONDS:-1800}

parts=("$@")
[ $# -gt 0 ] || parts=(simulation gossip fuzz crashes churn lossy)

scripts/setup.sh
cargo build --locked --workspace --bins --tests

commit=$(git rev-parse HEAD)
# Reports of earlier runs that are not committed yet change nothing that runs.
git diff --quiet HEAD -- . ':!docs/nightly' || commit="$commit with local changes"
mkdir -p docs/nightly

# The name of a part, the test that it is in, and which of that test's cases.
run() {
    local report
    report=docs/nightly/$(date -u +%Y-%m-%d)-$1.txt
    {
        echo "commit $commit"
        echo "simulation seeds $SIM_SEEDS, fuzz executions $FUZZ_EXECUTIONS, operator kills $OPERATOR_KILLS, churn of $CHURN_SECONDS s"
        echo "begun $(date -u +%FT%TZ)"
    } >"$report"
    local status=0
    cargo test --locked --workspace --test "$2" -- --include-ignored --nocapture --test-threads 1 "$3" >>"$report" 2>&1 || status=$?
    printf '\nended %s, exit %s\n' "$(date -u +%FT%TZ)" "$status" >>"$report"
    echo "$1: exit $status, see $report"
    return "$status"
}

failed=0
for part in "${parts[@]}"; do
    case $part in
        simulation) run simulation simulation simulation_ || failed=1 ;;
        gossip) run gossip gossip gossip_ || failed=1 ;;
        fuzz) run fuzz fuzz fuzz || failed=1 ;;
        crashes) run crashes e2e crashes || failed=1 ;;
        churn) run churn e2e churn || failed=1 ;;
        lossy) run lossy e2e lossy || failed=1 ;;
        *)
            echo "error: there is no part named $part" >&2
            echo "  → name simulation, gossip, fuzz, crashes, churn or lossy" >&2
            exit 2
            ;;
    esac
done
exit "$failed"
