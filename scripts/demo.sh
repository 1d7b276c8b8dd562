#!/usr/bin/env bash
# The main job, by itself: an operator and two miners on this machine, every example job, its answer, its receipt.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/setup.sh
cargo build --locked --workspace --bins
programs=${CARGO_TARGET_DIR:-target}/debug

folder=$(mktemp -d "${TMPDIR:-/tmp}/swarmpool-demo.XXXXXX")
mkdir -m 700 "$folder/run"
# Nothing that the caller has set or runs gets mixed up in this.
while IFS='=' read -r name _; do
    case $name in SWARMPOOL_*) unset "$name" ;; esac
done < <(env)
export SWARMPOOL_HOME=$folder/home SWARMPOOL_RUNTIME_DIR=$folder/run
export SWARMPOOL_NO_MDNS=true SWARMPOOL_LISTEN=/ip4/127.0.0.1/tcp/0

nodes=()
stop() {
    local status=$? pid
    trap - EXIT INT TERM
    for pid in "${nodes[@]}"; do kill -TERM "$pid" 2>/dev/null || true; done
    for pid in "${nodes[@]}"; do
        wait "$pid" || [ "$status" -ne 0 ] || status=1
    done
    case $status in 0 | 130 | 143) ;; *) tail -n 20 "$folder"/*.log >&2 ;; esac
    rm -rf "$folder"
    exit "$status"
}
trap stop EXIT
trap 'exit 130' INT
trap 'exit 143' TERM

say() { printf '\n== %s\n' "$1"; }

# start NAME EXPECTED ARGUMENT...: starts a node and waits until its log says what is expected.
start() {
    local name=$1 expected=$2
    shift 2
    "$programs/swarm-node" "$@" 2>"$folder/$name.log" &
    nodes+=($!)
    for _ in $(seq 600); do
        if grep -q "$expected" "$folder/$name.log"; then return; fi
        kill -0 "$!" 2>/dev/null || break
        sleep 0.1
    done
    echo "error: $name did not start" >&2
    return 1
}

models=(--model tests/fixtures/diffusion/manifest.json)
[ ! -f target/tools/minilm/manifest.json ] || models+=(--model target/tools/minilm/manifest.json)

say "an operator and two miners"
start operator "listening on" --role operator --epoch 10s "${models[@]}"
start alice "joined" --role miner --ens alice.eth "${models[@]}"
start bob "joined" --role miner --ens bob.eth "${models[@]}"
grep -h -e "listening on" -e "ready with" "$folder"/*.log

for job in examples/*.json; do
    say "$job"
    if grep -q all-minilm "$job" && [ ${#models[@]} -lt 4 ]; then
        echo "left out: its model is not here; scripts/minilm.sh fetches it"
    elif grep -q sd_infer "$job"; then
        "$programs/swarm-client" submit --out "$folder/picture.png" "$job"
    else
        "$programs/swarm-client" submit "$job"
    fi
done

say "the first epoch is sealed"
for _ in $(seq 300); do
    if grep "epoch 0 sealed" "$folder/operator.log"; then break; fi
    sleep 0.1
done
grep -q "epoch 0 sealed" "$folder/operator.log"

say "receipts, checked against the sealed epoch"
for receipt in "$SWARMPOOL_HOME"/swarmpool.eth/client/receipts/*.json; do
    "$programs/swarm-client" verify "$receipt"
    echo
done

say "what the nodes said"
for name in operator alice bob; do
    printf -- '-- %s\n' "$name"
    grep -v "listening on" "$folder/$name.log"
done

say "done; stopping"
