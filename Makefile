# What a newcomer needs: demo build check test bench image vectors.
SHELL       := /bin/bash
.SHELLFLAGS := -euo pipefail -c
.DEFAULT_GOAL := build

GO       ?= go
PYTHON   ?= python3
export GOFLAGS := -buildvcs=false -trimpath
export CGO_ENABLED := 0

REVISION := $(shell git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
LDFLAGS  := -X main.revision=$(REVISION)
# What enclave/ may have of code lines. The aim is 8,000: lower this whenever code goes.
ENCLAVE_LINES := 11970
STATICCHECK := $(GO) tool -modfile=tools/tools.mod staticcheck

.PHONY: demo build check test test-fast test-race bench vectors fuzz image image-lock image-test image-twice vm-tools test-machine clean

## build: the five binaries, in bin/
build:
	@mkdir -p bin
	$(GO) build -ldflags '$(LDFLAGS)' -o bin/ ./client/cmd/cape ./host/cmd/caped ./host/cmd/vsock-proxy
	$(GO) build -ldflags '-s -w' -o bin/ ./enclave/cmd/cape-runtime ./enclave/cmd/cape-runtime-dev

## demo: a platform of its own, a deploy, a run, an encrypted input; prints what was verified
demo: build
	@bash test/demo.sh

## test: everything, with what the tests need installed first
test: build
	@bash tools/setup.sh
	CAPE_TEST_FULL=1 $(GO) test -count=1 -timeout 25m ./...

## test-fast: the inner loop
test-fast:
	$(GO) test -short ./...

## test-race: the concurrent parts under the race detector (needs a C compiler)
test-race:
	CGO_ENABLED=1 $(GO) test -short -race -count=1 ./core/... ./client/... ./host/... ./enclave/...

## check: format, vet, staticcheck, architecture, generated files
check:
	@test -z "$$(gofmt -l $$(git ls-files -co --exclude-standard '*.go'))" || { echo "gofmt would change:"; gofmt -l $$(git ls-files -co --exclude-standard '*.go'); exit 1; }
	$(GO) vet ./...
	$(STATICCHECK) ./...
	$(GO) test -count=1 ./test/archtest
	$(GO) run ./tools/vectorgen -check
	$(GO) run ./tools/tcbdeps -check
	$(GO) run ./tools/tcbdeps -lines $(ENCLAVE_LINES)
	$(GO) mod verify >/dev/null
	$(GO) mod tidy -diff

## fuzz: each fuzz target for 500 inputs, or FUZZTIME=10s
fuzz:
	@bash tools/fuzz.sh $(FUZZTIME)

## bench: side by side with the peers, as a table, as JSON and as a plot (build/)
bench: build
	@bash test/bench/run.sh

## vectors: writes spec/vectors anew
vectors:
	$(GO) run ./tools/vectorgen

## image: the enclave's images, bin/cape-runtime.eif and bin/cape-runtime-dev.eif, with what is in them (image/README.md)
image:
	@bash tools/vm-tools.sh || echo "the images are built all the same, but cannot be started here" >&2
	$(GO) run ./image/cmd/mkimage build

## image-lock: pins the newest packages in image/lock.json and builds from them; LOCKFLAGS=-keep-packages after a change of ours alone
image-lock:
	$(GO) run ./image/cmd/mkimage lock $(LOCKFLAGS)

## image-test: builds, boots and attests the production image in QEMU's nitro-enclave machine
image-test:
	@bash image/test.sh

## test-machine: the jail's battery, the journey and upgrades in virtual machines; half an hour where they are emulated
test-machine: image
	CAPE_TEST_FULL=1 CAPE_TEST_MACHINE=1 \
		$(GO) test -count=1 -v -timeout 60m -p 1 -run 'Machine|Production|Upgrade' ./test/e2e ./test/production ./test/hostile

## image-twice: everything from nothing, twice, at two paths: the same bytes
image-twice:
	@bash image/twice.sh

## vm-tools: installs what starts images here, names what it cannot install; VMFLAGS=--nitro for what image-test needs
vm-tools:
	@bash tools/vm-tools.sh $(VMFLAGS)

clean:
	rm -rf bin build
