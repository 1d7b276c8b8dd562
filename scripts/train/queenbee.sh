#!/usr/bin/env bash
# Trains and exports queenbee-nano on a Debian 12 machine: queenbee.sh [setup|corpus|train|export|evaluate|all|fixtures|decoders] [flags of that step]
# Everything it makes lies in $QUEENBEE_WORK (default ~/.cache/queenbee); a training that was stopped goes on from its last checkpoint.
# "fixtures" makes tests/fixtures/llama anew and "decoders" tests/fixtures/decoders; both build llama.cpp, which takes
# some minutes to half an hour.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
repository=$(cd "$here/../.." && pwd)
model=$repository/models/queenbee-nano
work=${QUEENBEE_WORK:-$HOME/.cache/queenbee}
package=r-cran-janeaustenr=1.0.0-1
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

packages() {
    local sudo=()
    [ "$(id -u)" = 0 ] || sudo=(sudo)
    "${sudo[@]}" apt-get install -y --no-install-recommends python3-torch python3-numpy python3-venv libopenblas0-pthread "$@"
}

environment() {
    local folder=$1 requirements=$2
    [ -x "$folder/bin/python" ] || /usr/bin/python3 -m venv --system-site-packages "$folder"
    nice -n 19 "$folder/bin/pip" install --quiet -r "$here/$requirements"
}

setup() {
    packages
    mkdir -p "$work/deb"
    environment "$work/venv" requirements.txt
    (cd "$work/deb" && apt-get download "$package")
    for deb in "$work"/deb/*.deb; do dpkg -x "$deb" "$work/root"; done
}

fixtures() {
    packages g++
    export CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_OPENMP=OFF -DLLAVA_BUILD=OFF"
    environment "$work/venv-fixtures" requirements-fixtures.txt
    nice -n 19 "$work/venv-fixtures/bin/python" "$here/fixtures.py" --out "$repository/tests/fixtures/llama"
}

decoders() {
    packages g++
    export CMAKE_ARGS="-DGGML_NATIVE=OFF -DGGML_OPENMP=OFF"
    environment "$work/venv-decoders" requirements-decoders.txt
    nice -n 19 "$work/venv-decoders/bin/python" "$here/decoders.py" --out "$repository/tests/fixtures/decoders"
}

step() {
    local name=$1
    shift
    nice -n 19 "$work/venv/bin/python" "$here/$name.py" --work "$work" "$@"
}

what=${1:-all}
shift || true
case $what in
    setup | fixtures | decoders) "$what" ;;
    corpus | train) step "$what" "$@" ;;
    export | evaluate) step "$what" --model "$model" "$@" ;;
    all)
        setup
        step corpus
        step train
        step export --model "$model"
        step evaluate --model "$model"
        ;;
    *)
        echo "unknown step '$what': use setup, corpus, train, export, evaluate, all or fixtures" >&2
        exit 2
        ;;
esac
