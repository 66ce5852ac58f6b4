# The commands for daily work. `.ci/run` must pass before a merge.

default:
    @just --list

# The quick checks before a commit: format, lints, tests, documentation.
check: fmt-check clippy test doc

fmt:
    cargo fmt

fmt-check:
    cargo fmt --check

clippy:
    cargo clippy --all-targets --all-features -- -D warnings

test:
    cargo test

# All tests, with those of the TLS features.
test-all:
    cargo test --all-features

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --all-features

# Lints with each feature alone, with each pair of features and with all, without the dependencies of the tests.
features:
    cargo hack --feature-powerset --depth 2 --exclude-features default,_testing --no-dev-deps clippy -- -D warnings

deny:
    cargo deny check licenses bans sources

# Known vulnerabilities. Fetches the advisory database.
advisories:
    cargo deny check advisories

quickstart:
    cargo run --example quickstart

# The conformance suite on a running server, `just conformance 127.0.0.1:8848`, or on the embedded server.
conformance server="":
    NACOS_SERVER_ADDR={{ server }} cargo test --test conformance

# The costs of the client, inside the process, and across the wire against a stub server.
bench:
    cargo bench --bench inside --bench view --bench load

# How the costs grow with instances and services.
bench-growth:
    cargo bench --bench load -- growth

# The costs of other clients. Writes its table into docs/performance.md. Uses the same target folder, so that common
# dependencies are built once.
bench-peers *arguments="--write docs/performance.md":
    cargo run --release --target-dir target --manifest-path benches/peers/Cargo.toml -- {{ arguments }}

# Every bench once, shortly, to see that it still works.
bench-smoke:
    cargo test --bench '*' -- --test

# One scenario of docs/reliability.md at full length: `just reliability soak --seconds 3600 --seed 1`.
reliability *arguments:
    cargo bench --bench reliability -- {{ arguments }}

# Models of concurrent calls, lists and views, checked by loom: all, or those whose name contains `model`.
loom model="":
    cargo run --release --target-dir target --manifest-path loom/Cargo.toml -- {{ model }}

# Needs `rustup +nightly component add miri rust-src`. What is skipped shares no memory and computes for long. arc-swap
# casts integers to pointers, which Miri would warn of. Miri runs all threads of a program in turn, so tests that run at
# the same time would only make each other miss their time limits.
# Unit tests of `src/discovery/view/` under Miri.
miri filter="discovery::view":
    MIRIFLAGS="-Zmiri-disable-isolation -Zmiri-permissive-provenance" cargo +nightly miri test --lib -- {{ filter }} --skip alias_table --skip hash_table --skip budget --test-threads 1

# Looks for a panic in one fuzz target of `fuzz/`, for 15 minutes. Needs cargo-fuzz and a nightly toolchain.
fuzz target seconds="900":
    cargo +nightly fuzz run {{ target }} tests/corpus/{{ target }} -- -max_total_time={{ seconds }} -timeout=10

# `just mutants src/client/health.rs client::` runs the tests whose names contain "client::" after each change. Needs
# cargo-mutants.
# Changes one thing in a file after the other, to find the changes that no unit test notices.
mutants file tests="":
    cargo mutants --output target --cargo-arg=--lib -f {{ file }} -- {{ tests }}

# `just semver 9a01512` compares with that commit. Needs cargo-semver-checks, which does not compare the
# types of fields, arguments and results.
# Breaking changes of the API since a revision.
semver revision:
    cargo semver-checks --baseline-rev {{ revision }} --only-explicit-features --features actix-web,embedded,rustls,tracing

# Seeds of the deterministic simulation, from 0 on; `SEED=7 cargo test --release --test simulation` repeats one.
simulation seeds="1000":
    SEEDS={{ seeds }} cargo test --release --test simulation

# All checks that must pass before a merge.
ci:
    .ci/run
