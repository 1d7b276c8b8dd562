#!/usr/bin/env bash
# The provider `openai` against llama.cpp's own server with the built-in model: it is started by the provider, says what
# the engine of this project would within the tolerance between kernels, and is stopped by it; in a pool it answers jobs,
# and audits of what it proves find nothing. The server is in a Python package that has it built; PYTHON names a Python
# that has it already.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

work=${LLAMA_SERVER_WORK:-$HOME/.cache/swarmpool-llama-server}
if [ -z "${PYTHON:-}" ]; then
    mkdir -p "$work"
    PYTHON=$work/venv/bin/python
    [ -x "$PYTHON" ] || python3 -m venv "$work/venv"
    "$work/venv/bin/pip" install --quiet -r scripts/train/requirements-server.txt
fi
export SWARM_LLAMA_SERVER="$PYTHON $PWD/scripts/train/serve.py"
"$PYTHON" -c 'import importlib.metadata as m; print("xllamacpp", m.version("xllamacpp"))'
# The selection of scripts/test.sh: one build serves both.
build=(--locked --workspace --features swarm-node/kubo)
cargo build "${build[@]}" --bins --tests --examples
cargo test "${build[@]}" --test it -- --nocapture openai::real
cargo test "${build[@]}" --test e2e -- --nocapture servers::
