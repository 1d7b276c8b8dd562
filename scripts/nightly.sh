#!/usr/bin/env bash
# The long runs: the simulation, histories of the money, gossip among 10,000 nodes, every decoder fuzzed, blindly and
# guided by coverage, power cuts of the ledger, the operator's crashes, the churn, the soak, large files over lossy and over slow links (as root,
# after scripts/interop.sh), the services on Debian itself (as root), llama.cpp's server behind an engine, cheats against an honest auditor, the build for NVIDIA's GPUs; arguments name some of them, none means all.
# Each leaves a report in docs/nightly, to be committed. SIM_SEEDS, HISTORIES, FUZZ_EXECUTIONS, LEDGER_SEEDS, OPERATOR_KILLS,
# CHURN_SECONDS, SOAK_SECONDS, CHEAT_JOBS and HONEST_JOBS say how much; the tests print the seeds that repeat a run. A million seeds take an hour
# on two cores: scribbles stand for signatures there (SIM_VOUCH), and nowhere else.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

export SIM_SEEDS=${SIM_SEEDS:-1000000}
export SIM_VOUCH=${SIM_VOUCH:-1}
export FUZZ_EXECUTIONS=${FUZZ_EXECUTIONS:-100000000}
export OPERATOR_KILLS=${OPERATOR_KILLS:-1000}
# three images of each
export LEDGER_SEEDS=${LEDGER_SEEDS:-3334}
export HISTORIES=${HISTORIES:-200000}
export CHURN_SECONDS=${CHURN_SECONDS:-1800}
export SOAK_SECONDS=${SOAK_SECONDS:-14400}
export CHEAT_JOBS=${CHEAT_JOBS:-1000}
export HONEST_JOBS=${HONEST_JOBS:-3000}

parts=("$@")
[ $# -gt 0 ] || parts=(simulation histories gossip fuzz coverage power crashes engines churn soak lossy slow install llama-server cheats cuda)

scripts/setup.sh
# The same selection as in scripts/test.sh: one build serves both.
cargo build --locked --workspace --features swarm-node/kubo --bins --tests --examples

commit=$(git rev-parse HEAD)
# Reports of earlier runs that are not committed yet change nothing that runs.
git diff --quiet HEAD -- . ':!docs/nightly' || commit="$commit with local changes"
mkdir -p docs/nightly

# The name of a part, and the command that is it.
report() {
    local name=$1 report
    shift
    report=docs/nightly/$(date -u +%Y-%m-%d)-$name.txt
    {
        echo "commit $commit"
        echo "simulation seeds $SIM_SEEDS, histories $HISTORIES, fuzz executions $FUZZ_EXECUTIONS, power cuts in $LEDGER_SEEDS histories of a ledger, operator kills $OPERATOR_KILLS, churn of $CHURN_SECONDS s, soak of $SOAK_SECONDS s, jobs of each cheat $CHEAT_JOBS and of each honest pair $HONEST_JOBS"
        echo "begun $(date -u +%FT%TZ)"
    } >"$report"
    local status=0
    "$@" >>"$report" 2>&1 || status=$?
    printf '\nended %s, exit %s\n' "$(date -u +%FT%TZ)" "$status" >>"$report"
    echo "$name: exit $status, see $report"
    return "$status"
}

# The name of a part, the test that it is in, and which of that test's cases.
run() {
    report "$1" cargo test --locked --workspace --features swarm-node/kubo --test "$2" -- --include-ignored --nocapture --test-threads 1 "$3"
}

failed=0
for part in "${parts[@]}"; do
    case $part in
        simulation) run simulation simulation simulation_ || failed=1 ;;
        histories) report histories cargo test --locked --workspace --features swarm-node/kubo --test it -- --nocapture --test-threads 1 money_is_conserved what_an_honest_pool || failed=1 ;;
        gossip) run gossip gossip gossip_ || failed=1 ;;
        fuzz) run fuzz fuzz fuzz || failed=1 ;;
        coverage) report coverage scripts/coverage-fuzz.sh || failed=1 ;;
        power) report power cargo test --locked --workspace --features swarm-node/kubo --lib -- --nocapture --test-threads 1 storage::tests::ledger_crash || failed=1 ;;
        crashes) run crashes e2e crashes || failed=1 ;;
        engines) run engines e2e a_thousand_jobs_are_answered || failed=1 ;;
        churn) run churn e2e churn || failed=1 ;;
        soak) run soak e2e soak || failed=1 ;;
        lossy) run lossy e2e helia::lossy_links || failed=1 ;;
        install) report install scripts/test-install.sh whole || failed=1 ;;
        llama-server) report llama-server scripts/llama-server.sh || failed=1 ;;
        cheats) report cheats cargo test --locked --workspace --features swarm-node/kubo --test cheats -- --nocapture --test-threads 1 || failed=1 ;;
        cuda) report cuda scripts/build-cuda.sh || failed=1 ;;
        slow) run slow e2e slow_and_lossy || failed=1 ;;
        *)
            echo "error: there is no part named $part" >&2
            echo "  → name simulation, histories, gossip, fuzz, coverage, power, crashes, engines, churn, soak, lossy, slow, install, llama-server, cheats or cuda" >&2
            exit 2
            ;;
    esac
done
exit "$failed"
