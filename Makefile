# Berth: build, run, test. `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# Every path that a target leaves something in is below these two, or in the cache (images/cache prints it).
DIST := target/dist
STATE := .run

TARGET := $(shell uname -m)-unknown-linux-gnu
export PATH := $(HOME)/.cargo/bin:$(PATH)

.PHONY: help deps build quick images image image-lock image-try image-check qemu-tests run test test-all bench field lint clean clean-cache

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## install what building and running need (as root, from Debian; Rust by rustup)
	@images/install-deps --engine
	@systemd/install-rust

build: deps ## build berth as it is shipped, one static binary: target/dist/berth
	@tests/artifacts restore release
	cargo build --locked --release --bin berth
	@tests/artifacts save release
	@mkdir -p $(DIST)
	@install -m 0755 target/$(TARGET)/release/berth $(DIST)/berth.new && mv $(DIST)/berth.new $(DIST)/berth
	@ls -l $(DIST)/berth

quick: deps ## build berth without optimising it, for `make run` and the tests: target/quick/berth
	@tests/artifacts restore ci
	cargo build --locked --profile ci --bin berth
	@tests/artifacts save ci
	@mkdir -p target/quick
	@install -m 0755 target/$(TARGET)/ci/berth target/quick/berth.new && mv target/quick/berth.new target/quick/berth

images: deps ## build the instance images (starts an engine if none answers); IMAGES="memory time" builds those alone
	@images/engine start $(STATE)/engine
	@images/build $(IMAGES)

image: build images ## build the bootable host image, target/image/berth.raw (IMAGE_FLAGS="--zstd --qcow2 --vmdk --vhdx")
	@image-build/build $(IMAGE_FLAGS)

image-lock: build images ## the same with today's package versions, which it writes to image-build/packages.lock
	@image-build/build --refresh-lock $(IMAGE_FLAGS)

image-try: ## boot the host image in QEMU and print what came up
	@image-build/try

image-check: build images ## build the host image twice and compare the root file systems
	@image-build/check-reproducible

qemu-tests: image ## boot the host image in virtual machines and run every test on them
	@qemu-tests/run

run: deps ## start a working instance and call it through its HTTPS address; Ctrl-C stops
	@$(MAKE) --no-print-directory --jobs=2 quick images IMAGES="everything memory"
	@systemd/run-local $(STATE)

test: deps ## test everything that each change needs, for real: engine, clients, browser, host image
	@tests/run

test-all: deps ## the same, and what takes hours: every boot, ten power cuts, long fuzzing, the shipped binary on the engine
	@tests/run all

bench: build images ## measure against nginx and supergateway; prints tables of ratios
	@benches/run

lint: deps ## formatting, clippy, and what crates Berth is built from
	cargo fmt --check
	cargo clippy --locked --profile ci --all-targets -- -D warnings
	cargo clippy --locked --profile ci --test qemu -- -D warnings
	@tests/deny

clean: ## remove what was built and the state of `make run` (its instances too)
	@systemd/run-local --remove $(STATE)
	rm -rf target $(STATE)

clean-cache: ## remove what tests and builds keep outside of the checkout
	@images/engine stop "$$(images/cache)/engine"
	rm -rf "$$(images/cache)"
