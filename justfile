# What a developer types. `just` alone lists it.

default:
    @just --list

# The demo on a made-up register.
demo *ARGS:
    cargo run --release -- demo {{ARGS}}

# All tests, as CI runs them.
test:
    ./test.sh

# kill -9 in its long form.
kill-long KILLS="51":
    DIT_KILLS={{KILLS}} cargo test -p dit --test kill

# Advisories and licences.
deny:
    cargo deny check

fmt:
    cargo fmt --all
