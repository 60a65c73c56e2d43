SHELL := bash
.SHELLFLAGS := -euo pipefail -c

# In order, whatever -j says: the first part of `make test` installs what the others need.
.NOTPARALLEL:

# The version that the binary reports.
VERSION ?= $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
# How the daemon is built, here and in the Dockerfile. With gRPC's page of traces, which
# grpcnotrace leaves out, the binary is a third larger: see deadcode-check.
BUILDFLAGS := -trimpath -tags grpcnotrace
# How long each fuzz target runs.
FUZZTIME ?= 10s

# The linter and the code generators, at the versions that tools/go.mod pins.
LINT := go tool -modfile=$(CURDIR)/tools/go.mod golangci-lint run --config=$(CURDIR)/.golangci.yml

.PHONY: help
help: ## list the targets
	@sed -nE 's/^([a-z-]+):.*## (.*)/\1\t\2/p' Makefile | expand -t 16

.PHONY: build
build: ## build bin/ratelimitd
	CGO_ENABLED=0 go build $(BUILDFLAGS) -ldflags "-s -w -X main.version=$(VERSION)" -o bin/ratelimitd ./cmd/ratelimitd

.PHONY: run
run: ## run the daemon from source
	go run ./cmd/ratelimitd serve

.PHONY: test
test: FUZZTIME = 2s
test: deps generate-check lint manifests deadcode-check unit fuzz ## run every check, after installing what they need

.PHONY: deps
deps:
	./scripts/install-test-deps.sh

.PHONY: deadcode-check
deadcode-check: ## fail if the linker cannot drop unused methods
	CGO_ENABLED=0 ./scripts/deadcode-check.sh $(BUILDFLAGS)

.PHONY: unit
unit: ## run the tests
	go test -race -shuffle=on ./...

# A target at a time: go test fuzzes no more than one.
.PHONY: fuzz
fuzz: ## run each fuzz target for FUZZTIME
	@go test -list '^Fuzz' ./... | awk '/^Fuzz/ {names[n++] = $$1} /^ok/ {while (n) print $$2, names[--n]}' | \
	while read -r package name; do \
		echo "$$package $$name"; \
		go test -run '^$$' -fuzz "^$$name\$$" -fuzztime $(FUZZTIME) "$$package" </dev/null; \
	done

.PHONY: bench
bench: ## measure the daemon against the null server; BENCHFLAGS=--repeat=1 for a short form
	go run ./loadtest bench $(BENCHFLAGS)

.PHONY: microbench
microbench: ## run the benchmarks of the packages on two processors
	go test -run '^$$' -bench . -benchmem -cpu 2 ./...

.PHONY: manifests
manifests: ## check what deploy/ has for compose and Kubernetes
	cd tools/manifests && go run . ../../deploy

.PHONY: lint
lint: ## check all modules: go vet, golangci-lint, go mod tidy
	@for module in . tools tools/manifests; do \
		echo "lint $$module"; \
		(cd $$module && go vet ./... && $(LINT) ./... && go mod tidy -diff); \
	done

.PHONY: generate
generate: ## generate Go code from the .proto files
	cd tools && go run ./protogen ../proto

# Compares with a fresh copy, so that it works in a tree with changes too.
.PHONY: generate-check
generate-check: ## fail if the generated code is stale
	@fresh=$$(mktemp -d); trap 'rm -rf "$$fresh"' EXIT; \
	(cd tools && go run ./protogen -out "$$fresh" ../proto); \
	diff -r -x '*.proto' proto "$$fresh" || { echo 'proto/ is stale: run make generate' >&2; exit 1; }
