#!/usr/bin/env bash
# Makes a release of the Go modules. docs/releasing.md has all steps.
#
#   release.sh VERSION    makes its commits and its tags in this clone
#   release.sh --check    does so in another clone, then installs and uses what is released
#
# While we work, the daemon and the Go client find the modules that they need in this
# repository, by "replace" in go.mod. Go installs no program of a module that has this. So a
# release has commits of its own, which are on no branch: in them, go.mod has the version of
# each module, and go.sum its checksum.
set -euo pipefail
cd "$(dirname "$0")/.."
readonly repository=github.com/ratelimitd/ratelimitd

if [[ $# != 1 || ! $1 =~ ^(--check|v[0-9]+\.[0-9]+\.[0-9]+(-[0-9a-z.]+)?)$ ]]; then
    echo "usage: $0 VERSION, such as v0.2.0, or $0 --check" >&2
    exit 2
fi
work=$(mktemp -d)
clone=$PWD
branch=$(git symbolic-ref --quiet --short HEAD || git rev-parse HEAD)
finish() {
    git -C "$clone" checkout --quiet "$branch"
    chmod -R u+w "$work" # Go's cache of modules is read-only
    rm -rf "$work"
}
trap finish EXIT
version=$1
if [[ $1 == --check ]]; then
    version=v0.0.1-check
    clone=$work/clone
    git clone --quiet . "$clone"
    cd "$clone"
fi

# Go takes our modules from this clone, and the others from where it always does. Its cache
# of modules is another, so that a release which is given up stays in none.
proxy=file://$(go env GOMODCACHE)/cache/download,$(go env GOPROXY)
export GOPROXY=$proxy GOPRIVATE=$repository GOMODCACHE=$work/modules GOWORK=off GOFLAGS=-trimpath
export GIT_CONFIG_COUNT=1 GIT_CONFIG_KEY_0=url.file://$PWD.insteadOf GIT_CONFIG_VALUE_0=https://$repository

# release FOLDER MODULE... tags the module in a folder, which needs these others of ours.
release() {
    local folder=$1 tag=$1/$version
    shift
    if [[ $folder == . ]]; then
        tag=$version
    fi
    for module in "$@"; do
        go -C "$folder" mod edit -dropreplace="$repository/$module" -require="$repository/$module@$version"
    done
    if (($#)); then
        go -C "$folder" mod tidy
        git commit --quiet --message="release $tag" -- "$folder/go.mod" "$folder/go.sum"
    fi
    if [[ -n $(git status --porcelain) ]]; then
        git status --short >&2
        exit 1
    fi
    git tag --annotate --message="$tag" "$tag"
    echo "tagged $tag"
}

git checkout --quiet --detach
release proto
release client proto
release . client proto
if [[ $1 != --check ]]; then
    echo "now: git push origin proto/$version client/$version $version"
    exit 0
fi

# As a user does, elsewhere.
mkdir "$work/user"
cd "$work/user"
GOBIN=$work/bin go install "$repository/cmd/ratelimitd@$version"
"$work/bin/ratelimitd" version
"$work/bin/ratelimitd" version | grep --quiet --fixed-strings "$version"
sed -n '/^```go$/,/^```$/p;/^```$/q' "$clone/client/README.md" | sed '/^```/d' >main.go
go mod init hello 2>&1
go get "$repository/client@$version"
go build -o "$work/bin/hello" .
go list -m all | grep "$repository"
echo "$version can be installed, and the program in client/README.md builds with it"
