#!/usr/bin/env bash
# Whether scripts/install.sh does what it says. Without an argument: settings and units against the programs, and an
# installation below a folder, in seconds, as anybody. `whole`, as root: Debian 12 and 13, booted in containers with a
# systemd of their own, where a pool runs as services, is killed, copied, upgraded, removed and purged; `whole trixie` takes
# one of them.
set -Eeuo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
checkout=$PWD
programs=$(realpath "${CARGO_TARGET_DIR:-target}")/debug

folder=$(mktemp -d "${TMPDIR:-/tmp}/swarmpool-install.XXXXXX")
container='' leader=''
clean_up() {
    [ -z "$container" ] || { kill -TERM "$container" && wait "$container"; } 2>/dev/null || true
    rm -rf "$folder"
}
trap clean_up EXIT
trap 'echo "failed at line $LINENO: $BASH_COMMAND" >&2; [ ! -s "$folder/said" ] || sed "s/^/  said: /" "$folder/said" >&2' ERR

say() { printf '== %s\n' "$1"; }
die() {
    echo "failed: $1" >&2
    [ ! -s "$folder/said" ] || sed 's/^/  said: /' "$folder/said" >&2
    exit 1
}

# says TEXT COMMAND...: the command succeeds and says the text.
says() {
    local text=$1
    shift
    "$@" >"$folder/said" 2>&1 || die "exit $? of $*"
    grep -qF -- "$text" "$folder/said" || die "'$*' does not say '$text'"
}

# refuses CODE TEXT COMMAND...: it ends with that code and says the text in an error of two lines.
refuses() {
    local code=$1 text=$2 got=0
    shift 2
    "$@" >"$folder/said" 2>&1 || got=$?
    [ "$got" = "$code" ] || die "exit $got instead of $code of $*"
    grep -qF -- "$text" "$folder/said" || die "'$*' does not say '$text'"
    tail -n 2 "$folder/said" | paste -sd ' ' | grep -qE '^error: .*   → ' || die "'$*' is not refused in two lines"
}

# Everything below a folder: kind, mode, owner, time, and what is in it. Folders change their time with what is in them.
listing() {
    (cd "$1" && find . -xdev "${@:2}" \( -type d -printf '%p d %m %U:%G\n' -o -printf '%p %y %m %U:%G %T@ %l\n' \) | sort &&
        find . -xdev "${@:2}" -type f -print0 | sort -z | xargs -0r sha256sum)
}

same() { diff "$1" "$2" >"$folder/said" || die "$3"; }

# --- what needs no root

check_settings() {
    local role
    say "settings are those of swarm-node --help"
    "$programs/swarm-node" --help >"$folder/help"
    for role in miner operator; do
        scripts/service/conf.sh "$role" <"$folder/help" >"$folder/$role.conf"
        same "scripts/service/$role.conf" "$folder/$role.conf" \
            "scripts/service/$role.conf is not of this help; make it again: $programs/swarm-node --help | scripts/service/conf.sh $role >scripts/service/$role.conf"
    done
    # Counted in another way than conf.sh does.
    grep -oE '^ +(-[a-zA-Z], )?--[a-z-]+' "$folder/help" | grep -oE -- '--[a-z-]+' | grep -vxE -- '--(role|help|version)' |
        tr a-z- A-Z_ | sed 's/^__/SWARMPOOL_/' | sort -u >"$folder/flags"
    cat scripts/service/*.conf | sed -nE 's/^#(SWARMPOOL_[A-Z_]+)=.*/\1/p' | sort -u >"$folder/names"
    same "$folder/flags" "$folder/names" "settings and flags are not the same"
    [ "$(wc -l <"$folder/names")" -gt 30 ] || die "too few settings were compared"
}

check_units() {
    say "the two units differ where the roles do, and nowhere else"
    diff <(sed 's/miner/ROLE/g' scripts/service/swarmpool-miner.service) \
        <(sed 's/operator/ROLE/g' scripts/service/swarmpool-operator.service) | grep '^[<>]' |
        grep -vE '^. (#|TimeoutStopSec=|PrivateDevices=|DeviceAllow=|SystemCallFilter=~|ReadOnlyPaths=)' >"$folder/said" || true
    [ ! -s "$folder/said" ] || die "the units differ"
    if command -v systemd-analyze >/dev/null; then
        local unit
        for unit in scripts/service/*.service; do systemd-analyze security --offline=true --no-pager --threshold=20 "$unit" | tail -n 1; done
    else
        echo "not rated: there is no systemd-analyze"
    fi
}

check_root() {
    local root=$folder/root from=$folder/from install=scripts/install.sh
    say "below a folder: twice, upgraded, removed, purged"
    mkdir -p "$root"/{etc,usr/local/{bin,lib},var/lib} "$from"
    printf 'one' | tee "$from/swarm-node" "$from/swarm-engine" >"$from/swarm-client"
    chmod 755 "$from"/swarm-*
    listing "$root" >"$folder/before"

    says "installed $root/usr/local/bin/swarm-node" "$install" --from "$from" --root "$root"
    listing "$root" >"$folder/first"
    says "nothing was changed" "$install" --from "$from" --root "$root"
    listing "$root" >"$folder/second"
    same "$folder/first" "$folder/second" "the second run changed something"
    [ "$(stat -c %a "$root/etc/swarmpool/miner.conf" "$root/etc/swarmpool/operator.conf" "$root/var/lib/swarmpool" | paste -sd ' ')" = "640 640 700" ] ||
        die "modes of settings and data"

    printf 'SWARMPOOL_ENS=alice.eth\n' >"$root/etc/swarmpool/miner.conf"
    printf 'two' >"$from/swarm-node"
    echo >>"$root/usr/local/lib/systemd/system/swarmpool-miner.service"
    chmod 666 "$root/usr/local/bin/swarm-client"
    says "it does not mention SWARMPOOL_ACCEL_MODE" "$install" --from "$from" --root "$root"
    cp "$folder/said" "$folder/upgrade"
    for text in "replaced $root/usr/local/bin/swarm-node" "replaced $root/usr/local/lib/systemd/system/swarmpool-miner.service" \
        "gave $root/usr/local/bin/swarm-client its mode"; do
        grep -qF "$text" "$folder/upgrade" || die "the upgrade does not say '$text'"
    done
    [ "$(grep -cE '^(installed|replaced|made|gave)' "$folder/upgrade")" = 3 ] || die "the upgrade did more"
    [ "$(cat "$root/etc/swarmpool/miner.conf")" = SWARMPOOL_ENS=alice.eth ] || die "edited settings were replaced"
    cmp -s "$from/swarm-node" "$root/usr/local/bin/swarm-node" || die "the program was not replaced"

    mkdir -p "$root/var/lib/swarmpool/swarmpool.eth/operator"
    echo secret >"$root/var/lib/swarmpool/swarmpool.eth/operator/key"
    says "stay; --uninstall --purge removes them too" "$install" --root "$root" --uninstall
    [ "$(cat "$root/var/lib/swarmpool/swarmpool.eth/operator/key")" = secret ] || die "data is gone"
    [ "$(cat "$root/etc/swarmpool/miner.conf")" = SWARMPOOL_ENS=alice.eth ] || die "settings are gone"
    [ -z "$(find "$root/usr" -type f)" ] || die "programs or units are left"
    says "wallets that were in it: swarmpool.eth/operator/key" "$install" --root "$root" --uninstall --purge
    listing "$root" >"$folder/after"
    same "$folder/before" "$folder/after" "something is left"
    says "nothing was removed" "$install" --root "$root" --uninstall --purge
}

check_mistakes() {
    local root=$folder/root from=$folder/from install=scripts/install.sh
    say "mistakes"
    refuses 2 "this is a script for bash" sh "$install"
    refuses 2 "there is no option --form" "$install" --form "$from"
    refuses 2 "--root needs a folder" "$install" --root
    refuses 2 "--purge goes with --uninstall" "$install" --root "$root" --purge
    refuses 2 "--from does not go with --uninstall" "$install" --root "$root" --uninstall --from "$from"
    refuses 2 "$folder/none is not a folder" "$install" --root "$folder/none"
    refuses 1 "there is no program swarm-node in $folder/none" "$install" --root "$root" --from "$folder/none"
    cp -r scripts "$folder/scripts"
    refuses 1 "cargo build" "$folder/scripts/install.sh" --root "$root"
    ln -s /srv/pool "$root/var/lib/swarmpool"
    refuses 1 "is a link to /srv/pool" "$install" --root "$root" --uninstall --purge
    rm "$root/var/lib/swarmpool"
    mkdir "$root/usr/local/bin/swarm-node"
    refuses 1 "this failed: " "$install" --root "$root" --from "$from"
    rmdir "$root/usr/local/bin/swarm-node"
    if [ "$(id -u)" != 0 ]; then
        refuses 2 "only root can change this system" "$install" --from "$from"
    else
        chmod 755 "$folder" "$folder/scripts"
        refuses 2 "only root can change this system" setpriv --reuid 65534 --regid 65534 --clear-groups "$folder/scripts/install.sh"
    fi
}

quick() {
    check_settings
    check_units
    check_root
    check_mistakes
    echo "the installation does what it says"
}

# --- Debian itself

readonly HIDDEN=(-path ./proc -o -path ./sys -o -path ./dev -o -path ./run -o -path ./tmp -o -path ./src -o -path ./var/log -o
    -path ./var/tmp -o -path ./var/cache -o -path ./var/lib/systemd -o -name '*-' -path './etc/*')
seen() { listing "$1" '(' "${HIDDEN[@]}" ')' -prune -o; }

# debian SUITE: a small system of it, kept for the next run.
debian() {
    local kept=target/tools/debian-$1
    if [ ! -e "$kept/etc/os-release" ]; then
        rm -rf "$kept" "$kept.part"
        debootstrap --variant=minbase --include=systemd,systemd-sysv,dbus,sudo "$1" "$kept.part" >"$folder/said" 2>&1 ||
            die "debootstrap makes no Debian $1"
        mv "$kept.part" "$kept"
    fi
    rm -rf "$folder/debian"
    cp -a --reflink=auto "$kept" "$folder/debian"
}

# inside COMMAND...: runs it in the container, as its root.
inside() {
    nsenter --all --target "$leader" -- env -i PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin HOME=/root "$@"
}
install_inside() { inside /src/scripts/install.sh "$@"; }

boot() {
    local tries
    echo "127.0.0.1 localhost debian" >"$folder/debian/etc/hosts"
    echo debian >"$folder/debian/etc/hostname"
    systemd-nspawn --quiet --directory "$folder/debian" --boot --register=no --keep-unit --private-network --console=pipe \
        --bind-ro="$checkout/scripts:/src/scripts" --bind-ro="$folder/new:/src/new" </dev/null >"$folder/boot.log" 2>&1 &
    container=$!
    for tries in $(seq 300); do
        leader=$(pgrep --parent "$container" --full /systemd || true)
        # A container of which it is "degraded" has booted too.
        if [ -n "$leader" ] && inside systemctl is-system-running --wait 2>/dev/null | grep -qE 'running|degraded'; then return; fi
        kill -0 "$container" || break
        sleep 0.2
    done
    cp "$folder/boot.log" "$folder/said"
    die "the container does not boot ($tries)"
}

halt() {
    kill -TERM "$container"
    wait "$container" || true
    container=''
}

# logged ROLE TEXT [CURSOR]: waits until the service's journal has the text, after the cursor.
logged() {
    local after=(--lines all)
    [ $# -lt 3 ] || after=(--after-cursor "$3")
    # What follows the journal is not waited for: it ends with its time or with the container.
    grep -q -m 1 -- "$2" < <(inside timeout 90 journalctl --unit "swarmpool-$1" --output cat --follow "${after[@]}" || true) && return
    inside journalctl --unit "swarmpool-$1" --no-pager --lines 30 >"$folder/said" 2>&1 || true
    die "swarmpool-$1 does not say '$2'"
}
now() { inside journalctl --lines 0 --show-cursor --no-pager | sed -n 's/^-- cursor: //p'; }
main_pid() { inside systemctl show --value --property MainPID "swarmpool-$1"; }

# The service user, as docs/operations.md says it.
as_swarmpool() { inside sudo -u swarmpool SWARMPOOL_HOME=/var/lib/swarmpool SWARMPOOL_RUNTIME_DIR=/run/swarmpool "$@"; }

check_image() {
    local root=$folder/debian
    say "into an image, twice, and out of it"
    seen "$root" >"$folder/before"
    says "made the user swarmpool" scripts/install.sh --from "$programs" --root "$root"
    seen "$root" >"$folder/first"
    says "nothing was changed" scripts/install.sh --from "$programs" --root "$root"
    seen "$root" >"$folder/second"
    same "$folder/first" "$folder/second" "the second run changed something"
    says "removed the user swarmpool" scripts/install.sh --root "$root" --uninstall --purge
    seen "$root" | sed 's/ [0-9.]* $//' >"$folder/after"
    sed -i 's/ [0-9.]* $//' "$folder/before"
    same "$folder/before" "$folder/after" "something is left in the image"
}

check_first_install() {
    say "installed on a system that runs, twice"
    says "systemctl enable --now swarmpool-miner" install_inside --from /src/new
    cat "$folder/said"
    seen "$folder/debian" >"$folder/first"
    says "nothing was changed" install_inside --from /src/new
    seen "$folder/debian" >"$folder/second"
    same "$folder/first" "$folder/second" "the second run changed something"
    [ "$(inside stat -c '%a %U:%G' /etc/swarmpool/miner.conf /var/lib/swarmpool | paste -sd ' ')" = "640 root:swarmpool 700 swarmpool:swarmpool" ] ||
        die "owners and modes"
    inside systemd-analyze verify swarmpool-miner.service swarmpool-operator.service >"$folder/said" 2>&1 || die "systemd-analyze verify"
    [ ! -s "$folder/said" ] || die "systemd-analyze verify"
    inside systemd-analyze security --no-pager --offline=true swarmpool-miner.service swarmpool-operator.service | grep Overall
}

check_pool() {
    local role pid
    say "a pool of two services answers a job"
    inside install -D /dev/null /home/alice/mark
    inside touch /root/mark /tmp/mark
    printf '%s\n' SWARMPOOL_LISTEN=/ip4/127.0.0.1/tcp/0 SWARMPOOL_NO_MDNS=true | inside tee -a /etc/swarmpool/operator.conf /etc/swarmpool/miner.conf >/dev/null
    echo SWARMPOOL_ENS=alice.eth | inside tee -a /etc/swarmpool/miner.conf >/dev/null
    inside systemctl enable --now swarmpool-operator swarmpool-miner 2>"$folder/said" || die "they do not start"
    logged miner joined
    answer
    says alice.eth as_swarmpool swarm-node status
    for role in operator miner; do
        pid=$(main_pid "$role")
        inside grep -E '^(Uid|CapBnd|NoNewPrivs|Seccomp):' "/proc/$pid/status" | tr -s '\t\n' ' ' | tee "$folder/said"
        echo
        grep -qE "Uid: ($(inside id -u swarmpool) ?){4} CapBnd: 0{16} NoNewPrivs: 1 Seccomp: 2" "$folder/said" || die "$role is not confined"
        # What the process itself would see and could write, even as root.
        # shellcheck disable=SC2016 # the shell inside expands it
        inside nsenter --target "$pid" --mount --wd=/ sh -c 'ls -A /root /home/alice /tmp; for at in / /etc /usr/local/bin /var/lib; do touch $at/mark && echo "wrote into $at"; done' 2>/dev/null |
            grep -E 'mark|wrote' >"$folder/said" && die "$role reaches what it should not"
    done
    [ -z "$(inside find /var/lib/swarmpool -type f -perm /077)" ] || die "others can read files in /var/lib/swarmpool"
}

answer() {
    says receipted as_swarmpool swarm-client submit /src/new/job.json
    tail -n 3 "$folder/said"
}

check_life() {
    local pid since
    say "killed, it comes back; a copy; an upgrade; a restart of the machine"
    pid=$(main_pid operator)
    since=$(now)
    inside systemctl kill --signal=KILL swarmpool-operator
    logged operator "listening on" "$since"
    [ "$(main_pid operator)" != "$pid" ] || die "the operator was not killed"
    as_swarmpool swarm-node backup /var/lib/swarmpool/copy >"$folder/said" 2>&1 || die "no copy"
    inside test -s /var/lib/swarmpool/copy/key || die "no key in the copy"
    refuses 1 "Read-only file system" as_swarmpool swarm-node backup /tmp/copy
    answer

    printf x >>"$folder/new/swarm-node"
    says "swarmpool-miner runs what was there before" install_inside --from /src/new
    since=$(now)
    inside systemctl restart swarmpool-operator swarmpool-miner
    logged miner joined "$since"
    answer

    halt
    boot
    answer
}

check_end() {
    local key
    inside rm -r /root/mark /home/alice
    say "removed, installed again with the same keys, purged"
    key=$(inside sha256sum /var/lib/swarmpool/swarmpool.eth/miner-alice.eth/key)
    says "stopping swarmpool-miner" install_inside --uninstall
    cat "$folder/said"
    ! inside systemctl cat swarmpool-miner >/dev/null 2>&1 || die "the unit is still there"
    ! inside test -e /run/swarmpool || die "/run/swarmpool is left"
    install_inside --from /src/new >"$folder/said"
    inside systemctl start swarmpool-operator swarmpool-miner
    answer
    [ "$key" = "$(inside sha256sum /var/lib/swarmpool/swarmpool.eth/miner-alice.eth/key)" ] || die "the miner has another key"

    inside systemctl stop swarmpool-miner
    as_swarmpool swarm-node --role miner --name other --listen /ip4/127.0.0.1/tcp/0 --no-mdns 2>"$folder/by-hand" &
    until grep -q joined "$folder/by-hand"; do kill -0 $! && sleep 0.1; done
    refuses 1 "still runs processes: " install_inside --uninstall --purge
    inside sh -c "kill $(grep -oE 'processes: [0-9 ]+' "$folder/said" | cut -d : -f 2)"
    wait $! || true
    says "removed the user swarmpool" install_inside --uninstall --purge
    cat "$folder/said"
    seen "$folder/debian" | sed 's/ [0-9.]* $//' >"$folder/after"
    same "$folder/before" "$folder/after" "something is left"
    ! inside getent passwd swarmpool || die "the user is left"
    ! inside systemctl list-unit-files 'swarmpool*' | grep swarmpool || die "a unit is left"
}

whole() {
    local suite
    [ "$(id -u)" = 0 ] || die "containers take root"
    scripts/setup.sh install
    [ $# -gt 0 ] || set -- bookworm trixie
    for suite in "$@"; do
        say "Debian $suite"
        debian "$suite"
        mkdir -p "$folder/new"
        cp "$programs"/swarm-{node,client,engine} examples/job.json "$folder/new"
        check_image
        boot
        seen "$folder/debian" | sed 's/ [0-9.]* $//' >"$folder/before"
        check_first_install
        check_pool
        check_life
        check_end
        halt
    done
    echo "the services do what the guide says"
}

case ${1:-quick} in
    quick) quick ;;
    whole) whole "${@:2}" ;;
    *)
        echo "error: there is no part named $1" >&2
        echo "  → scripts/test-install.sh, or scripts/test-install.sh whole" >&2
        exit 2
        ;;
esac
