#!/usr/bin/env bash
# Makes sure that a Debian machine with Rust can build the workspace. Safe to run again; other scripts call it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."

if ! command -v cargo >/dev/null; then
    echo "error: cargo is not installed" >&2
    echo "  → install Rust with rustup (https://rustup.rs); rust-toolchain.toml names the version" >&2
    exit 2
fi

if ! command -v cc >/dev/null; then
    echo "setup: no C compiler, which some dependencies need; installing gcc" >&2
    as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    "${as_root[@]}" apt-get update -q
    "${as_root[@]}" apt-get install -q -y --no-install-recommends gcc libc6-dev
fi

cargo fetch --locked --quiet
