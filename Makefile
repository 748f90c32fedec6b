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
PROGRAMS := cor clear-mini-os clear-agent clear-vmm

.PHONY: help demo test build bench install uninstall clean

help:
	@sed -n 's/^# \{0,1\}//p;/^$$/q' Makefile

# Static: the agent is the only program in its guest, and the others start sooner. In one go, so that what they share is compiled once.
build:
	@scripts/install-deps build
	RUSTFLAGS="-C target-feature=+crt-static" cargo build --release --locked --target $(TARGET) \
		--package agent --package cor --package mini_os --package vmm
	@mkdir -p $(RELEASE)
	@install -s -m 0755 $(addprefix $(BUILT)/$(TARGET)/release/,$(PROGRAMS)) $(RELEASE)

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
	install -m 0755 $(addprefix $(RELEASE)/,$(PROGRAMS)) $(DESTDIR)$(PREFIX)/bin
	install -m 0644 docs/man/*.8 $(DESTDIR)$(PREFIX)/share/man/man8

uninstall:
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/bin/,$(PROGRAMS))
	rm -f $(addprefix $(DESTDIR)$(PREFIX)/share/man/man8/,$(notdir $(wildcard docs/man/*.8)))

clean:
	cargo clean
