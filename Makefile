# Berth: build, run, test. `make help` lists the targets.
SHELL := /bin/bash
.DEFAULT_GOAL := help

# Every path that a target leaves something in is below these two.
DIST := target/dist
STATE := .run

ARCH := $(shell uname -m)
TARGET := $(ARCH)-unknown-linux-gnu
export PATH := $(HOME)/.cargo/bin:$(PATH)

.PHONY: help deps build images image image-lock image-try image-check qemu-tests run test bench lint clean

help: ## list the targets
	@awk -F ':.*## ' '/^[a-z-]+:.*## / { printf "  make %-12s %s\n", $$1, $$2 }' $(MAKEFILE_LIST)

deps: ## install what building and running need (as root, from Debian; Rust by rustup)
	@images/install-deps --engine
	@systemd/install-rust

build: deps ## build berth as one static binary: target/dist/berth
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --release --target $(TARGET) --bin berth
	@mkdir -p $(DIST)
	@install -m 0755 target/$(TARGET)/release/berth $(DIST)/berth.new && mv $(DIST)/berth.new $(DIST)/berth
	@ls -l $(DIST)/berth

images: deps ## build the instance images (starts an engine if none answers)
	@images/engine start $(STATE)/engine
	@images/build

image: build images ## build the bootable host image, target/image/berth.raw (IMAGE_FLAGS="--zstd --qcow2 --vmdk --vhdx")
	@image-build/build $(IMAGE_FLAGS)

image-lock: build images ## the same with today's package versions, which it writes to image-build/packages.lock
	@image-build/build --refresh-lock $(IMAGE_FLAGS)

image-try: ## boot the host image in QEMU and print what came up
	@image-build/try

image-check: build images ## build the host image twice and compare the root file systems
	@image-build/check-reproducible

qemu-tests: image ## boot the host image in virtual machines and test it
	@qemu-tests/run

run: build images ## start a working instance and call it through its HTTPS address; Ctrl-C stops
	@systemd/run-local $(STATE)

test: deps ## everything, tested for real, the host image in virtual machines too
	@tests/run

bench: build images ## measure against nginx and supergateway; prints tables of ratios
	@benches/run

lint: deps ## formatting and clippy
	cargo fmt --check
	cargo clippy --locked --all-targets -- -D warnings
	cargo clippy --locked --test qemu_functional --test qemu_security --test qemu_performance -- -D warnings

clean: ## remove what was built and the state of `make run` (its instances too)
	@systemd/run-local --remove $(STATE)
	rm -rf target $(STATE)
