#!/usr/bin/env bash
# Installs a SwarmPool node as a service of systemd, on Debian 12 or 13, and removes it again. Downloads nothing.
# Safe to run again: it replaces programs and units that are not those of this version, and leaves settings alone.
[ -n "${BASH_VERSION:-}" ] || { printf 'error: this is a script for bash\n  → run it as it is, or with bash\n' >&2 && exit 2; }
set -Eeuo pipefail
umask 022

usage() {
    cat <<'USAGE'
Install a SwarmPool node as a service of systemd (Debian 12 and 13)

Usage: scripts/install.sh [--from FOLDER] [--root DIR]
       scripts/install.sh --uninstall [--purge] [--root DIR]

  --from FOLDER   where swarm-node, swarm-client and swarm-engine are [default: target/release of this checkout]
  --root DIR      install into the system below DIR, such as an image, and leave the running one alone
  --uninstall     remove programs and units; settings, keys, data and the user stay
  --purge         with --uninstall: remove those too. Whoever has no copy of the keys loses what they own
  -h, --help      print this

Nothing is started or enabled: that is said at the end. Exit code 0: done; 1: something is in the way; 2: misused.
USAGE
}

readonly USER_NAME=swarmpool HOME_DIR=/var/lib/swarmpool CONF_DIR=/etc/swarmpool
readonly BIN_DIR=/usr/local/bin UNIT_DIR=/usr/local/lib/systemd/system
readonly PROGRAMS=(swarm-node swarm-client swarm-engine) ROLES=(miner operator)

here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd)
readonly here
from=$here/../target/release from_given='' root='' action=install purge=''
changes=0 is_new='' must_restart='' uid='' gid='' temporary=''

# fail CODE PROBLEM WHAT_TO_DO
fail() {
    trap - ERR
    printf 'error: %s\n  → %s\n' "$2" "$3" >&2
    exit "$1"
}
trap '[ -z "$temporary" ] || rm -f "$temporary"' EXIT
trap 'fail 1 "this failed: $BASH_COMMAND" "mend what it says above, and run this again: it goes on where it ended"' ERR

did() {
    changes=$((changes + 1))
    printf '%s\n' "$*"
}
note() { printf 'note: %s\n' "$*"; }

read_arguments() {
    while [ $# -gt 0 ]; do
        case $1 in
            --from | --root)
                [ -n "${2:-}" ] || fail 2 "$1 needs a folder" "see scripts/install.sh --help"
                case $1 in
                    --from) from=$2 from_given=yes ;;
                    --root) root=$2 ;;
                esac
                shift
                ;;
            --uninstall) action=uninstall ;;
            --purge) purge=yes ;;
            -h | --help) usage && exit 0 ;;
            *) fail 2 "there is no option $1" "see scripts/install.sh --help" ;;
        esac
        shift
    done
    [ -z "$purge" ] || [ "$action" = uninstall ] ||
        fail 2 "--purge goes with --uninstall" "scripts/install.sh --uninstall --purge removes everything, keys too"
    [ -z "$from_given" ] || [ "$action" = install ] ||
        fail 2 "--from does not go with --uninstall" "leave --from out"
}

check_place() {
    if [ -n "$root" ]; then
        [ -d "$root" ] || fail 2 "$root is not a folder" "name with --root the folder that holds the other system"
        root=$(cd "$root" && pwd)
        [ "$root" != / ] || root=''
    fi
    [ -n "$root" ] || [ "$(id -u)" = 0 ] ||
        fail 2 "only root can change this system" "run it with sudo, or give another system's folder with --root"
    [ ! -L "$root$HOME_DIR" ] || [ -z "$purge" ] ||
        fail 1 "$root$HOME_DIR is a link to $(readlink "$root$HOME_DIR")" "remove that folder and the link yourself, then run this again"
    [ -z "$purge" ] || ! mountpoint -q "$root$HOME_DIR" ||
        fail 1 "something is mounted at $root$HOME_DIR" "empty and unmount it yourself, then run this again"
    [ "$action" = uninstall ] || check_system
}

check_system() {
    local id='' version=''
    if [ -r "$root/etc/os-release" ]; then
        # shellcheck disable=SC1091 # of the system that is installed to
        read -r id version < <(. "$root/etc/os-release" && echo "${ID:-}" "${VERSION_ID:-}")
        case $id-$version in
            debian-12 | debian-13) ;;
            *) note "this is made for Debian 12 and 13, not for $id $version; it goes on all the same" ;;
        esac
    fi
}

runs_systemd() { [ -z "$root" ] && [ -d /run/systemd/system ]; }

# --- the user

passwd_line() {
    if [ -z "$root" ]; then
        getent passwd "$USER_NAME" || true
    else
        grep -s "^$USER_NAME:" "$root/etc/passwd" || true
    fi
}

find_user() {
    local home
    uid='' gid=''
    IFS=: read -r _ _ uid gid _ home _ < <(passwd_line) || return 0
    [ "$home" = "$HOME_DIR" ] ||
        fail 1 "there is a user $USER_NAME with the home $home, whom this did not make" "give that user another name (usermod --login), then run this again"
}

make_user() {
    find_user
    [ -z "$uid" ] || return 0
    if [ "$(id -u)" != 0 ] || [ ! -e "$root/etc/passwd" ]; then
        note "no user $USER_NAME is made in $root, which takes root and an etc/passwd there: owners are left as they are"
        return 0
    fi
    useradd ${root:+--prefix "$root"} --system --user-group --home-dir "$HOME_DIR" --no-create-home \
        --shell /usr/sbin/nologin --comment "SwarmPool node" "$USER_NAME"
    find_user
    did "made the user $USER_NAME"
}

# --- files

# mode_is PATH MODE OWNER: whether it is like that; an owner of '' is any.
mode_is() {
    [ "$(stat -c %a "$1")" = "$2" ] && { [ -z "$3" ] || [ "$(stat -c %u:%g "$1")" = "$3" ]; }
}

# set_mode PATH MODE OWNER
set_mode() {
    [ -z "$3" ] || chown -h "$3" "$1"
    chmod "$2" "$1"
}

# owner USER_ID GROUP_ID: as far as owners can be given and the user exists.
owner() {
    if [ "$(id -u)" = 0 ] && [ -n "$1" ] && [ -n "$2" ]; then echo "$1:$2"; fi
}

# put SOURCE PATH MODE OWNER: a running program keeps its old file, and nobody sees half of the new one.
put() {
    local source=$1 path=$root$2 mode=$3 owner=$4 word=installed
    if [ -e "$path" ] && cmp -s "$source" "$path"; then
        mode_is "$path" "$mode" "$owner" && return 0
        set_mode "$path" "$mode" "$owner"
        did "gave $path its mode and owner back"
        return 0
    fi
    [ ! -e "$path" ] || word=replaced
    mkdir -p "$(dirname "$path")"
    temporary=$path.new
    cp "$source" "$temporary"
    set_mode "$temporary" "$mode" "$owner"
    mv -fT "$temporary" "$path"
    temporary=''
    did "$word $path"
}

# folder PATH MODE OWNER
folder() {
    local path=$root$1
    if [ -d "$path" ]; then
        mode_is "$path" "$2" "$3" && return 0
        set_mode "$path" "$2" "$3"
        did "gave $path its mode and owner back"
        return 0
    fi
    mkdir -p "$path"
    set_mode "$path" "$2" "$3"
    did "made $path"
}

# --- install

check_programs() {
    local program said
    for program in "${PROGRAMS[@]}"; do
        if [ ! -f "$from/$program" ] || [ ! -x "$from/$program" ]; then
            [ -z "$from_given" ] ||
                fail 1 "there is no program $program in $from" "name with --from the folder that holds ${PROGRAMS[*]}"
            fail 1 "SwarmPool is not built: there is no target/release/$program" \
                "run as yourself, not as root: cargo build --locked --release --workspace --bins"
        fi
        [ -n "$root" ] || said=$("$from/$program" --version 2>&1) ||
            fail 1 "$from/$program does not run here: ${said##*: }" "build it on this machine, or on one with this Debian or an older one"
    done
}

conf_names() { sed -nE 's/^ *#? *(SWARMPOOL_[A-Z_]+)=.*/\1/p' "$1" | sort -u; }

# Settings are the owner's: written once, then only looked at.
put_conf() {
    local role=$1 path=$CONF_DIR/$1.conf unmentioned
    if [ ! -e "$root$path" ]; then
        put "$here/service/$role.conf" "$path" 640 "$(owner 0 "$gid")"
        return
    fi
    unmentioned=$(comm -13 <(conf_names "$root$path") <(conf_names "$here/service/$role.conf") | paste -sd ' ')
    [ -z "$unmentioned" ] || note "$root$path stays as it is; it does not mention $unmentioned, which swarm-node --help explains"
    [ $((0$(stat -c %a "$root$path") & 7)) = 0 ] ||
        note "$root$path can be read by everybody; if that is not meant: chmod 640 $root$path"
}

install_all() {
    local program role before
    check_programs
    [ -e "$root$UNIT_DIR/swarmpool-miner.service" ] || is_new=yes
    make_user
    for program in "${PROGRAMS[@]}"; do
        before=$changes
        put "$from/$program" "$BIN_DIR/$program" 755 "$(owner 0 0)"
        [ "$program" = swarm-client ] || [ "$changes" = "$before" ] || must_restart=yes
    done
    folder "$CONF_DIR" 755 "$(owner 0 0)"
    folder "$HOME_DIR" 700 "$(owner "$uid" "$gid")"
    before=$changes
    for role in "${ROLES[@]}"; do
        put "$here/service/swarmpool-$role.service" "$UNIT_DIR/swarmpool-$role.service" 644 "$(owner 0 0)"
    done
    if [ "$changes" != "$before" ]; then
        ! runs_systemd || systemctl daemon-reload
        must_restart=yes
    fi
    for role in "${ROLES[@]}"; do put_conf "$role"; done
    [ "$changes" -gt 0 ] || echo "everything is installed already; nothing was changed"
    say_what_next
}

say_what_next() {
    local role
    if [ -z "$is_new" ]; then
        [ -n "$must_restart" ] && runs_systemd || return 0
        for role in "${ROLES[@]}"; do
            ! systemctl --quiet is-active "swarmpool-$role" ||
                note "swarmpool-$role runs what was there before, until: systemctl restart swarmpool-$role"
        done
        return 0
    fi
    cat <<'NEXT'

Next, for a miner (for an operator, write operator instead of miner):
  sudoedit /etc/swarmpool/miner.conf             its name, where its pool is
  sudo systemctl enable --now swarmpool-miner    start it, now and at every boot
  sudo journalctl -fu swarmpool-miner            what it says
  sudo -u swarmpool swarm-node status --home /var/lib/swarmpool
NEXT
    runs_systemd || [ -n "$root" ] || note "systemd does not run here, so the services cannot be started on this system"
}

# --- uninstall

# drop PATH: removes a file, a link or a whole folder, if it is there.
drop() {
    [ -e "$root$1" ] || [ -L "$root$1" ] || return 0
    rm -rf -- "$root$1"
    did "removed $root$1"
}

stop_services() {
    local role
    runs_systemd || return 0
    for role in "${ROLES[@]}"; do
        ! systemctl --quiet is-active "swarmpool-$role" || did "stopping swarmpool-$role"
        systemctl stop "swarmpool-$role" 2>/dev/null || true
    done
}

check_nobody_runs() {
    local running
    [ -n "$uid" ] && [ -z "$root" ] || return 0
    running=$(find /proc -maxdepth 1 -name '[0-9]*' -uid "$uid" -printf '%f ' 2>/dev/null || true)
    [ -z "$running" ] || fail 1 "the user $USER_NAME still runs processes: $running" "end them (kill), then run this again"
}

drop_programs() {
    local name role link
    for role in "${ROLES[@]}"; do
        for link in "$root"/etc/systemd/system/*.{wants,requires}/swarmpool-"$role".service; do drop "${link#"$root"}"; done
        drop "$UNIT_DIR/swarmpool-$role.service"
    done
    for name in "$UNIT_DIR" "$(dirname "$UNIT_DIR")"; do
        [ ! -d "$root$name" ] || rmdir --ignore-fail-on-non-empty "$root$name"
    done
    for name in "${PROGRAMS[@]}"; do drop "$BIN_DIR/$name"; done
    [ -n "$root" ] || drop /run/swarmpool
    if runs_systemd; then
        systemctl daemon-reload
        systemctl reset-failed 'swarmpool-*.service' 2>/dev/null || true
    fi
}

purge_all() {
    local role keys
    keys=$(find "$root$HOME_DIR" -mindepth 3 -maxdepth 3 -name key -printf '%P ' 2>/dev/null || true)
    for role in "${ROLES[@]}"; do drop "/etc/systemd/system/swarmpool-$role.service.d"; done
    drop "$CONF_DIR"
    drop "$HOME_DIR"
    [ -z "$keys" ] || note "wallets that were in it: ${keys% }"
    [ -n "$uid" ] || return 0
    [ "$(id -u)" = 0 ] ||
        fail 2 "only root can remove the user $USER_NAME of $root" "run it again with sudo"
    userdel ${root:+--prefix "$root"} "$USER_NAME"
    did "removed the user $USER_NAME"
}

uninstall_all() {
    find_user
    stop_services
    [ -z "$purge" ] || check_nobody_runs
    drop_programs
    [ -z "$purge" ] || purge_all
    [ "$changes" -gt 0 ] || echo "nothing is installed here; nothing was removed"
    if [ -e "$root$HOME_DIR" ] || [ -e "$root$CONF_DIR" ]; then
        note "$root$CONF_DIR, $root$HOME_DIR with its keys, and the user $USER_NAME stay; --uninstall --purge removes them too"
    fi
}

read_arguments "$@"
check_place
"${action}_all"
