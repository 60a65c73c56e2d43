#!/usr/bin/env bash
# Tests the Python client, as users get it: it builds the wheel, and installs that. What
# the tests need comes from Python's package index, into a virtual environment that is
# kept for the next run.
set -euo pipefail
cd "$(dirname "$0")/../clients/python"

requirements=tests/requirements.txt
name=$( (python3 --version; cat "$requirements") | sha256sum | cut -c1-16)
venv="${XDG_CACHE_HOME:-$HOME/.cache}/ratelimitd/python-$name"
if [[ ! -e $venv/complete ]]; then
    rm -rf "$venv"
    python3 -m venv "$venv"
    "$venv/bin/pip" install --quiet --disable-pip-version-check -r "$requirements"
    touch "$venv/complete"
fi

work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
"$venv/bin/pip" install --quiet --disable-pip-version-check --no-deps --no-build-isolation --target "$work/installed" .
if [[ -z ${RATELIMITD_BIN:-} ]]; then
    (cd ../.. && go build -o "$work/ratelimitd" ./cmd/ratelimitd)
    export RATELIMITD_BIN=$work/ratelimitd
fi
PYTHONPATH=$work/installed PYTHONDONTWRITEBYTECODE=1 "$venv/bin/python" -m pytest tests "$@"
