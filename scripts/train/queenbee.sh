#!/usr/bin/env bash
# Trains and exports queenbee-nano on a Debian 12 machine: queenbee.sh [setup|corpus|train|export|evaluate|all] [flags of that step]
# Everything it makes lies in $QUEENBEE_WORK (default ~/.cache/queenbee); a run that was stopped goes on from its last checkpoint.
set -euo pipefail

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
model=$(cd "$here/../.." && pwd)/models/queenbee-nano
work=${QUEENBEE_WORK:-$HOME/.cache/queenbee}
python=$work/venv/bin/python
package=r-cran-janeaustenr=1.0.0-1
export PYTHONUNBUFFERED=1 OMP_NUM_THREADS=1 OPENBLAS_NUM_THREADS=1

setup() {
    local root=()
    [ "$(id -u)" = 0 ] || root=(sudo)
    "${root[@]}" apt-get install -y --no-install-recommends python3-torch python3-numpy python3-venv libopenblas0-pthread
    mkdir -p "$work/deb"
    [ -x "$python" ] || /usr/bin/python3 -m venv --system-site-packages "$work/venv"
    "$work/venv/bin/pip" install --quiet -r "$here/requirements.txt"
    (cd "$work/deb" && apt-get download "$package")
    for deb in "$work"/deb/*.deb; do dpkg -x "$deb" "$work/root"; done
}

step() {
    local name=$1
    shift
    nice -n 19 "$python" "$here/$name.py" --work "$work" "$@"
}

what=${1:-all}
shift || true
case $what in
    setup) setup ;;
    corpus | train) step "$what" "$@" ;;
    export | evaluate) step "$what" --model "$model" "$@" ;;
    all)
        setup
        step corpus
        step train
        step export --model "$model"
        step evaluate --model "$model"
        ;;
    *) echo "unknown step '$what': use setup, corpus, train, export, evaluate or all" >&2 && exit 2 ;;
esac
