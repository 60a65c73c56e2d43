#!/usr/bin/env bash
# Fails if something in the daemon keeps Go's linker from dropping methods that
# nothing calls. A call of reflect's Method or MethodByName by a name that is not a
# constant does: the linker then keeps every exported method, a third of the
# binary. text/template does it, and so do some libraries for flags.
#
# Its arguments are the flags of go build.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT
graph=$dir/graph
go build "$@" -ldflags=-dumpdep -o "$dir/ratelimitd" ./cmd/ratelimitd >"$graph" 2>&1 || { cat "$graph" >&2; exit 1; }
if ! grep -q '<UsedInIface>' "$graph"; then # the linker's other mark
	echo 'the linker does not print what this check reads: mend scripts/deadcode-check.sh' >&2
	exit 1
fi
if callers=$(grep -o '[^ ]* <[^ ]*ReflectMethod>' "$graph" | sort -u); then
	echo "these functions call any method by its name, so the linker keeps all methods:" >&2
	grep -v '^reflect\.' <<<"$callers" >&2 || echo "$callers" >&2 # those of reflect itself are kept because of the others
	exit 1
fi
