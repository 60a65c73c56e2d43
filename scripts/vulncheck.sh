#!/usr/bin/env bash
# Looks for known vulnerabilities in what our programs are made of:
#
#   vulncheck.sh            for a release: the daemon, the Go client and its example. Fails
#                           if there are any, or no database
#   vulncheck.sh --tests    for every change: the daemon. Passes without a database, and
#                           with vulnerabilities that only a newer Go mends. It says so
#
# govulncheck asks vuln.go.dev by default. Many build machines reach only the Go module
# proxy, so this takes the newest reports from there: they are a module too. GOVULNDB
# names another database.
set -euo pipefail
cd "$(dirname "$0")/.."
tests=
if [[ ${1:-} == --tests ]]; then
    tests=yes
fi
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

if [[ -z ${GOVULNDB:-} ]]; then
    # In a folder without go.mod, so that the module is nobody's dependency.
    if ! (cd "$dir" && timeout 300 go mod download -json golang.org/x/vulndb@latest >module.json); then
        echo 'the vulnerability database cannot be reached, so that nothing is checked' >&2
        [[ $tests ]] && exit 0
        exit 1
    fi
    reports=$(sed -nE 's/^\t"Dir": "(.*)",?$/\1/p' "$dir/module.json")
    (cd tools && go run ./vulndb "$reports/data/osv" "$dir/db")
    export GOVULNDB=file://$dir/db
fi

# check MODULE passes if nothing in a module can reach a vulnerability.
check() {
    local status=0 found
    echo "vulncheck $1"
    found=$(go tool -modfile=tools/go.mod govulncheck -C "$1" -db "$GOVULNDB" -tags grpcnotrace ./...) || status=$?
    grep -vE '^ +#([2-9]|[1-9][0-9]+):' <<<"$found" || true # one example of each is enough
    if [[ $tests && $status == "$vulnerable" ]] && ! grep 'Found in:' <<<"$found" | grep -qv '@go[0-9]'; then
        echo 'all of them are in the standard library: build releases with a newer Go' >&2
        return 0
    fi
    return "$status"
}

readonly vulnerable=3 # the exit status of govulncheck
status=0
check . || status=$?
if [[ ! $tests ]]; then
    check client || status=$?
    check examples/go || status=$?
fi
exit "$status"
