#!/usr/bin/env bash
# Installs the programs that the tests need, if they are missing. It uses the
# packages of Debian or Ubuntu. The tests start their own servers on free ports.
set -euo pipefail

# Each line has a command that the tests run, and the package that contains it.
needed='
caddy         caddy
cc            build-essential
memcached     memcached
nginx         nginx-light
prometheus    prometheus
redis-server  redis-server
systemd-analyze systemd
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
    echo "$0: apt-get not found; install these packages yourself: ${missing[*]}" >&2
    exit 1
fi

as_root=()
if ((EUID != 0)); then
    as_root=(sudo)
fi
# Do not let a package start its service. It would keep its port, such as
# Prometheus's, after the tests.
policy=/usr/sbin/policy-rc.d
if [[ ! -e $policy ]]; then
    printf '#!/bin/sh\nexit 101\n' | "${as_root[@]}" tee "$policy" >/dev/null
    "${as_root[@]}" chmod +x "$policy"
    trap '"${as_root[@]}" rm -f "$policy"' EXIT
fi
"${as_root[@]}" apt-get update -qq
"${as_root[@]}" env DEBIAN_FRONTEND=noninteractive \
    apt-get install -qq --yes --no-install-recommends "${missing[@]}"
