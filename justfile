# Recipes for working on the project. Run `just` for a list.

[private]
default:
    @just --list

# Format the Rust code
fmt:
    cargo fmt --all
    cargo fmt --all --manifest-path bench/Cargo.toml
    cargo fmt --manifest-path fuzz/Cargo.toml

# Lint code, scripts, spelling and prose
lint:
    .ci/run lint

# Run all tests; arguments go to cargo test
test *args:
    cargo test --workspace {{ args }}

# Run the demo; with other arguments, the sandbox
sandbox *args='--once':
    cargo run -p sandbox -- {{ args }}

# Start the services that `cargo lambda watch` needs
watch-services:
    cargo run -p sandbox -- --services-only

# Run the gate, or some of its steps
gate *steps:
    .ci/run {{ steps }}

# Check size, crates and instruction counts
budget:
    .ci/run budget

# Measure the candidates that bench/prepare has built
bench *args:
    CARGO_TARGET_DIR="$PWD/target" cargo run --release --manifest-path bench/Cargo.toml -p bench -- {{ args }}

# Deploy to an emulator of AWS, update and delete
deploy-test:
    .ci/run deploy

# Build the documentation of all crates
docs:
    .ci/run docs

# Fuzz a target for some seconds
fuzz target seconds='60' *args:
    fuzz/run {{ target }} {{ seconds }} {{ args }}

# Run the full experiments of docs/reliability.md, and fuzz each target for five minutes
reliability:
    RELIABILITY_DELIVERIES=100000 RELIABILITY_SEED=7 cargo test -p tests --test reliability random_faults -- --nocapture --test-threads=4
    REJECTION_SAMPLES=5000 cargo test -p tests --test reliability rejections -- --nocapture
    KILL_DELIVERIES=10000 cargo test -p receive --test process killed -- --nocapture
    just stream-experiment load-experiments
    fuzz/run --all 300

experiment := 'cargo test --profile experiment -p tests -p receive --test reliability --test process -- --nocapture --test-threads 1'

# Run the experiment with the functions on the table's stream
stream-experiment:
    STREAM_EVENTS=200000 STREAM_SEED=7 cargo test --profile experiment -p tests --test reliability streams:: -- --nocapture

# Run the experiments with load alone, on a machine that does nothing else
load-experiments:
    LOAD_RATES=50,100,200,500,1000,2000 LOAD_SECONDS=20 {{ experiment }} load::
    OUTAGE_SECONDS=60 OUTAGE_RATE=100 OUTAGE_LIMIT=100 {{ experiment }} outage::
    FLOOD_EVENTS=10000 FLOOD_RATE=500 FORGERIES=10000 {{ experiment }} floods:: forgeries
