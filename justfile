# The commands of daily work. `.ci/run` is what must pass before a merge.

default:
    @just --list

# Everything that is quick and must hold before a commit.
check: fmt-check clippy test doc

fmt:
    cargo fmt

fmt-check:
    cargo fmt --check

clippy:
    cargo clippy --all-targets --all-features -- -D warnings

test:
    cargo test

# The tests of the TLS features too.
test-all:
    cargo test --all-features

doc:
    RUSTDOCFLAGS="-D warnings" cargo doc --no-deps --all-features

# Every feature alone and all together, without what only tests need.
features:
    cargo hack --feature-powerset --depth 2 --exclude-features default,_testing --no-dev-deps clippy -- -D warnings

deny:
    cargo deny check licenses bans sources

# Needs the advisory database, which is fetched.
advisories:
    cargo deny check advisories

quickstart:
    cargo run --example quickstart

# Against a server that runs already: `just conformance 127.0.0.1:8848`; without one, on the embedded server.
conformance server="":
    NACOS_SERVER_ADDR={{ server }} cargo test --test conformance

# What the client costs, inside and across the wire, against a stub server.
bench:
    cargo bench --bench inside --bench view --bench load

# How the costs grow with instances and services.
bench-growth:
    cargo bench --bench load -- growth

# Beside what a user could take instead; writes its table into docs/performance.md. What both workspaces have alike is
# built once.
bench-peers *arguments="--write docs/performance.md":
    cargo run --release --target-dir target --manifest-path benches/peers/Cargo.toml -- {{ arguments }}

# Every bench once and short, so that none rots.
bench-smoke:
    cargo test --bench '*' -- --test

# One scenario of docs/reliability.md at full length: `just reliability soak --seconds 3600 --seed 1`.
reliability *arguments:
    cargo bench --bench reliability -- {{ arguments }}

# All that must pass before a merge.
ci:
    .ci/run
