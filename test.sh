#!/usr/bin/env bash
# All tests: formatting, lints, and everything that `cargo test` runs. One build profile (dev).
# Installs what is missing where it may (Debian packages as root), or says in one line what a person must install.
set -euo pipefail
cd "$(dirname "$0")"

need() { # program, Debian package
    command -v "$1" >/dev/null && return
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq && apt-get install -y -qq "$2" >/dev/null
    else
        echo "please install $2 (for $1)" >&2
        exit 1
    fi
}

for tool in cargo rustfmt cargo-clippy; do
    if ! command -v "$tool" >/dev/null; then
        echo "please install Rust 1.95 or later with rustfmt and clippy (rustup: rustup toolchain install stable)" >&2
        exit 1
    fi
done
need cc build-essential
need pkg-config pkg-config
# The tests run on real parts, each started for them: Kafka's jars are fetched once, into ~/.cache/dit/parts.
need java default-jre-headless
need mvn maven
if [ ! -d /usr/lib/postgresql ]; then need initdb postgresql; fi
need promtool prometheus
# Clocks that are off, and disks of a process's own.
if ! ls /usr/lib/*/faketime/libfaketime.so.1 >/dev/null 2>&1; then need faketime faketime; fi
need nsenter util-linux
need ip iproute2
if ! pkg-config --exists openssl; then
    if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
        apt-get update -qq && apt-get install -y -qq libssl-dev >/dev/null
    else
        echo "please install libssl-dev (OpenSSL's headers, for TLS to Kafka)" >&2
        exit 1
    fi
fi
# The collector of traces and the chart's judges: packages of Python and a module of Go, fetched once beside the jars.
need python3 python3
need go golang-go
if ! python3 -m pip --version >/dev/null 2>&1; then need pip3 python3-pip; fi
if [ -n "${DIT_REAL_DATA:-}" ]; then
    need zstd zstd
    need tar tar
fi

cargo fmt --all --check
cargo clippy --workspace --all-targets --features kafka-tls --locked -- -D warnings
cargo test --workspace --features kafka-tls --locked
# Bans, licences and sources, where the tool is installed. Advisories need a database from the network: CI brings its own.
if command -v cargo-deny >/dev/null; then
    cargo deny check bans licenses sources
fi
