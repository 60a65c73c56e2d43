#!/usr/bin/env bash
# Runs each fuzz target of the module for a time: fuzz.sh 2s. It runs one after the
# other, because go test cannot fuzz several at once.
set -euo pipefail
fuzztime=$1

# Go ends a run now and then with "context deadline exceeded" and no failing input, if
# the time is over while it works on an input. Such a run says nothing, so that it is
# run again. What a target finds always comes with a failing input.
fuzz() {
    local package=$1 name=$2 out
    for _ in 1 2 3; do
        if out=$(go test -run '^$' -fuzz "^$name\$" -fuzztime "$fuzztime" "$package" 2>&1 </dev/null); then
            echo "$out"
            return 0
        fi
        echo "$out"
        if [[ $out == *'Failing input written'* || $out != *'context deadline exceeded'* ]]; then
            return 1
        fi
    done
    return 1
}

targets=$(go test -list '^Fuzz' ./... | awk '/^Fuzz/ {names[n++] = $1} /^ok/ {while (n) print $2, names[--n]}')
while read -r package name; do
    echo "$package $name"
    fuzz "$package" "$name"
done <<<"$targets"
