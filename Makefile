# The project's commands. Each first looks for what it needs and installs what is missing (scripts/setup).
SHELL := /bin/bash
# Cargo has jobs of its own, whatever number of things is made at a time here.
unexport MAKEFLAGS
.DEFAULT_GOAL := help

# Kernel of `make run`: generic, cloud or backports.
KERNEL ?= cloud
# Virtual processors of the guests of `make bench-network`.
CPUS ?=
# How long `make fuzz` runs each target.
FUZZ_SECONDS ?= 120
# What `make bench-processor` is limited to: jobs or classes, programs, rounds.
ONLY ?=
PROGRAMS ?=
ROUNDS ?=
# A guest keeps one core busy: as many at a time as there are cores.
GUESTS_AT_A_TIME ?= $(shell nproc)

.PHONY: help build run guests-all nested-counts nested-probe test test-all check unit code guests bench bench-processor bench-network bench-made fuzz

help:
	@echo "make run        boot Debian on StorVSC and end in its shell (KERNEL=generic|cloud|backports)"
	@echo "make test       formatting, lints, unit tests, guests that boot real kernels"
	@echo "make test-all   the same with the slow guest tests"
	@echo "make bench      processors, disks and networks next to QEMU TCG and the host, with tables and a picture"
	@echo "make bench-processor   its first half; ONLY=sha256,boot PROGRAMS=translator,tcg ROUNDS=1 for a part of it"
	@echo "make bench-network     its last part; ONLY=tap,nat,legacy CPUS=2 ROUNDS=1 for a part of it or other guests"
	@echo "make nested-counts   exits and interrupts of KVM for the disks and networks of bodhi and QEMU, counted in the nested host"
	@echo "make nested-probe    exits of KVM by their reason for a guest that leaves in every way, beside QEMU's"
	@echo "make fuzz       every fuzz target for FUZZ_SECONDS ($(FUZZ_SECONDS)) seconds"

build:
	scripts/setup build
	cargo build --release -p bodhi

run:
	scripts/setup build guest
	scripts/run $(KERNEL)

check:
	cargo fmt --all --check
	cargo clippy --workspace --all-targets -- -D warnings
	cd guest/probe && cargo fmt --check
	cd guest/probe && cargo clippy -q --release --target-dir ../../target/probe -- -D warnings
	cd guest/integration && cargo fmt --check
	cd guest/integration && cargo clippy -q --all-targets --target-dir ../../target/integration -- -D warnings

unit:
	cargo test --workspace --exclude guests
	cd guest/integration && cargo test --target-dir ../../target/integration

code:
	$(MAKE) --no-print-directory check unit build

guests:
	scripts/guest kernel generic cloud backports
	scripts/guest root
	scripts/guest probe
	scripts/guest media
	scripts/guest qemu
	scripts/guest nested

test: TESTS :=
test-all: TESTS := --include-ignored
test-all: guests-all
guests-all:
	scripts/setup build guest
	scripts/guest installer
	scripts/guest kernel i386 i386-pae bullseye trixie
	scripts/guest xen
test test-all:
	scripts/setup build guest
	$(MAKE) --no-print-directory -j2 --output-sync=line code guests
	$(if $(TESTS),scripts/guest debian)
	cargo test --release -p guests -- --test-threads $(GUESTS_AT_A_TIME) --skip kvm:: $(TESTS)

bench-made:
	scripts/setup build guest bench
	scripts/guest kernel cloud
	scripts/guest bench
	scripts/guest probe
	scripts/guest qemu
	cargo build --release -p bodhi

bench: bench-made
	scripts/guest root
	scripts/guest kernel generic
	cargo run --release -p bench

bench-network:
	scripts/setup build guest bench
	scripts/guest kernel cloud generic
	scripts/guest root
	scripts/guest qemu
	cargo build --release -p bodhi
	cargo run --release -p bench -- network $(if $(ONLY),--only $(ONLY)) $(if $(CPUS),--cpus $(CPUS)) \
		$(if $(ROUNDS),--rounds $(ROUNDS))

bench-processor: bench-made
	cargo run --release -p bench -- processor $(if $(ONLY),--only $(ONLY)) $(if $(PROGRAMS),--programs $(PROGRAMS)) \
		$(if $(ROUNDS),--rounds $(ROUNDS))

nested-counts: build guests
	for what in disks networks; do \
		scripts/nested --instruction-clock --disk .cache/guest/root.img tests/nested/compare $$what || exit; \
	done

nested-probe: build guests
	scripts/nested tests/nested/probed

fuzz:
	scripts/setup build fuzz
	scripts/fuzz $(FUZZ_SECONDS)
