# alvus: `make help` lists what there is. `make run` and `make test` are all a newcomer needs.

CARGO ?= cargo
CLIENTS := target/clients
# The tests that need nothing but Rust: all but those with other people's programs.
ALONE := $(filter-out boxes clients endure network pages smuggling,$(basename $(notdir $(wildcard tests/*.rs))))

.DEFAULT_GOAL := help
.PHONY: help run build test unit clients agents bench attack fuzz simulate soak deny lint clean prove tools

help: ## this list
	@sed -n 's/^\([a-z][a-zA-Z%_-]*\):.*## \(.*\)/  make \1|\2/p' $(MAKEFILE_LIST) | awk -F'|' '{ printf "%-22s %s\n", $$1, $$2 }'

run: tools ## build and start alvus; without .env or API_KEYS it starts the demo
	@$(CARGO) build --release --locked --quiet
	@if [ -e .env ] || [ -n "$$API_KEYS" ]; then exec target/release/alvus; \
	else echo "No .env and no API_KEYS: starting the demo (alvus init makes an .env)."; exec target/release/alvus demo; fi

build: tools ## build target/release/alvus
	$(CARGO) build --release --locked

test: tools clients ## all tests: unit tables, sockets, real clients and servers
	$(CARGO) test --locked --no-fail-fast -p alvus -p alvus_malloc -p alvus_scan

unit: tools ## the tests that need nothing but Rust
	$(CARGO) test --locked --no-fail-fast -p alvus -p alvus_malloc -p alvus_scan --lib $(foreach t,$(ALONE),--test $(t))

clients: ## install the real clients and servers that `make test` uses (into target/clients)
	@tests/clients/setup $(CLIENTS)

agents: tools build ## real agents do tasks on a provider that fails (250 MB and more each); AGENTS=claude/terminal, AGENTS=light
	tests/agents/run target/release/alvus target/agents $(AGENTS)

# Coverage counters steer the fuzzer; they need a build of their own.
fuzz: export FUZZ_SEC ?= 60
fuzz: tools ## fuzz the parsers, FUZZ_SEC (60) seconds each; FUZZ="head body" for some of them
	RUSTFLAGS="-C instrument-coverage" LLVM_PROFILE_FILE=/dev/null CARGO_TARGET_DIR=$${CARGO_TARGET_DIR:-target}/fuzz \
	$(CARGO) test --locked --test fuzz -- $(FUZZ)

simulate: tools ## a day of traffic against modelled providers, in seconds: a table of policies; then each once over sockets
	$(CARGO) test --locked --test simulator --test scenarios -- --nocapture

soak: export SOAK_MIN ?= 10
soak: tools ## mixed traffic, faults and reloads for SOAK_MIN (10) minutes
	$(CARGO) test --locked --test soak

attack: tools clients build ## slowhttptest in its four modes, and a stop for a minute
	tests/attack/slow target/release/alvus
	STOP_SEC=60 $(CARGO) test --locked --quiet --test endure a_stop

prove: tools ## what tiny_http as published does with the tests of the front door: each has to fail
	tests/front_door/prove

deny: tools ## the supply chain: licences, sources, duplicates, build-time code, unused crates
	tests/deny

# BENCH=quick for a look; see the usage in tests/bench/bench.rs for other proxies and single scenarios.
bench: build ## alvus beside nginx and haproxy: one table; BENCH=quick takes under two minutes
	$(CARGO) bench --locked --bench bench -- $(BENCH)
	$(CARGO) bench --locked --bench translated

lint: tools deny ## rustfmt, clippy, docs, the floor rules, the supply chain, shellcheck
	$(CARGO) fmt --check
	$(CARGO) clippy --locked --all-targets -- -D warnings
	$(CARGO) clippy --locked -p tiny_http_joined -- -D warnings
	$(CARGO) clippy --locked --all-targets -p alvus_malloc -p alvus_scan -- -D warnings
	for dialects in '' messages responses; do $(CARGO) clippy --locked --no-default-features --features "$$dialects" -- -D warnings || exit 1; done
	RUSTDOCFLAGS="-D warnings -A rustdoc::private_intra_doc_links" $(CARGO) doc --locked --no-deps --document-private-items --quiet
	tests/floors
	@command -v shellcheck >/dev/null || { [ "$$(id -u)" = 0 ] && apt-get install -qq -y shellcheck >/dev/null; } || { echo "make lint: shellcheck is missing; run: apt-get install shellcheck" >&2; exit 1; }
	git ls-files -co --exclude-standard -z | xargs -0 grep -lIE '^#!(/bin/sh|/usr/bin/env (ba)?sh|/bin/bash)' | xargs shellcheck

clean: ## remove what was built
	rm -rf target dist

# What make cannot do without, each in one line.
tools:
	@for t in cc $(firstword $(CARGO)); do command -v $$t >/dev/null || { \
	case $$t in cc) how="apt-get install gcc libc6-dev";; *) how="install Rust with rustup";; esac; \
	echo "make: $$t is missing; $$how" >&2; exit 1; }; done

-include cross/cross.mk
