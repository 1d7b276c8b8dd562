#!/usr/bin/env bash
# Compares this engine's tokens per second with llama.cpp's, on one core and the same GGUF files: a line
# `ratio llama-cpp-<file>-<phase>-<batch> <value>` for prefill and decode, Q8_0 and Q4_K_M, one sequence and eight.
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
    CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_AVX512=$(grep -qm1 avx512vbmi /proc/cpuinfo && echo ON || echo OFF)" \
        "$work/venv/bin/pip" install --quiet -r scripts/train/requirements-decoders.txt
fi

export RAYON_NUM_THREADS=1
ours() { cargo bench --locked --quiet -p swarm-tests --bench batch -- "$@"; }
files=("$work/big-q8_0.gguf" "$work/big-q4_k_m.gguf")
ours write "$work/big-f16.gguf"
"$PYTHON" scripts/train/rates.py --quantise "$work/big-f16.gguf" 2>/dev/null

echo "commit $(git describe --always --dirty --abbrev=10), $(date -u +%F)"
ours "${files[@]}" | tee "$work/ours.txt"
"$PYTHON" scripts/train/rates.py "${files[@]}" 2>/dev/null | sed 's/^rate/llama.cpp/' | tee "$work/theirs.txt"
awk '/^rate/ { ours[$2 " " $3 " " $4] = $5 }
     /^llama.cpp/ { key = $2 " " $3 " " $4; printf "ratio llama-cpp-%s-%s-%s %.3f (no target)\n", $2, $3, $4, ours[key] / $5 }' \
    "$work/ours.txt" "$work/theirs.txt"
