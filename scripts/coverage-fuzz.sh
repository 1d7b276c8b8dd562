#!/usr/bin/env bash
# Every decoder under libFuzzer, guided by coverage, on the stable toolchain: the instrumentation is asked of LLVM itself.
# FUZZ_EXECUTIONS says how many in all, FUZZ_JOBS how many decoders at once; arguments name some decoders. Prints a line
# for each decoder; what libFuzzer found is kept and named.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

target=x86_64-unknown-linux-gnu
folder=$PWD/${CARGO_TARGET_DIR:-target}/coverage
executions=${FUZZ_EXECUTIONS:-100000000}
jobs=${FUZZ_JOBS:-$(nproc)}

flags="-Cpasses=sancov-module -Ccodegen-units=1 -Clinker=g++"
for option in level=4 inline-8bit-counters pc-table trace-compares; do
    flags+=" -Cllvm-args=-sanitizer-coverage-$option"
done
checked=()
for crate in crypto protocol inference node tests; do
    checked+=(--config "profile.bench.package.swarm-$crate.overflow-checks=true")
done
# With --target the flags do not reach build scripts.
build() {
    RUSTFLAGS=$flags CARGO_TARGET_DIR=$folder cargo test --locked --package swarm-tests --no-run --profile bench \
        --target "$target" --features coverage --test coverage "${checked[@]}" "$@"
}
build
fuzzer=$(build --message-format json 2>/dev/null | sed -n 's/.*"executable":"\([^"]*coverage-[^"]*\)".*/\1/p')
[ -x "$fuzzer" ]

work=$(mktemp -d)
decoders=$("$fuzzer" | grep -E '^[a-z-]+ [0-9]+ [0-9]+$')
total=$(awk '{ sum += $2 } END { print sum }' <<<"$decoders")
[ $# -eq 0 ] || decoders=$(grep -E "^($(IFS='|'; echo "$*")) " <<<"$decoders")

# The name of a decoder, its share, its longest input.
# shellcheck disable=SC2317 # xargs calls it
fuzz() {
    local log=$work/$1.log status=0
    mkdir "$work/$1"
    FUZZ_TARGET=$1 "$fuzzer" -runs=$((executions * $2 / total + 1)) -max_len="$3" -seed=1 -timeout=10 -rss_limit_mb=2048 \
        -print_final_stats=1 -artifact_prefix="$work/$1-" "$work/$1" "tests/corpus/$1" >"$log" 2>&1 || status=$?
    local ran speed
    ran=$(sed -n 's/^stat::number_of_executed_units: *//p' "$log")
    speed=$(sed -n 's/^stat::average_exec_per_sec: *//p' "$log")
    printf '%-18s exit %s  %11s executions  %7s/s  %s\n' "$1" "$status" "${ran:-?}" "${speed:-?}" \
        "$(grep -oE 'cov: [0-9]+ ft: [0-9]+ corp: [0-9]+' "$log" | tail -1)"
    [ "$status" -eq 0 ] || { tail -40 "$log"; return 1; }
}
export -f fuzz
export fuzzer work executions total
status=0
xargs -P "$jobs" -L 1 bash -c 'fuzz "$@"' fuzz <<<"$decoders" || status=1
cat "$work"/*.log | awk '/^stat::number_of_executed_units/ { sum += $2 } END { print sum " executions in all" }'
[ "$status" -eq 0 ] && rm -r "$work" || echo "kept: $work"
exit "$status"
