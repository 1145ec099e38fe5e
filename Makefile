# Granary: the two commands are `make demo` and `make test`. Everything else is for those who work on it.
#
# Nothing is written into the clone: builds go to CARGO_TARGET_DIR, the Python environment to GRANARY_CACHE.

SHELL := /bin/bash
GRANARY_CACHE ?= $(HOME)/.cache/granary
CARGO_TARGET_DIR ?= $(GRANARY_CACHE)/target
export GRANARY_CACHE CARGO_TARGET_DIR

RELEASE_BIN := $(CARGO_TARGET_DIR)/release/granary
# What tests/, benches/ and demo scripts are given: the binary under test, and a Python with the pinned requirements.
with_python = GRANARY_PYTHON="$$(scripts/venv $(1))" && export GRANARY_PYTHON && export PATH="$$(dirname "$$GRANARY_PYTHON"):$$PATH"

.DEFAULT_GOAL := help
.PHONY: help bootstrap build optimised demo test test-clients test-select verify fix bench bench-ai bench-peers soak docker release config

help: ## This list
	@grep -hE '^[a-z-]+:.*## ' $(MAKEFILE_LIST) | sed -E 's/^([a-z-]+):.*## /  make \1\t/' | expand -t 22

bootstrap: ## Install what is missing to build (needs root only if something is)
	@scripts/bootstrap

build: bootstrap ## Build the binary quickly, as the tests use it
	cargo build --locked --workspace --bins

optimised: bootstrap ## Build the optimised binary as the demo and the benches use it
	cargo build --release --locked --workspace --bins

release: bootstrap ## Build the optimised binary with all that it can have (S3 Select), as it is handed out
	cargo build --release --locked --workspace --bins --features granary/select --config 'profile.release.panic="unwind"'

demo: optimised ## Build, start, and run a training pipeline through a kill -9
	@$(call with_python,tests/requirements.txt) && PYTHON="$$GRANARY_PYTHON" GRANARY_BIN="$(RELEASE_BIN)" tests/demo/run.sh

test: bootstrap ## All tests: Rust, doctests, end to end with real S3 clients
	@$(call with_python,tests/requirements.txt) && "$$GRANARY_PYTHON" scripts/test.py

test-clients: build ## The client tests with the heavier clients too (torch, TensorFlow, Lance, AWS's Rust SDK and so on): 10 GB
	@scripts/client-packages
	cargo build --locked --manifest-path tests/clients/rust/Cargo.toml
	@GRANARY_LOOPS_PYTHON="$${GRANARY_LOOPS_PYTHON:-$$(scripts/venv tests/requirements-loops.txt)}" && export GRANARY_LOOPS_PYTHON && \
	$(call with_python,tests/requirements-clients.txt) && GRANARY_BIN="$(CARGO_TARGET_DIR)/debug/granary" "$$GRANARY_PYTHON" -m pytest -p no:cacheprovider tests/clients tests/docker

test-select: bootstrap ## The tests of S3 Select, which builds DataFusion first
	cargo test --locked --workspace --features granary/select --test engine
	cargo test --locked --workspace --features granary/select --lib -- engine:: select::
	cargo build --locked --workspace --bins --features granary/select
	@$(call with_python,tests/requirements.txt) && GRANARY_BIN="$(CARGO_TARGET_DIR)/debug/granary" "$$GRANARY_PYTHON" -m pytest tests/clients/test_select.py

verify: bootstrap ## Checks that never write: format, clippy, layers, tidy, generated files, licences
	cargo fmt --all --check
	cargo clippy --locked --workspace --all-targets -- -D warnings
	cargo run -q --locked -p xtask -- layers tidy deps config compat
	@if cargo deny --version >/dev/null 2>&1; then cargo deny --locked check advisories bans licenses sources; \
	else echo "verify: cargo-deny is not installed: known-vulnerability advisories were NOT checked" \
	     "(licences and sources were, by xtask). To have them: cargo install --locked cargo-deny"; fi

fix: ## Format, apply clippy's fixes, write generated files
	cargo fmt --all
	cargo clippy --workspace --all-targets --fix --allow-dirty --allow-staged
	cargo fmt --all
	cargo run -q -p xtask -- config compat --write

bench: optimised ## Measure this server; JSON beside the table
	@$(call with_python,tests/requirements.txt) && GRANARY_BIN="$(RELEASE_BIN)" benches/run

bench-ai: optimised ## Measure batches, members and epochs against reads one by one
	@$(call with_python,tests/requirements.txt) && GRANARY_BIN="$(RELEASE_BIN)" "$$GRANARY_PYTHON" benches/ai_reads.py

bench-peers: optimised ## Measure this server against Garage in the same run
	@$(call with_python,tests/requirements.txt) && GRANARY_BIN="$(RELEASE_BIN)" benches/peers

soak: optimised ## The long ones: ignored Rust tests, and hundreds of kill -9s under load
	@$(call with_python,tests/requirements.txt) && GRANARY_BIN="$(RELEASE_BIN)" "$$GRANARY_PYTHON" scripts/test.py --soak

docker: release ## Build the image from scratch (no registry), as granary:dev
	@GRANARY_BIN="$(RELEASE_BIN)" scripts/docker-build.sh granary:dev
