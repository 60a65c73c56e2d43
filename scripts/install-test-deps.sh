#!/usr/bin/env bash
# Installs, from Debian's or Ubuntu's packages, what the tests need and this
# machine lacks. The tests start their own servers on free ports: the service
# that a package may start on its default port is neither needed nor used.
set -euo pipefail

# Each line: the command that the tests run, and the package that has it.
needed='
caddy         caddy
cc            build-essential
memcached     memcached
nginx         nginx-light
redis-server  redis-server
'

missing=()
while read -r command package; do
    if [[ -n $command ]] && ! command -v "$command" >/dev/null; then
        missing+=("$package")
    fi
done <<<"$needed"

if ((${#missing[@]} == 0)); then
    exit 0
fi

if ! command -v apt-get >/dev/null; then
    echo "$0: no apt-get here; install by hand what the tests need: ${missing[*]}" >&2
    exit 1
fi

as_root=()
if ((EUID != 0)); then
    as_root=(sudo)
fi
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -qq --yes --no-install-recommends "${missing[@]}"
