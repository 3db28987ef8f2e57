# SPDX-License-Identifier: Apache-2.0
# What a contributor types. Needs Go 1.26; everything else is fetched as Go modules or named with the command that installs it. No step needs root.
# The browser tests are left out without Chromium; make test installs it by itself only for root on Debian (a CI container).

GO        ?= go
TAGS      := -tags goolm
TOOLS     := $(CURDIR)/.tools
FUZZTIME  ?= 30s
SHORTFUZZ := 10000x
BENCH     ?= send
DATABASE  ?= sqlite
ARGS      ?=

# Packages where goroutines meet, tested with the race detector. The whole node (server, tour) takes too long with it.
RACE := ./internal/foundation/... ./internal/homeserver/...

export CGO_ENABLED := 0

.PHONY: help run build test check lint fmt fuzz shortfuzz soak bench docs tests oracle

help: ## Show the targets
	@grep -hE '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/^([a-z]+):.*## /  \1\t/' | expand -t 12

run: build ## Start the demonstration network (ARGS=--fresh empties its data)
	@./konsil demo $(ARGS)

build: needs-go ## Build ./konsil
	@s=$$(date +%s); $(GO) build $(TAGS) -trimpath -o konsil ./cmd/konsil && echo "built ./konsil in $$(($$(date +%s)-s)) s"

test: check shortfuzz oracle tests ## Everything that CI runs: format, vet, staticcheck, short fuzzing, oracles, tests

check: lint

lint: needs-go ## gofmt, go vet, staticcheck
	@s=$$(date +%s); unformatted=$$(gofmt -l $$(find . -name '*.go' -not -path './.tools/*' -not -path '*/node_modules/*')); \
	if [ -n "$$unformatted" ]; then echo "not gofmt'ed (run make fmt):"; echo "$$unformatted"; exit 1; fi; echo "gofmt: $$(($$(date +%s)-s)) s"
	@s=$$(date +%s); $(GO) vet $(TAGS) ./... && echo "vet: $$(($$(date +%s)-s)) s"
	@s=$$(date +%s); $(GO) tool staticcheck $(TAGS) ./... && echo "staticcheck: $$(($$(date +%s)-s)) s"

# The race detector is the only thing that needs cgo and a C compiler.
HAVE_CC := $(shell command -v $$(CGO_ENABLED=1 $(GO) env CC 2>/dev/null | cut -d' ' -f1) 2>/dev/null)

tests: needs-go chromium ## All Go tests, with the race detector where goroutines meet
ifeq ($(HAVE_CC),)
	@echo "no C compiler: the tests run without -race (Debian: apt-get install gcc libc6-dev; macOS: xcode-select --install)"
	$(GO) test $(TAGS) -timeout 15m ./...
else
	@race="$$($(GO) list $(TAGS) $(RACE) 2>/dev/null)"; plain="$$($(GO) list $(TAGS) ./... | grep -vxF "$$race")"; \
	$(GO) test $(TAGS) -timeout 15m $$plain; one=$$?; \
	CGO_ENABLED=1 $(GO) test -race $(TAGS) -timeout 15m $$race; two=$$?; \
	[ $$one = 0 ] && [ $$two = 0 ]
endif

.PHONY: chromium
chromium:
	@[ -z "$$KONSIL_TEST_CHROMIUM" ] || exit 0; \
	for name in chromium chromium-browser google-chrome google-chrome-stable; do command -v $$name >/dev/null && exit 0; done; \
	if [ "$$(id -u)" = 0 ] && [ -f /etc/debian_version ] && command -v apt-get >/dev/null; then \
	  (apt-get -qq update && apt-get -qq install -y --no-install-recommends chromium) >/dev/null 2>&1 && exit 0; fi; \
	echo "no Chromium: the browser tests are left out (Debian: apt-get install chromium; elsewhere install Chromium or Chrome)"

oracle: needs-go ## The protocol core against independent implementations (a module of its own)
	@if [ -f internal/oracle/go.mod ]; then cd internal/oracle && export GOEXPERIMENT=jsonv2 && $(GO) vet $(TAGS) ./... && $(GO) test $(TAGS) ./...; fi

# Every fuzz target, each for the given time.
define fuzzall
@for pkg in $$(grep -rlE '^func Fuzz' --include='*_test.go' $(2) | xargs -n1 dirname | sort -u); do \
  case $$pkg in internal/oracle*) continue;; esac; \
  for f in $$(grep -hoE '^func Fuzz[A-Za-z0-9_]+' $$pkg/*_test.go | cut -c6- | sort -u); do \
    $(GO) test $(TAGS) -run '^$$' -fuzz "^$$f\$$" -fuzztime $(1) ./$$pkg >$(TOOLS)/fuzz.log 2>&1 || { cat $(TOOLS)/fuzz.log; exit 1; }; \
    echo "fuzz: $$pkg $$f $(1)"; \
  done; done
endef

# In make test the protocol core is fuzzed, by count: at the end of a time Go's fuzzer sometimes fails with "context deadline exceeded" by itself.
# The other targets run with their seeds there, and all of them in make fuzz.
shortfuzz: needs-go
	@mkdir -p $(TOOLS)
	$(call fuzzall,$(SHORTFUZZ),internal/matrix)

fuzz: needs-go ## Fuzz every parser for FUZZTIME each
	@mkdir -p $(TOOLS)
	$(call fuzzall,$(FUZZTIME),internal cmd)

SEEDS ?= 2000
soak: needs-go ## Thousands of seeded histories of three servers (SEEDS=2000, DATABASE=postgres)
	KONSIL_SEEDS=$(SEEDS) KONSIL_SIMULATE=$(DATABASE) $(GO) test $(TAGS) -timeout 6h -run '^TestServersConverge$$' ./internal/konsiltest

bench: build ## Measure (BENCH=send|tenants|resolve|directory, DATABASE=sqlite|postgres)
	@./konsil bench $(BENCH) --database $(DATABASE) $(ARGS)

fmt: needs-go ## Format all Go files
	@gofmt -w $$(find . -name '*.go' -not -path './.tools/*' -not -path '*/node_modules/*')

docs: needs-go ## Write the generated documentation again
	@$(GO) run ./cmd/konsil check-config --document >docs/configuration.md
	@$(GO) test -count=1 ./internal/telematik/requirement -write-requirements
	@$(GO) test $(TAGS) -count=1 ./internal/server -run '^TestMatrixSupport$$' -write-support
	@$(GO) test $(TAGS) -count=1 ./internal/telematik/permission -run '^TestRulesDocument$$' -write-rules

.PHONY: needs-go
needs-go:
	@command -v $(GO) >/dev/null || { echo "Go 1.26 or newer is missing: https://go.dev/dl/"; exit 1; }
