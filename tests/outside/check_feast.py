"""The offline store exported as a Feast repository: `feast apply`, historical features of random rows by both
of Feast's file stores, and a materialization to SQLite, every value beside what `features join` gives."""

import contextlib
import datetime
import io
import math
import os
import pathlib
import shutil
import subprocess
import sys

os.environ.setdefault("FEAST_USAGE", "False")

import feast
import numpy as np
import pandas as pd
import pyarrow as pa
import pyarrow.parquet as pq

from project import project, run

binary = sys.argv[1]
seed = int(sys.argv[2]) if len(sys.argv) > 2 else 7
ROWS = 1000
VIEWS = ["browsing", "commerce", "engagement", "lifecycle", "marketing", "support"]


def quietly(call, *arguments, **named):
    with contextlib.redirect_stdout(io.StringIO()), contextlib.redirect_stderr(io.StringIO()):
        return call(*arguments, **named)


def plain(value):
    """A value as both sides can be compared: instants as microseconds, money as a double."""
    if value is None or (isinstance(value, float) and math.isnan(value)) or value is pd.NaT:
        return None
    if isinstance(value, (pd.Timestamp, datetime.datetime)):
        return int(pd.Timestamp(value).tz_convert("UTC").value // 1000)
    if isinstance(value, datetime.date):
        return int(pd.Timestamp(value, tz="UTC").value // 1000)
    if hasattr(value, "as_tuple"):
        return float(value)
    return value.item() if isinstance(value, np.generic) else value


folder = project()
path = folder / "features" / "support.toml"
day = '[[feature]]\nname = "first_day"\nop = "min"\ninput = "cast(event_ts as date)"\n\n'
path.write_text(path.read_text().replace("[[feature]]", day + "[[feature]]", 1))
run(binary, folder, "features", "build", "--from", "2024-04-01", "--to", "2024-06-30", "--every", "14d")
repository = folder / "feast"
ttl = ["--ttl", "commerce=10d"]
print(run(binary, folder, "export", "feast", "--out", repository, *ttl))
for path in sorted((repository / "data").iterdir()):
    for field in pq.read_schema(path):
        kinds = [pa.string(), pa.int64(), pa.float64(), pa.bool_(), pa.timestamp("us", "UTC")]
        assert field.type in kinds, (path, field)

# `feast apply` as a user would call it, and what it has registered.
command = [pathlib.Path(sys.executable).parent / "feast", "apply"]
applied = subprocess.run(command, cwd=repository, capture_output=True, text=True)
assert applied.returncode == 0, applied.stdout + applied.stderr
print("\n".join(line for line in applied.stdout.splitlines() if line.strip())[-600:])
store = feast.FeatureStore(str(repository))
assert sorted(view.name for view in store.list_feature_views()) == VIEWS
columns = {view.name: [field.name for field in view.features] for view in store.list_feature_views()}
# By view a column that is null only where there is no snapshot for a row.
whole = {view: pq.read_table(repository / "data" / f"{view}.parquet", columns=columns[view]) for view in VIEWS}
counts = {view: next(c for c in columns[view] if whole[view].column(c).null_count == 0) for view in VIEWS}
wanted = [f"{view}:{column}" for view in VIEWS for column in columns[view]]

# Rows at random instants, some exactly at a snapshot, exactly as old as its time to live, and just over it.
customers = pq.read_table(repository / "data" / "commerce.parquet", columns=["customer360_id"])
customers = np.array(sorted(set(customers.column(0).to_pylist())) + ["nobody"])
random = np.random.default_rng(seed)
print(f"seed {seed}")
start = pd.Timestamp("2024-03-25", tz="UTC").value // 1000
day = 86_400_000_000
times = start + random.integers(0, 110 * day, ROWS)
snapshots = pd.Timestamp("2024-04-01", tz="UTC").value // 1000 + 14 * day * random.integers(0, 7, ROWS)
edges = [snapshots, snapshots - 1, snapshots + 10 * day, snapshots + 10 * day + 1, snapshots + 10 * day - 1]
for edge, at in enumerate(edges):
    times[edge * 50 : edge * 50 + 50] = at[:50]
entities = pa.table({
    "row": pa.array(range(ROWS)),
    "customer360_id": pa.array(random.choice(customers, ROWS)),
    "event_timestamp": pa.array(times, pa.timestamp("us", "UTC")),
})
pq.write_table(entities, folder / "entities.parquet")
joined = folder / "joined.parquet"
run(binary, folder, "features", "join", "--entities", folder / "entities.parquet", "--out", joined, *ttl)
ours = pq.read_table(joined)
found = sum(value is not None for value in ours.column("orders_30d").to_pylist())
assert ROWS / 4 < found < ROWS, found

offline = (repository / "feature_store.yaml").read_text()
for kind in ["duckdb", "dask"]:
    (repository / "feature_store.yaml").write_text(offline.replace("type: duckdb", f"type: {kind}"))
    # Features of one name would need the name of their view; ours are unique over all views.
    store = feast.FeatureStore(str(repository))
    job = store.get_historical_features(entity_df=entities.to_pandas(), features=wanted)
    theirs = quietly(job.to_df).set_index("row")
    assert theirs.index.is_unique
    lost = set(range(ROWS)) - set(theirs.index)
    # Feast's older store leaves out a row where any view's snapshots are all later or too old, and one of
    # two rows of one customer and instant; the other one gives every row, as we do.
    pairs = list(zip(ours.column("customer360_id").to_pylist(), ours.column("event_timestamp").to_pylist()))
    first = [counts[view] for view in VIEWS]
    without = {row for row in range(ROWS) if any(ours.column(name)[row].as_py() is None for name in first)}
    twice = {row for row in range(ROWS) if pairs.count(pairs[row]) > 1}
    assert not lost or (kind == "dask" and lost <= without | twice), (kind, len(lost - without - twice))
    equal = nulls = 0
    for name in (name.split(":")[1] for name in wanted):
        mine = ours.column(name).to_pylist()
        for row, b in theirs[name].items():
            a, b = plain(mine[row]), plain(b)
            assert a == b, f"{kind} {name} of row {row}: {a} here, {b} there"
            equal += 1
            nulls += a is None
    print(f"Feast {feast.__version__} {kind}: {equal} values of {len(theirs)} rows equal, {nulls} of them null; rows lost: {len(lost)}")

# The latest snapshot of each view, online. Feast keeps instants there by the second.
(repository / "feature_store.yaml").write_text(offline)
store = feast.FeatureStore(str(repository))
end = datetime.datetime(2024, 7, 1, tzinfo=datetime.timezone.utc)
quietly(store.materialize, datetime.datetime(2024, 1, 1, tzinfo=datetime.timezone.utc), end)
keys = [str(key) for key in random.choice(customers[:-1], ROWS, replace=False)] + ["nobody"]
online = store.get_online_features(features=wanted, entity_rows=[{"customer360_id": key} for key in keys])
online = online.to_dict()
entities = pa.table({
    "customer360_id": keys,
    "event_timestamp": pa.array([end] * len(keys), pa.timestamp("us", "UTC")),
})
pq.write_table(entities, folder / "entities.parquet")
run(binary, folder, "features", "join", "--entities", folder / "entities.parquet", "--out", joined)
ours = pq.read_table(joined)
equal = nulls = 0
for name in (name.split(":")[1] for name in wanted):
    is_time = pa.types.is_temporal(ours.schema.field(name).type)
    for key, a, b in zip(keys, ours.column(name).to_pylist(), online[name]):
        a, b = plain(a), plain(b)
        if is_time and a is not None:
            a, b = a // 1_000_000, b // 1_000_000
        assert a == b, f"online {name} of {key}: {a} here, {b} there"
        equal += 1
        nulls += a is None
print(f"online: {equal} values of {len(keys)} customers equal, {nulls} of them null")

# The models' services read what the models read.
service = store.get_feature_service("churn")
told = quietly(store.get_online_features, features=service, entity_rows=[{"customer360_id": keys[0]}])
print(f"service churn: {len(told.to_dict()) - 1} features")

# A second export leaves the settings alone and gives the same bytes.
before = {path: path.read_bytes() for path in repository.rglob("*") if path.is_file()}
(repository / "feature_store.yaml").write_text(offline + "# mine\n")
run(binary, folder, "export", "feast", "--out", repository, *ttl)
assert (repository / "feature_store.yaml").read_text() == offline + "# mine\n"
for path in [repository / "definitions.py", *(repository / "data").iterdir()]:
    assert path.read_bytes() == before[path], path
error = run(binary, folder, "export", "feast", "--out", repository, "--ttl", "comerce=7d", code=2)
assert "did you mean `commerce`" in error, error
shutil.rmtree(folder)
