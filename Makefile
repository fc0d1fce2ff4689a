# make demo       back up, erase a person, restore and prove it, on a throwaway PostgreSQL; KEEP=1 keeps it to play with
# make test       every test, against a real PostgreSQL and a real S3 server; the packages' with the race detector on
# make soak       the tests that kill runs at random moments, and that erase people from random worlds, fifty times each; KILLS=, SEED=;
#                 and the largest manifest; then the programs' tests with the race detector on
# make forgotten  erase three people out of 28 snapshots with 200 000 people, and compare with SQL by hand: up to an hour; PEOPLE=, SNAPSHOTS=
# make lint       formatting, vet, staticcheck, layers, known vulnerabilities
# make bench      measure against the tools that people use today (docs/performance.md): SIZE=1 PAIRS=5 SCENARIOS=first,next,restore OUT=bench
# make build      bin/lethe

SHELL      := /bin/bash
.SHELLFLAGS := -euo pipefail -c
GO         ?= go
VERSION    := $(shell git describe --tags --always --dirty 2>/dev/null || echo unknown)
COMMIT     := $(shell git rev-parse HEAD 2>/dev/null || echo unknown)
LDFLAGS    := -X main.version=$(VERSION) -X main.commit=$(COMMIT)
TOOLS      := cmd/internal/tools

.PHONY: build demo test soak forgotten lint fuzz bench clean

build:
	$(GO) build -trimpath -ldflags '$(LDFLAGS)' -o bin/lethe ./cmd/lethe

demo: build
	.ci/deps demo
	$(GO) build -trimpath -o bin/demo ./cmd/internal/demo
	bin/demo -lethe bin/lethe $(if $(KEEP),-keep)

# Two packages at a time, and those that take longest first. The programs' tests start a hundred servers and a thousand
# processes, for twice as long where races are looked for: `make soak` does that.
test:
	.ci/deps test
	$(GO) build -C $(TOOLS) -o $(CURDIR)/bin/ github.com/versity/versitygw/cmd/versitygw
	LETHE_VERSITYGW=$(CURDIR)/bin/versitygw $(MAKE) --no-print-directory -k -j2 test-flows test-programs test-packages

.PHONY: test-flows test-programs test-packages
test-flows:
	$(GO) test -race -timeout 40m ./pipeline
test-programs:
	$(GO) test -p 1 -timeout 40m ./cmd/lethe ./cmd/...
test-packages:
	$(GO) test -race -p 1 -timeout 40m $$($(GO) list ./pipeline/... ./rules/... ./scrub/... | grep -vx lethe/pipeline)

# `make test` kills a few, and draws the same few worlds in every run. A purge is killed so often altogether, in each of
# its phases in turn. SEED is one that was printed; without it every run is another.
KILLS ?= 50
soak:
	.ci/deps test
	$(GO) build -C $(TOOLS) -o $(CURDIR)/bin/ github.com/versity/versitygw/cmd/versitygw
	LETHE_VERSITYGW=$(CURDIR)/bin/versitygw LETHE_KILLS=$(KILLS) LETHE_SEED=$(SEED) $(GO) test -timeout 90m -v -run 'Killed|EqualsModel|WaysToEraseAgree|LargestManifest' ./cmd/lethe ./pipeline
	LETHE_VERSITYGW=$(CURDIR)/bin/versitygw $(GO) test -race -timeout 60m ./cmd/lethe ./cmd/...

# `make test` does the same with a few hundred people. It wants about 5 GB of TMPDIR.
PEOPLE    ?= 200000
SNAPSHOTS ?= 28
forgotten:
	.ci/deps test
	LETHE_PEOPLE=$(PEOPLE) LETHE_SNAPSHOTS=$(SNAPSHOTS) $(GO) test -timeout 180m -v -run Forgotten ./cmd/lethe

lint:
	test -z "$$(gofmt -l cmd pipeline rules scrub | tee /dev/stderr)"
	$(GO) mod tidy -diff
	$(GO) vet ./...
	$(GO) build -C $(TOOLS) -o $(CURDIR)/bin/ honnef.co/go/tools/cmd/staticcheck golang.org/x/vuln/cmd/govulncheck
	bin/staticcheck ./...
	.ci/vulncheck

# FUZZTIME for each fuzz target; `make test` runs their seed corpora only.
FUZZTIME ?= 1m
fuzz:
	for pkg in $$($(GO) list ./...); do \
	  for target in $$($(GO) test -list '^Fuzz' $$pkg | grep '^Fuzz' || true); do \
	    echo "$$pkg $$target"; $(GO) test -run '^$$' -fuzz "^$$target$$" -fuzztime $(FUZZTIME) $$pkg; \
	  done; \
	done

SIZE      ?= 1
PAIRS     ?= 5
SCENARIOS ?=
OUT       ?= bench
DIR       ?=
bench: build
	.ci/deps bench
	$(GO) build -trimpath -o bin/bench ./cmd/internal/bench
	bin/bench -lethe bin/lethe -size $(SIZE) -pairs $(PAIRS) -scenarios '$(SCENARIOS)' -out '$(OUT)' -json '$(OUT)/report.json' -dir '$(DIR)' $(BENCHFLAGS)

clean:
	rm -rf bin
