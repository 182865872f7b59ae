# What a developer types. `just` alone lists it.

default:
    @just --list

# The demo on a made-up register.
demo *ARGS:
    cargo run --release -- demo {{ARGS}}

# A real Kafka of one node, or three (`just kafka 3`), until Enter.
kafka *NODES:
    cargo run --quiet -p parts --bin start-part -- kafka {{NODES}}

# A PostgreSQL with an empty database, until Enter.
postgres:
    cargo run --quiet -p parts --bin start-part -- postgres

# A schema registry, until Enter.
registry:
    cargo run --quiet -p parts --bin start-part -- registry

# Kafka in trouble, and revocation under load, with their figures.
kafka-tests:
    cargo test -p dit --features kafka-tls --test kafka_faults --test revocation -- --nocapture

# A network of real parts, each on a host of its own, while any of them is killed, stopped, paused or cut off (root, DIT_REAL_DATA).
faults FAULTS="200":
    DIT_FAULTS={{FAULTS}} cargo test -p dit --features kafka-tls --test real_faults -- --nocapture nothing_is_lost

# All tests, as CI runs them.
test:
    ./test.sh

# kill -9 in its long form.
kill-long KILLS="51":
    DIT_KILLS={{KILLS}} cargo test -p dit --test kill

# The embedded log against its disk.
bench-log:
    cargo bench -p event-log --bench embedded_log

# The scope engine beside what else there is, and against many scopes.
bench-scope:
    cargo bench -p scope

# The scope engine's benchmarks compared with another commit's: instructions (needs valgrind), then times in turns.
bench-compare COMMIT ROUNDS="7":
    scope/benches/compare.sh {{COMMIT}} {{ROUNDS}}

# The models of blocks and of the state in random histories: the rules hold, each shortcut breaks something.
models HISTORIES="2000":
    python3 docs/models/blocks.py {{HISTORIES}}
    python3 docs/models/state.py {{HISTORIES}}

# Advisories and licences.
deny:
    cargo deny check

fmt:
    cargo fmt --all

# The largest register (half a million rows, DIT_REAL_DATA): a late joiner during live changes.
places-world:
    DIT_LONG=1 cargo test --release -p dit --features kafka-tls --test late_joiner

# One event from the source's file to the row in PostgreSQL, as a real collector sees it.
traces:
    cargo test -p dit --features kafka-tls --test traces

# The chart: three renderings judged strictly, and wrong values refused.
chart:
    cargo test -p dit --features kafka-tls --test chart

# The network on Kafka under a real Prometheus: every panel has data, each alert fires for its fault and is silent otherwise.
watched:
    cargo test -p dit --features kafka-tls --test metrics --test dashboards --test alerts -- --nocapture

# Pictures of the dashboards from a running network, drawn with Grafana's own components (needs Node.js 20 and Chromium).
pictures:
    cd tests/pictures && npm ci --ignore-scripts --no-audit --no-fund
    DIT_DASHBOARD_ANSWERS=target/answers cargo test -p dit --features kafka-tls --test dashboards -- --nocapture
    node tests/pictures/draw.mjs target/answers docs/pictures

# The load scenarios compared with raw Kafka, each with its report in loadtest-results/ (about 40 minutes).
load *SCENARIOS="network embedded file replay replay-earliest pipe latency waits fan-out fan-out-nats deliveries scopes-43 scopes-1121 scopes burst storm watched traced idle stalled":
    cargo run --release -p loadtest --bin dit-loadtest -- run {{ prepend("loadtest/scenarios/", append(".toml", SCENARIOS)) }}

# A load scenario measured with this code and with another commit's, alternately: is a difference more than noise?
load-compare COMMIT SCENARIO="pipe" TIMES="2":
    loadtest/compare.sh {{COMMIT}} {{SCENARIO}} {{TIMES}}

# The reference of every configuration key, from the types that read them.
configuration:
    DIT_WRITE=1 cargo test -p tidy --test configuration

# What honest agents feel while a router is attacked, beside quiet, in one run (about thirteen minutes; shorter: --rounds 2, or --kind handshakes).
attacked *ARGS:
    TMPDIR=/dev/shm cargo run --release -p loadtest --bin dit-loadtest -- attacked {{ARGS}}

# The whole network in seeded runs with faults: a thousand seeds, and how often each kind of fault fired.
simulation SEEDS="1000" FIRST="1":
    cargo run --release -p simulation -- --seeds {{SEEDS}} --first {{FIRST}}

# The scope engine's fuzz targets, so many seconds each, from the corpus in the repository (a nightly compiler and cargo-fuzz).
fuzz SECONDS="300":
    cd scope/fuzz && for target in plan predicate framing; do cargo +nightly fuzz run $target -- -max_total_time={{SECONDS}} -max_len=512; done

# The sources' fuzz targets in the same way.
fuzz-sources SECONDS="300":
    cd producer-agent/fuzz && for target in delimited cells changes items; do cargo +nightly fuzz run $target -- -max_total_time={{SECONDS}} -max_len=512; done

# Planted bugs: each must be found within a hundred seeds.
planted:
    tests/simulation/planted.sh

# So many random files, read by the agent and by Python's csv: whatever the one takes, the other reads as the same.
oracle FILES="100000":
    DIT_ORACLE={{FILES}} cargo test -p producer-agent --test oracle -- --nocapture
