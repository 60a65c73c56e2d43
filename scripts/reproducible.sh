#!/usr/bin/env bash
# Builds the daemon twice, in two folders, and fails if the two differ in a byte. Its
# arguments are the flags of go build.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
for copy in "$dir/one" "$dir/another/folder"; do
    mkdir -p "$copy"
    git ls-files -z --cached --others --exclude-standard | tar --create --null --files-from=- --ignore-failed-read | tar --extract --directory="$copy"
    # Without what the first build left in the cache.
    (cd "$copy" && GOCACHE="$copy.cache" CGO_ENABLED=0 go build "$@" -o "$copy.binary" ./cmd/ratelimitd)
    rm -rf "$copy.cache"
done
sha256sum "$dir/one.binary" "$dir/another/folder.binary" | sed "s:$dir/::"
cmp "$dir/one.binary" "$dir/another/folder.binary"
