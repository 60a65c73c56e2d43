#!/usr/bin/env bash
# Makes the certificates of the cases, if they are not there: of an authority, a daemon on
# this machine, and a client. They are in no repository: a key that is in one is no secret.
set -euo pipefail
cd "$(dirname "$0")"
if [[ -e client.pem ]]; then
    exit 0
fi
new=$(mktemp -d -p .)
trap 'rm -rf "$new"' EXIT
key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
(
    cd "$new"
    openssl req -x509 "${key[@]}" -days 36500 -subj '/CN=cases of ratelimitd' -keyout ca.key -out ca.pem
    issue() { # name, extensions
        openssl req "${key[@]}" -subj "/CN=$1" -keyout "$1.key" -out "$1.csr"
        openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -CAcreateserial -days 36500 -out "$1.pem" \
            -extfile <(printf 'basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\n%s\n' "$2")
    }
    issue daemon $'subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth'
    issue client $'subjectAltName=DNS:client.example\nextendedKeyUsage=clientAuth'
) 2>"$new/log" || { cat "$new/log" >&2; exit 1; }
mv "$new"/{ca.pem,daemon.pem,daemon.key,client.key} .
mv "$new/client.pem" . # the last: it says that all are there
