#!/usr/bin/env bash
# Checks the licenses of what users install with the clients in clients/: that they permit
# what ours does. The daemon and the Go client are in "make licenses".
#
# npm reads package-lock.json. Maven and Python need the network.
set -euo pipefail
cd "$(dirname "$0")/.."
dir=$(mktemp -d)
trap 'rm -rf "$dir"' EXIT

(cd clients/typescript && npm sbom --sbom-format cyclonedx --omit dev --package-lock-only) >"$dir/typescript.json"

mvn --batch-mode --no-transfer-progress --quiet -Dstyle.color=never --file clients/java/pom.xml org.cyclonedx:cyclonedx-maven-plugin:2.9.1:makeBom \
    -DincludeTestScope=false -DincludeProvidedScope=false -DoutputFormat=json -DoutputDirectory="$dir" -DoutputName=java

# Packages of Python say it in their own words, if they do not say it in those of SPDX.
python3 -m venv "$dir/python"
"$dir/python/bin/pip" install --quiet --disable-pip-version-check ./clients/python
"$dir/python/bin/python" - >"$dir/python.json" <<'END'
import json
from importlib.metadata import distributions

words = {"3-Clause BSD License": "BSD-3-Clause", "MIT": "MIT", "Apache License 2.0": "Apache-2.0"}
components = []
for package in distributions():
    about = package.metadata
    if about["Name"] in ("pip", "setuptools", "ratelimitd"):
        continue
    said = about["License-Expression"] or about["License"] or ""
    components.append({"name": about["Name"], "version": about["Version"], "licenses": [{"license": {"id": words.get(said, said)}}]})
print(json.dumps({"components": components}))
END
cd tools && go run ./licenses "$dir"/*.json
