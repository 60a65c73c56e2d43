#!/usr/bin/env bash
# Makes the certificates of the cases: of an authority, a daemon on this machine, and a
# client. They prove nothing to anybody: their keys are public.
set -euo pipefail
cd "$(dirname "$0")"
key=(-newkey ec -pkeyopt ec_paramgen_curve:P-256 -nodes)
openssl req -x509 "${key[@]}" -days 36500 -subj '/CN=cases of ratelimitd' -keyout ca.key -out ca.pem
issue() { # name, extensions
    openssl req "${key[@]}" -subj "/CN=$1" -keyout "$1.key" -out "$1.csr"
    openssl x509 -req -in "$1.csr" -CA ca.pem -CAkey ca.key -days 36500 -out "$1.pem" \
        -extfile <(printf 'basicConstraints=CA:FALSE\nkeyUsage=digitalSignature\n%s\n' "$2")
    rm "$1.csr"
}
issue daemon $'subjectAltName=DNS:localhost,IP:127.0.0.1\nextendedKeyUsage=serverAuth'
issue client $'subjectAltName=DNS:client.example\nextendedKeyUsage=clientAuth'
rm -f ca.key ca.srl
