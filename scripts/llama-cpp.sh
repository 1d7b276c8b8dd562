#!/usr/bin/env bash
# Compares this engine's tokens per second with llama.cpp's, on one core and the same GGUF files: a line
# `ratio llama-cpp-<file>-<phase>-<batch> <value>`, a median of five, for prefill and decode, Q8_0 and Q4_K_M, one sequence and eight.
# It takes llama.cpp as the Python package in scripts/train/requirements-decoders.txt, which builds it for half an hour;
# PYTHON names a Python that has it already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

work=${LLAMA_CPP_WORK:-$HOME/.cache/swarmpool-llama-cpp}
mkdir -p "$work"
if [ -z "${PYTHON:-}" ]; then
    PYTHON=$work/venv/bin/python
    [ -x "$PYTHON" ] || python3 -m venv "$work/venv"
    # A processor that shows more than the machine allows would fault on what is built for it.
    has() { grep -qm1 "$1" /proc/cpuinfo && echo ON || echo OFF; }
    CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX512=$(has avx512vbmi) -DGGML_AVX512_VBMI=$(has avx512vbmi) -DGGML_AVX512_VNNI=$(has avx512_vnni)" \
        "$work/venv/bin/pip" install --quiet -r scripts/train/requirements-decoders.txt
fi

# As engines are started.
export RAYON_NUM_THREADS=1 GLIBC_TUNABLES=glibc.malloc.hugetlb=1
ours() { cargo bench --locked --quiet -p swarm-tests --bench batch -- "$@"; }
files=("$work/big-q8_0.gguf" "$work/big-q4_k_m.gguf")
ours write "$work/big-f16.gguf"
"$PYTHON" scripts/train/rates.py --quantise "$work/big-f16.gguf" 2>/dev/null

echo "commit $(git describe --always --dirty --abbrev=10), $(date -u +%F), load $(cut -d' ' -f1 /proc/loadavg)"
# By turns, and of processor time: what else the machine does falls on both.
for _ in 1 2 3 4 5; do
    for file in "${files[@]}"; do
        ours "$file" | sed 's/^rate/ours/'
        "$PYTHON" scripts/train/rates.py "$file" 2>/dev/null | sed 's/^rate/llama.cpp/'
    done
done | tee "$work/rates.txt"
awk '$1 == "ours" { ours[$2 "-" $3 "-" $4] = $5 }
     $1 == "llama.cpp" { key = $2 "-" $3 "-" $4; print key, ours[key] / $5 }' "$work/rates.txt" |
    sort -k1,1 -k2,2n | awk '{ if ($1 != key) { key = $1; n = 0; keys[++k] = key } n++; ratio[key, n] = $2; count[key] = n }
     END { for (i = 1; i <= k; i++) { key = keys[i]; printf "ratio llama-cpp-%s %.3f (target >= 1; %.3f to %.3f)\n", key,
           ratio[key, int((count[key] + 1) / 2)], ratio[key, 1], ratio[key, count[key]] } }'
