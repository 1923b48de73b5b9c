#!/usr/bin/env python3
"""`features join` beside Feast's DuckDB store: 100,000 rows over about a million snapshot rows.

usage: join.py C360_ML FOLDER     (pip install 'feast[duckdb]')
Makes a project of 50,000 simulated customers with twenty weekly snapshots in FOLDER unless it is there,
joins three columns to the same rows by both, and compares every value. Prints one line a step."""
import glob, json, os, resource, shutil, subprocess, sys, time

os.environ.setdefault("FEAST_USAGE", "False")
binary, folder = os.path.abspath(sys.argv[1]), os.path.abspath(sys.argv[2])
here = os.path.dirname(os.path.abspath(__file__))
COLUMNS = ["orders_30d", "days_since_last_purchase", "products_bought_90d"]
ROWS = 100_000


def run(*arguments):
    begun = time.time()
    process = subprocess.Popen([binary, "--project", folder, *arguments], stdout=subprocess.DEVNULL)
    _, status, used = os.wait4(process.pid, 0)
    if status:
        sys.exit(f"{arguments} failed")
    return round(time.time() - begun, 3), used.ru_maxrss // 1024


def log(step, **values):
    print(json.dumps({"step": step, **values}), flush=True)


if not os.path.exists(f"{folder}/c360.toml"):
    os.makedirs(folder, exist_ok=True)
    data = ["simulate", "--customers", "50000", "--days", "365", "--seed", "3", "--out", f"{folder}/data"]
    subprocess.run([binary, *data], check=True, stdout=subprocess.DEVNULL)
    for part in ["features", "models"]:
        shutil.copytree(f"{here}/../{part}", f"{folder}/{part}")
    settings = open(f"{here}/../c360.toml").read().replace('"fixtures/', '"data/')
    open(f"{folder}/c360.toml", "w").write(settings)

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq

seconds, mb = run("features", "build", "--from", "2024-02-01", "--to", "2024-06-13", "--every", "7d")
log("snapshots", seconds=seconds, mb=mb)
snapshots = sorted(glob.glob(f"{folder}/store/features/commerce/*/*.parquet"))
names = ["customer360_id", "event_timestamp", "created_timestamp", *COLUMNS]
# Feast's file source is one file.
pq.write_table(pa.concat_tables([pq.ParquetFile(f).read(names) for f in snapshots]), f"{folder}/all.parquet")
all_rows = pq.read_table(f"{folder}/all.parquet", columns=["customer360_id"])
keys = np.array(sorted(set(all_rows.column(0).to_pylist())))
random = np.random.default_rng(7)
begin = np.datetime64("2024-01-25", "us")
times = begin + random.integers(0, 150 * 86_400_000_000, ROWS).astype("timedelta64[us]")
entities = pa.table({
    "customer360_id": pa.array(random.choice(keys, ROWS)),
    "event_timestamp": pa.array(times, pa.timestamp("us", "UTC")),
    "label": pa.array(np.arange(ROWS)),
})
pq.write_table(entities, f"{folder}/entities.parquet")
for _ in range(3):
    joined = f"{folder}/joined.parquet"
    seconds, mb = run("features", "join", "--entities", f"{folder}/entities.parquet", "--views", "commerce", "--out", joined)
    log("c360-ml", snapshot_rows=all_rows.num_rows, columns=pq.ParquetFile(joined).schema_arrow.names.__len__() - 3, seconds=seconds, mb=mb)

begun = time.time()
from datetime import timedelta

import feast
from feast import Entity, FeatureStore, FeatureView, Field, FileSource, ValueType
from feast.types import Float64, Int64

log("import feast", seconds=round(time.time() - begun, 3), version=feast.__version__)
repository = f"{folder}/feast"
shutil.rmtree(repository, ignore_errors=True)
os.makedirs(repository)
open(f"{repository}/feature_store.yaml", "w").write(
    f"project: bench\nregistry: {repository}/registry.db\nprovider: local\noffline_store:\n  type: duckdb\n"
    f"online_store:\n  type: sqlite\n  path: {repository}/online.db\nentity_key_serialization_version: 3\n"
)
store = FeatureStore(repository)
customer = Entity(name="customer", join_keys=["customer360_id"], value_type=ValueType.STRING)
source = FileSource(path=f"{folder}/all.parquet", timestamp_field="event_timestamp", created_timestamp_column="created_timestamp")
types = [Int64, Float64, Int64]
view = FeatureView(name="commerce", entities=[customer], ttl=timedelta(days=3650), source=source,
                   schema=[Field(name=name, dtype=ty) for name, ty in zip(COLUMNS, types)])
store.apply([customer, view])
frame = entities.to_pandas()
for _ in range(3):
    begun = time.time()
    found = store.get_historical_features(entity_df=frame.copy(), features=[f"commerce:{c}" for c in COLUMNS]).to_df()
    peak = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss // 1024
    log("feast get_historical_features", columns=len(COLUMNS), seconds=round(time.time() - begun, 3), mb=peak)
found = found.sort_values("label")
ours = pq.ParquetFile(joined).read(["label", *COLUMNS]).to_pandas()
assert (ours.label.to_numpy() == np.arange(ROWS)).all(), "rows are not in their order"
for column in COLUMNS:
    a, b = ours[column].to_numpy(float), found[column].to_numpy(float)
    assert ((a == b) | (np.isnan(a) & np.isnan(b))).all(), f"{column} differs"
log("equal", values=ROWS * len(COLUMNS), nulls=int(sum(ours[c].isna().sum() for c in COLUMNS)))
