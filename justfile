# Short names for what is done often; `just --list` shows them.

# What CI runs
check:
    bash .ci/run

# Unit and integration tests
test:
    cargo test

# Train and score the fixtures
run:
    cargo run -- run

# Make the fixtures again
fixtures:
    rm -rf fixtures/profile fixtures/events fixtures/truth
    cargo run -- simulate --customers 2000 --days 730 --seed 1 --out fixtures

# Write what is generated in docs/ again
docs:
    C360_WRITE_DOCS=1 cargo test --test it -- reference tutorial

# Fetch Complete Journey and run it
complete-journey:
    examples/complete-journey/fetch.sh
    cargo run --release -- --project examples/complete-journey run --as-of 2017-12-02

# Time features at one and at eight as-ofs on the project in FOLDER
bench FOLDER:
    cargo bench --bench features -- {{FOLDER}}

# Time a logistic fit beside scikit-learn's
bench-logistic:
    python3 benches/logistic.py /tmp/c360-logistic.bin
    cargo bench --bench logistic -- /tmp/c360-logistic.bin

# Fit the CDNOW sample beside lifetimes (needs lifetimes)
bench-lifetime-value:
    python3 benches/lifetime_value.py /tmp/c360-buyers.csv
    cargo bench --bench lifetime_value -- /tmp/c360-buyers.csv

# Factorize MovieLens 100k in FILE beside implicit (needs implicit, pandas)
bench-affinity FILE:
    python3 benches/affinity.py {{FILE}} /tmp/c360-splits
    cargo bench --bench affinity -- /tmp/c360-splits/user.csv

# Changes of the primary segment over thirty nights in FOLDER, with hysteresis and without (needs pyarrow)
bench-hysteresis FOLDER:
    cargo build --release
    python3 benches/hysteresis.py target/release/c360-ml {{FOLDER}}

# Fetch the CDNOW sample and train on it
cdnow:
    python3 examples/cdnow/fetch.py
    cargo run --release -- --project examples/cdnow train

# Complete Journey beside scikit-learn, on its own test snapshot (needs numpy, polars, scikit-learn)
bench-complete-journey:
    examples/complete-journey/fetch.sh
    cargo build --release
    python3 benches/complete_journey.py target/release/c360-ml /tmp/complete-journey.json

# Check exports, reports and schemas against ONNX Runtime, MLflow, Chromium, Feast, Redis, PostgreSQL, Taplo and moto, and against faults
outside:
    tests/outside/run.sh onnx
    tests/outside/run.sh mlflow
    tests/outside/run.sh reports
    tests/outside/run.sh feast
    tests/outside/run.sh online
    tests/outside/run.sh schemas
    tests/outside/run.sh cloud
    tests/outside/run.sh delta
    tests/outside/run.sh damage
    tests/outside/run.sh faults

# Run on S3 (moto) and, where AZURITE names its program, on Azure
cloud:
    tests/outside/run.sh cloud

# Read Delta tables of deltalake, and the profile as one by deltalake and DuckDB
delta:
    tests/outside/run.sh delta

# Let calls of the program to the C library fail and kill it at them: POINTS of each kind (0 is all), and KILLS at random moments
faults POINTS="3" KILLS="10":
    tests/outside/run.sh faults {{POINTS}} {{KILLS}}

# Run the fixtures and a million events on other threads, orders, locales, shards and stores, and compare all data files
determinism CUSTOMERS="21500":
    tests/outside/run.sh determinism {{CUSTOMERS}}

# Check the exported offline store in Feast, value by value
feast:
    tests/outside/run.sh feast

# Check pushes to Redis and PostgreSQL servers of their own on loopback
online:
    tests/outside/run.sh online

# `features join` beside Feast's DuckDB store, on snapshots made in FOLDER (needs feast[duckdb])
bench-join FOLDER:
    cargo build --release
    python3 benches/join.py target/release/c360-ml {{FOLDER}}
