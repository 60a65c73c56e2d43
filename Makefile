SHELL := bash
.SHELLFLAGS := -euo pipefail -c

# Run the targets one after the other, even with -j. The first part of `make test` installs
# what the other parts need.
.NOTPARALLEL:

# The version that the binary reports.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# How the daemon is built. With gRPC's page of traces, which
# grpcnotrace leaves out, the binary is a third larger: see deadcode-check.
# Neither the folder nor the state of git is in the binary: see reproducible.
BUILDFLAGS := -trimpath -buildvcs=false -tags grpcnotrace
LDFLAGS = -s -w -X main.version=$(VERSION)
# The Go that releases are built with: the newest of go.mod's minor version, whose standard library has
# the fewest known faults, and the same everywhere, as a build is only reproducible with the same Go. Go gets it
# by itself. GOTOOLCHAIN=local takes the one that is installed.
image reproducible vulncheck: export GOTOOLCHAIN ?= go1.26.11
# The container image, and the architectures in it. A Docker that does not keep its
# images in containerd loads the first one.
IMAGE ?= bin/ratelimitd-image.tar
ARCHS ?= amd64 arm64
# How long each fuzz target runs.
FUZZTIME ?= 10s

# How long each of them runs in fuzz-long.
LONGFUZZTIME ?= 10m

# Tools, at the versions that tools/go.mod pins.
TOOL := go tool -modfile=$(CURDIR)/tools/go.mod
BUF := go tool -modfile=$(CURDIR)/tools/buf/go.mod buf
PYTHON_API := clients/python/ratelimitd/ratelimit.binpb
LINT := $(TOOL) golangci-lint run --config=$(CURDIR)/.golangci.yml

.PHONY: help
help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' Makefile | expand -t 18

.PHONY: build
build: ## build bin/ratelimitd
	CGO_ENABLED=0 go build $(BUILDFLAGS) -ldflags "$(LDFLAGS)" -o bin/ratelimitd ./cmd/ratelimitd

.PHONY: image
image: ## write the container image to IMAGE, for ARCHS
	@programs=$$(mktemp -d); trap 'rm -rf "$$programs"' EXIT; mkdir -p $(dir $(IMAGE)); set -x; \
	for arch in $(ARCHS); do \
		CGO_ENABLED=0 GOOS=linux GOARCH=$$arch go build $(BUILDFLAGS) -ldflags "$(LDFLAGS)" -o "$$programs/$$arch/ratelimitd" ./cmd/ratelimitd; \
	done; \
	cd tools/image && go run . -source $(CURDIR) -out $(abspath $(IMAGE)) -version $(VERSION) $(ARCHS:%="$$programs/%/ratelimitd")

.PHONY: run
run: ## run the daemon from source
	go run ./cmd/ratelimitd serve

.PHONY: test
test: FUZZTIME = 2s
test: deps generate-check proto-check lint manifests deadcode-check image-test licenses vulncheck-tests unit test-python test-typescript test-java fuzz ## install what the checks need, and run all checks

.PHONY: deps
deps:
	./scripts/install-test-deps.sh

.PHONY: deadcode-check
deadcode-check: ## fail if the linker cannot drop unused methods
	CGO_ENABLED=0 ./scripts/deadcode-check.sh $(BUILDFLAGS)

.PHONY: image-test
image-test: ## make the image, unpack it, run it as its user and ask it
	cd tools/image && go test ./...

.PHONY: unit
unit: build ## run the tests
	go test -race -shuffle=on ./...
	cd client && go test -race -shuffle=on ./...
	cd examples/go && RATELIMITD_BIN=$(CURDIR)/bin/ratelimitd go test ./...
	cd tools && go test ./...

.PHONY: test-python
test-python: ## run the tests of the Python client
	./scripts/test-python.sh

.PHONY: test-typescript
test-typescript: export RATELIMITD_BIN ?= $(CURDIR)/bin/ratelimitd
test-typescript: build ## check the TypeScript client: its generated code, its types and its tests; and the types of the console
	cd clients/typescript && npm ci --silent --ignore-scripts && npm run --silent generate-check && npm run --silent build && npm test --silent
	clients/typescript/node_modules/.bin/tsc -p internal/server/console

# The example is built against what is installed.
.PHONY: test-java
test-java: ## run the tests of the Java client, and build its example
	cd clients/java && mvn --batch-mode --no-transfer-progress install
	cd examples/java && mvn --batch-mode --no-transfer-progress --quiet compile

# It is no part of test: a first build takes minutes.
.PHONY: test-rust
test-rust: export RATELIMITD_BIN ?= $(CURDIR)/bin/ratelimitd
test-rust: build ## generate a client in Rust, and run it against the daemon
	cd examples/rust && cargo test --locked --quiet

.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME
	./scripts/fuzz.sh $(FUZZTIME)

.PHONY: fuzz-long
fuzz-long: ## run each fuzz target for LONGFUZZTIME, 10m by default
	./scripts/fuzz.sh $(LONGFUZZTIME)

# In the folder of the package, so that Go prints each line as it comes.
.PHONY: attack
attack: ## attack a daemon in all ways, in a large form; about 15 minutes
	cd loadtest/attack && go test -count=1 -timeout=2h -run '^TestAttacks$$' -args -large

# For how long, and where to write the result.
SOAKTIME ?= 20m
SOAKRESULT ?=

.PHONY: soak
soak: ## run daemons for SOAKTIME, 20m by default, under all that a day brings
	cd loadtest/soak && go test -count=1 -timeout=3h -run '^TestSoak$$' . -args -duration=$(SOAKTIME) $(if $(SOAKRESULT),-result=$(abspath $(SOAKRESULT)))

.PHONY: bench
bench: ## compare the daemon with the null server; add BENCHFLAGS=--repeat=1 for a short run
	go run ./loadtest bench $(BENCHFLAGS)

.PHONY: microbench
microbench: ## run the benchmarks of all packages on two processors
	go test -run '^$$' -bench . -benchmem -cpu 2 ./...

.PHONY: manifests
manifests: ## check the files in deploy/ for Compose and Kubernetes
	cd tools/manifests && go run . ../../deploy

.PHONY: vulncheck
vulncheck: ## look for known vulnerabilities in all dependencies
	./scripts/vulncheck.sh

.PHONY: vulncheck-tests
vulncheck-tests:
	./scripts/vulncheck.sh --tests

.PHONY: sbom
sbom: ## write bin/sbom.json: what is in the program, as CycloneDX
	@mkdir -p bin
	GOFLAGS=-tags=grpcnotrace CGO_ENABLED=0 $(TOOL) cyclonedx-gomod app -json -licenses -noserial -main cmd/ratelimitd -output bin/sbom.json .

.PHONY: licenses
licenses: sbom ## fail if a dependency has a license that is not permitted
	cd tools && go run ./licenses ../bin/sbom.json

.PHONY: licenses-clients
licenses-clients: ## the same for what the clients in clients/ depend on; it needs the network
	./scripts/licenses-clients.sh

.PHONY: release-check
release-check: ## make a release in a clone, then install and use it as a user does
	./scripts/release.sh --check

.PHONY: reproducible
reproducible: ## fail if two builds in two folders differ
	./scripts/reproducible.sh $(BUILDFLAGS) -ldflags "$(LDFLAGS)"

.PHONY: lint
lint: ## run go vet, golangci-lint and go mod tidy in all modules
	@for module in . proto client examples/go tools tools/image tools/manifests; do \
		echo "lint $$module"; \
		(cd $$module && go vet ./... && $(LINT) ./... && go mod tidy -diff); \
	done

.PHONY: generate
generate: ## generate code from the .proto files: Go, and the descriptors of the Python client
	cd tools && go run ./protogen ../proto
	$(BUF) build --exclude-source-info --as-file-descriptor-set -o $(PYTHON_API)

# This compares with a fresh copy, so it also works if the working tree has changes.
.PHONY: generate-check
generate-check: ## fail if the generated code is out of date
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	(cd tools && go run ./protogen -out "$$fresh" ../proto); \
	$(BUF) build --exclude-source-info --as-file-descriptor-set -o "$$fresh/api.binpb"; \
	diff -r proto/ratelimit "$$fresh/ratelimit" && cmp $(PYTHON_API) "$$fresh/api.binpb" || { echo 'generated code is out of date: run make generate' >&2; exit 1; }

.PHONY: proto-check
proto-check: ## check the style of the .proto files, and that they break no client of the last release
	$(BUF) lint
	$(BUF) breaking --against proto/released.binpb

# What is in it may never change again but by additions.
.PHONY: proto-release
proto-release: ## with a release: keep the API as it is now, for proto-check
	$(BUF) build --exclude-source-info -o proto/released.binpb
