# Two commands do everything on a fresh Debian 12 machine, as root, with a Rust toolchain:
#
#   make demo    install what is missing, build, and run a container in its own virtual machine
#   make test    everything that CI runs
#
# All of them work twice in a row; the second time there is little left to do.

SHELL := /bin/bash
TARGET := x86_64-unknown-linux-gnu
RELEASE := target/release
# Where cargo builds; the programs are put into $(RELEASE) also when that is elsewhere.
BUILT := $(or $(CARGO_TARGET_DIR),target)
PREFIX ?= /usr/local
MINI_OS := $(RELEASE)/clear-mini-os

.PHONY: help demo test build bench install uninstall clean

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

# The agent is static: it is the only program in its guest. So is clear-vmm: it starts sooner, and needs no file after that.
# The others are ordinary programs of the host. All at once, since each build ends with one CPU that optimizes a whole program.
STATIC := RUSTFLAGS="-C target-feature=+crt-static" cargo build --locked --target $(TARGET)

build:
	@scripts/install-deps build
	@echo "building cor and clear-mini-os, clear-agent, clear-vmm"; \
	cargo build --release --locked --package cor --package mini_os & programs=$$!; \
	$(STATIC) --profile agent --package agent & agent=$$!; \
	$(STATIC) --profile vmm --package vmm & vmm=$$!; \
	failed=0; for build in $$programs $$agent $$vmm; do wait $$build || failed=1; done; exit $$failed
	@mkdir -p $(RELEASE)
	@install -m 0755 $(BUILT)/$(TARGET)/agent/clear-agent $(BUILT)/$(TARGET)/vmm/clear-vmm $(RELEASE)
	@for program in cor clear-mini-os; do \
		test $(BUILT)/release/$$program -ef $(RELEASE)/$$program || install -m 0755 $(BUILT)/release/$$program $(RELEASE); done

demo:
	@scripts/install-deps demo
	@$(MAKE) --no-print-directory build
	@scripts/demo $(RELEASE)

test:
	@scripts/install-deps test
	@$(MAKE) --no-print-directory build
	cargo xtask ci

bench: build
	@scripts/install-deps test
	cargo xtask bench

install: build
	install -d $(DESTDIR)$(PREFIX)/bin $(DESTDIR)$(PREFIX)/share/man/man8
	install -m 0755 $(RELEASE)/cor $(RELEASE)/clear-mini-os $(RELEASE)/clear-agent $(RELEASE)/clear-vmm $(DESTDIR)$(PREFIX)/bin
	install -m 0644 docs/man/*.8 $(DESTDIR)$(PREFIX)/share/man/man8

uninstall:
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/bin/,cor clear-mini-os clear-agent clear-vmm)
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/share/man/man8/,$(notdir $(wildcard docs/man/*.8)))

clean:
	cargo clean
