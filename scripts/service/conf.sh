#!/usr/bin/env bash
# Writes the settings file of a service from the help of swarm-node on stdin, every flag of the role as its variable:
#   target/debug/swarm-node --help | scripts/service/conf.sh miner >scripts/service/miner.conf
set -euo pipefail

role=${1:-}
case $role in
    miner) other=Operator ;;
    operator) other=Miner ;;
    *)
        echo "error: whose settings?" >&2
        echo "  → scripts/service/conf.sh miner, or operator" >&2
        exit 2
        ;;
esac

cat <<HEAD
# Settings of swarmpool-$role.service. They are read at its start: after a change, systemctl restart swarmpool-$role
# Every line is NAME=value. Take the # away from a setting to change it. Behind it stands its default; a word in capitals
# where there is none, for what belongs there; or true, for a switch that is off. Several values have commas between them.
# With nothing behind the = it is what it is without the line.
# These are all flags of swarm-node --help for this role but --role, which the service gives.
HEAD

awk -v other="$other" -v role="$role" '
    # Whether this flag has no place in the file.
    function is_out() {
        return section == other || flag == "--role" || flag == "--help" || flag == "--version" ||
            (role == "operator" && (flag == "--operator" || flag == "--accept-operator"))
    }
    function show(    line, words, n, i) {
        if (flag == "" || is_out()) return
        if (section != shown) printf "\n## %s\n", section
        shown = section
        # What the environment writes in another way than the command line.
        gsub(/; repeatable/, "; several with commas", text)
        gsub(/; may be repeated/, "; several with commas", text)
        sub(/; without a value at [0-9.:]+/, "", text)
        sub(/; twice for everything/, "; 2 for everything", text)
        if (flag == "--home") text = "Folder of everything that SwarmPool keeps; another one also has to be opened to the service (docs/operations.md) [default: /var/lib/swarmpool]"
        print ""
        n = split(text (standard == "" ? "" : " [default: " standard "]"), words, " ")
        line = "#"
        for (i = 1; i <= n; i++) {
            if (length(line) + 1 + length(words[i]) > 110) { print line; line = "#" }
            line = line " " words[i]
        }
        print line
        name = toupper(substr(flag, 3))
        gsub(/-/, "_", name)
        if (flag == "--home") standard = "/var/lib/swarmpool"
        if (flag == "--verbose") standard = 1
        print "#SWARMPOOL_" name "=" (standard != "" ? standard : value != "" ? value : "true")
    }
    /^[A-Z][A-Za-z]+( \(.*\))?:$/ { show(); flag = ""; section = $1; sub(/:$/, "", section); if (section == "Options") section = "General"; next }
    /^[A-Z]/ { show(); flag = ""; section = ""; next }
    section == "" || section == "Examples" { next }
    /^ +(-[a-zA-Z], )?--[a-z]/ {
        show()
        match($0, /--[a-z-]+/)
        flag = substr($0, RSTART, RLENGTH)
        value = match($0, /<[^>]+>/) ? substr($0, RSTART + 1, RLENGTH - 2) : ""
        text = standard = ""
        next
    }
    /^ +\[default: [^ ]+\]$/ { standard = $2; sub(/\]$/, "", standard); next }
    /^ +\[alias: / || /^ *$/ { next }
    { sub(/^ +/, ""); text = text (text == "" ? "" : " ") $0 }
    END { show() }
'
