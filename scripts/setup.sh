#!/usr/bin/env bash
# Makes sure that a Debian machine with Rust can build the workspace. Safe to run again; other scripts call it.
# `setup.sh tests` also installs what some tests take: tmux for what is drawn on a terminal, ip and nft (as root) for homes
# behind routers, promtool for metrics, a Redis server for shared ledgers. `setup.sh foreign` installs what others have written: nodes and libraries from npm
# and PyPI; `setup.sh kubo` an IPFS daemon that speaks Kubo's RPC, from npm. `setup.sh install`, as root, installs what
# makes a Debian and boots it in a container.
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

if [ "${1:-}" = tests ] && ! command -v tmux >/dev/null; then
    echo "setup: no tmux, in which the tests look at what is drawn on a terminal; installing it" >&2
    as_root=()
    [ "$(id -u)" = 0 ] || as_root=(sudo)
    "${as_root[@]}" apt-get update -q
    "${as_root[@]}" apt-get install -q -y --no-install-recommends tmux
fi

if [ "${1:-}" = tests ] && [ "$(id -u)" = 0 ] && ! { command -v ip && command -v nft; } >/dev/null; then
    echo "setup: ip or nft is missing, which the test of homes behind routers needs; installing them" >&2
    if ! { apt-get update -q && apt-get install -q -y --no-install-recommends iproute2 nftables; }; then
        echo "setup: they could not be installed; that test will say that it is skipped" >&2
    fi
fi

cargo fetch --locked --quiet

# Prometheus' own checker, for the tests of metrics: taken out of Debian's package, whose server nobody needs here.
fetch_promtool() {
    local folder
    folder=$(mktemp -d)
    # shellcheck disable=SC2064 # the folder of now
    trap "rm -rf '$folder'" RETURN
    (cd "$folder" && apt-get download -q prometheus && dpkg-deb --fsys-tarfile ./*.deb | tar -x ./usr/bin/promtool) || return
    mkdir -p target/tools
    mv "$folder/usr/bin/promtool" target/tools/promtool
}

if [ "${1:-}" = tests ] && ! command -v promtool >/dev/null && [ ! -x target/tools/promtool ]; then
    echo "setup: fetching promtool, which checks metrics in the tests" >&2
    fetch_promtool >/dev/null 2>&1 || echo "setup: no promtool here: the tests will say what they do not check" >&2
fi

# Debian's package of tools holds the server under another name, and starts no service.
if [[ "${1:-}" =~ ^(tests|queues)$ ]] && ! command -v redis-server >/dev/null && [ ! -x target/tools/redis-server ]; then
    if [ ! -x /usr/bin/redis-check-rdb ]; then
        echo "setup: no Redis, on which the tests keep shared ledgers; installing redis-tools" >&2
        as_root=()
        [ "$(id -u)" = 0 ] || as_root=(sudo)
        { "${as_root[@]}" apt-get update -q && "${as_root[@]}" apt-get install -q -y --no-install-recommends redis-tools; } ||
            echo "setup: it could not be installed; those tests will say that they are skipped" >&2
    fi
    mkdir -p target/tools
    [ ! -x /usr/bin/redis-check-rdb ] || ln -sf /usr/bin/redis-check-rdb target/tools/redis-server
fi

if [ "${1:-}" = foreign ]; then
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
    npm --prefix tests/interop ci --ignore-scripts --no-audit --no-fund --loglevel=error
    npm --prefix tests/interop/libp2p ci --ignore-scripts --no-audit --no-fund --loglevel=error
    [ -x tests/interop/.venv/bin/pip ] || python3 -m venv tests/interop/.venv
    tests/interop/.venv/bin/pip install -q --disable-pip-version-check -r tests/interop/requirements.txt
fi

if [ "${1:-}" = kubo ]; then
    if ! command -v npm >/dev/null; then
        echo "setup: installing npm, for an IPFS daemon to test against" >&2
        as_root=()
        [ "$(id -u)" = 0 ] || as_root=(sudo)
        "${as_root[@]}" apt-get update -q
        "${as_root[@]}" apt-get install -q -y --no-install-recommends npm
    fi
    lock=tests/interop/kubo/package-lock.json
    # A thousand packages: what is installed already is not installed again.
    if ! cmp -s "$lock" tests/interop/kubo/node_modules/.installed.json; then
        npm --prefix tests/interop/kubo ci --ignore-scripts --no-audit --no-fund --loglevel=error
        cp "$lock" tests/interop/kubo/node_modules/.installed.json
    fi
fi

if [ "${1:-}" = install ] && ! { command -v debootstrap && command -v systemd-nspawn; } >/dev/null; then
    echo "setup: debootstrap or systemd-nspawn is missing, in which the services are tried; installing them" >&2
    apt-get update -qq
    apt-get install -qq -y --no-install-recommends debootstrap systemd-container
fi

if [ "${1:-}" = queues ]; then
    if ! python3 -c 'import ensurepip' 2>/dev/null; then
        echo "setup: installing python3-venv, for queues to compare with" >&2
        as_root=()
        [ "$(id -u)" = 0 ] || as_root=(sudo)
        "${as_root[@]}" apt-get update -q
        "${as_root[@]}" apt-get install -q -y --no-install-recommends python3-venv
    fi
    [ -x tests/interop/.venv/bin/pip ] || python3 -m venv tests/interop/.venv
    tests/interop/.venv/bin/pip install -q --disable-pip-version-check -r tests/benches/lifecycle/requirements.txt
fi
