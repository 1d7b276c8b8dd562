#!/usr/bin/env bash
# What has to hold besides the tests: format, lints, docs, the arrows between crates, shell, dependencies.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

step() { printf '\n== %s\n' "$1"; }

# must_not_reach CRATE NAME...: CRATE's dependencies, with all its features, hold none of the names (patterns).
must_not_reach() {
    local crate=$1 reached
    shift
    reached=$(cargo tree --locked --quiet --package "$crate" --all-features --edges normal,build --prefix none | cut -d ' ' -f 1 | sort -u)
    [ -n "$reached" ]
    local name found
    for name in "$@"; do
        if found=$(grep -xE "$name" <<<"$reached"); then
            echo "error: $crate reaches $(tr '\n' ' ' <<<"$found")" >&2
            return 1
        fi
        echo "$crate does not reach $name"
    done
}

step "set-up"
scripts/setup.sh

step "format"
cargo fmt --all -- --check

step "lints"
cargo clippy --locked --workspace --all-targets -- -D warnings
cargo clippy --locked --workspace --all-targets --features swarm-node/kubo -- -D warnings

step "docs"
RUSTDOCFLAGS="-D warnings" cargo doc --locked --workspace --features swarm-node/kubo --no-deps

step "arrows"
must_not_reach swarm-crypto 'swarm-(protocol|inference|node)' tokio 'libp2p.*' rand
must_not_reach swarm-protocol 'swarm-(inference|node)' tokio 'libp2p.*' redis 'alloy.*' 'candle-.*' rand
must_not_reach swarm-inference 'swarm-(protocol|node)' tokio 'libp2p.*' redis 'alloy.*'

step "shell"
if command -v shellcheck >/dev/null; then
    git ls-files -z -- '*.sh' .ci/run | xargs -0 shellcheck
else
    echo "not checked: shellcheck is not installed"
fi

step "dependencies"
if command -v cargo-deny >/dev/null; then
    cargo deny --all-features --locked check bans licenses sources
    if cargo deny fetch db >/dev/null 2>&1; then
        cargo deny --all-features --locked check advisories
    else
        echo "advisories not checked: their database cannot be reached"
    fi
else
    echo "not checked: cargo-deny is not installed (cargo install --locked cargo-deny)"
fi

printf '\nAll checks passed.\n'
