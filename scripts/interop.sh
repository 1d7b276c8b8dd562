#!/usr/bin/env bash
# Tests against foreign nodes: Helia and js-libp2p from npm, with a node of its own to run them, and py-libp2p from PyPI.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

scripts/setup.sh

missing=()
command -v npm >/dev/null || missing+=(npm)
python3 -c 'import ensurepip' 2>/dev/null || missing+=(python3-venv)
if [ ${#missing[@]} -gt 0 ]; then
    echo "setup: installing ${missing[*]}, for foreign nodes to test against" >&2
    as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    "${as_root[@]}" apt-get update -q
    "${as_root[@]}" apt-get install -q -y --no-install-recommends "${missing[@]}"
fi
npm --prefix tests/interop/libp2p ci --ignore-scripts --no-audit --no-fund --loglevel=error
[ -x tests/interop/.venv/bin/pip ] || python3 -m venv tests/interop/.venv
tests/interop/.venv/bin/pip install -q --disable-pip-version-check -r tests/interop/requirements.txt

cargo build --locked --workspace --bins --tests
cargo test --locked --workspace --test e2e -- --ignored --skip slow_and_lossy helia gossips tree
