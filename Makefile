# `make demo` and `make test` install what they need on a fresh Debian 12 with git, Rust, Python and apt.

CARGO ?= cargo
# Prefix of the names of tests that take minutes.
SOAK := soak_

.PHONY: help demo test soak bench flights check build clean

help: ## this list
	@grep -E '^[a-z]+:.*##' $(MAKEFILE_LIST) | sed -E 's/:.*## /\t/' | expand -t 12

demo: ## installs, builds quickly, and does the main job before your eyes (as root, half a minute after the build)
	@.ci/install build run
	$(CARGO) build --profile demo --locked
	python3 deploy/demo.py --binary target/demo/piccolo

build: ## the release binary: target/release/piccolo, and its symbols: piccolo.debug beside it
	@.ci/install build
	$(CARGO) build --release --locked
	@.ci/strip target/release/piccolo

test: ## all tests, including those with a real containerd (as root)
	@.ci/install build run
	$(CARGO) test --workspace --locked --no-fail-fast --lib --bins --tests -- --skip $(SOAK)

soak: ## long tests (as root): the whole fault matrix with a real containerd, other seeds of the simulation each day (PICCOLO_SIM_FIRST, PICCOLO_SIM_SEEDS), a month of traffic (15 minutes), ten minutes of an idle site, chaos (12 minutes; PICCOLO_CHAOS_SECONDS), then fuzzing, an hour for each of 17 targets (PICCOLO_FUZZ_SECONDS)
	@.ci/install build run fuzz
	$(CARGO) test --workspace --locked --tests -- --nocapture $(SOAK)
	tests/fuzz/soak

bench: ## rates, CPU, memory and pull times beside nginx, MariaDB and a registry, into bench/RESULTS.md (as root, two hours, 12 GiB, 15 GiB of disk)
	@.ci/install build run
	PICCOLO_COMMIT=$$(git describe --always --dirty) $(CARGO) build --release --locked --workspace
	target/release/piccolo-bench all

flights: ## a new image on 8 and 16 nodes at once, real containerds over limited links, into bench/RESULTS.md (as root, 12 minutes, 4 GiB)
	@.ci/install build run
	PICCOLO_COMMIT=$$(git describe --always --dirty) $(CARGO) build --release --locked --workspace
	target/release/piccolo-bench new-image

check: ## format, clippy with warnings as errors, licences and sources of dependencies, docs
	@.ci/install build check
	$(CARGO) fmt --all --check
	$(CARGO) clippy --workspace --all-targets --locked -- -D warnings
	$(CARGO) deny --locked --log-level error check bans licenses sources
	RUSTDOCFLAGS="-D warnings" $(CARGO) doc --workspace --no-deps --locked

clean: ## removes build products
	$(CARGO) clean
