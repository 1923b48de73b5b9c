"""Delta tables written by deltalake: each of ten versions gives the features of its rows as plain Parquet, and a night after
an append reads only its files. The profile as a Delta table is read by DuckDB and deltalake."""

import hashlib
import sys

import duckdb
import duckdb_extensions
import pyarrow as pa
import pyarrow.parquet as pq
from deltalake import DeltaTable, write_deltalake

from project import live, project, root, run, table

binary = sys.argv[1]


def operations(path, rows):
    """Makes a version of a Delta table for each operation, and names it."""
    def part(start, end):
        first = int(rows.num_rows * start)
        return rows.slice(first, int(rows.num_rows * end) - first)

    write_deltalake(path, part(0, 0.3), partition_by=["channel"])
    yield "create"
    write_deltalake(path, part(0.3, 0.4), mode="append")
    yield "append"
    write_deltalake(path, part(0.4, 0.5), mode="append")
    yield "append"
    DeltaTable(path).delete("event_type = 'page_view' AND session_id LIKE '%7'")
    yield "delete"
    DeltaTable(path).update(predicate="event_type = 'purchase' AND amount > 100", updates={"amount": "amount / 2"})
    yield "update"
    DeltaTable(path).optimize.compact()
    yield "optimize"
    more = part(0.5, 0.6)
    more = more.append_column("device", pa.array(["phone"] * more.num_rows))
    write_deltalake(path, more, mode="append", schema_mode="merge")
    yield "append with a new column"
    write_deltalake(path, part(0.6, 0.8), mode="append", schema_mode="merge")
    yield "append"
    DeltaTable(path).delete("channel = 'email'")
    yield "delete of a partition"
    DeltaTable(path).create_checkpoint()
    write_deltalake(path, part(0.8, 1), mode="append", schema_mode="merge")
    yield "append after a checkpoint"


def features(folder):
    """The checksums of the live files of all feature views."""
    names = sorted(name for name in root(folder)["files"] if name.startswith("features/"))
    assert names
    return {name: hashlib.sha256(live(folder, name).read_bytes()).hexdigest() for name in names}


delta, plain = project(), project()
events = plain / "fixtures/events"
rows = pq.read_table(events / "part-000.parquet")
source = delta / "fixtures/table"
done = list(operations(str(source), rows))
settings = delta / "c360.toml"
text = settings.read_text()
for version, operation in enumerate(done):
    settings.write_text(text.replace('"fixtures/events"', f'"fixtures/table"\nversion = {version}'))
    for file in events.iterdir():
        file.unlink()
    own = DeltaTable(str(source), version=version)
    pq.write_table(own.to_pyarrow_table(), events / "part-000.parquet")
    told = run(binary, delta, "features", "build")
    run(binary, plain, "features", "build", "--full")
    assert features(delta) == features(plain), operation
    read = next(line for line in told.splitlines() if "event files" in line)
    print(f"version {version}, {operation}: {own.to_pyarrow_table().num_rows} rows in {len(own.file_uris())} files; {read}")

# The profile as a Delta table.
target = delta / "out" / "profile"
settings.write_text(text.replace("[writeback]", '[writeback]\ndelta = "out/profile"'))
run(binary, delta, "run")
run(binary, delta, "score", "--as-of", "2024-07-02")
written = DeltaTable(str(target))
assert written.version() == 1, written.version()
expected = table(delta, "profile/as_of=2024-07-02/").select(["customer360_id", "total_revenue", "churn_risk_score", "segments"])
expected = expected.sort_by("customer360_id").to_pylist()
columns = "customer360_id, total_revenue, churn_risk_score, segments"
found = written.to_pyarrow_table().select(columns.split(", ")).sort_by("customer360_id").to_pylist()
assert found == expected
print(f"deltalake reads {len(found)} rows of version {written.version()}, those of the store")
connection = duckdb.connect()
duckdb_extensions.import_extension("delta")
connection.execute("load delta")
found = connection.execute(f"select {columns} from delta_scan('{target}') order by customer360_id").fetchall()
assert [tuple(row.values()) for row in expected] == found
print(f"DuckDB {duckdb.__version__} reads {len(found)} rows, those of the store")
