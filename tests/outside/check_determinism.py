"""A run leaves the same data files (the same rows where their order or the shards differ) whatever it runs on: 1, 2 and 7 threads, rows and files in another order, another locale and
time zone, another number of shards, little memory, and S3 (moto) instead of a disk.

usage: check_determinism.py BINARY [CUSTOMERS]     (of the fixtures, and of as many simulated customers; default 0)"""

import pathlib
import random
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import boto3
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.parquet as pq

from project import project, root, run

binary = sys.argv[1]
customers = sys.argv[2] if len(sys.argv) > 2 else "0"
#: What orders the rows of each table.
KEYS = ["customer360_id", "model", "rank", "item", "segment", "as_of"]


def bytes_of(folder):
    """The checksum of each live data file, and the champions."""
    latest = root(folder)
    files = {name: entry["xxh3"] for name, entry in latest["files"].items() if name.endswith(".parquet")}
    assert len(files) > 10, files
    return files, latest["champions"]


def rows_of(folder):
    """The rows of each live table in an order that does not depend on the files, and the champions."""
    latest, tables = root(folder), {}
    for name, entry in latest["files"].items():
        if name.endswith(".parquet"):
            table = name.rsplit("/", 1)[0]
            tables.setdefault(table, []).append(pq.read_table(folder / "store" / entry["object"]))
    for name, parts in tables.items():
        rows = pa.concat_tables(parts)
        keys = [(key, "ascending") for key in KEYS if key in rows.column_names]
        tables[name] = rows.take(pc.sort_indices(rows, sort_keys=keys)).to_pylist()
    return tables, latest["champions"]


def shuffled(folder, choice):
    """Gives the rows of the sources another order, and the events other files."""
    for name, parts in [("events", 5), ("profile", 1)]:
        source = folder / "fixtures" / name
        rows = pa.concat_tables([pq.read_table(file) for file in sorted(source.glob("*.parquet"))])
        order = list(range(rows.num_rows))
        choice.shuffle(order)
        rows = rows.take(order)
        shutil.rmtree(source)
        source.mkdir()
        names = [f"part-{choice.randrange(1 << 32):08x}.parquet" for _ in range(parts)]
        for part, file in enumerate(names):
            begin, end = (rows.num_rows * at // parts for at in (part, part + 1))
            pq.write_table(rows.slice(begin, end - begin), source / file, row_group_size=choice.randrange(5_000, 50_000))


def setting(folder, line):
    """Adds a setting to [project]."""
    path = folder / "c360.toml"
    path.write_text(path.read_text().replace("[project]\n", f"[project]\n{line}\n", 1))


def started(port):
    server = subprocess.Popen([sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port)],
                              stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    while socket.socket().connect_ex(("127.0.0.1", port)):
        time.sleep(0.2)
    return server


def in_s3(folder):
    """Runs the project with its store in S3, and gives the store a folder."""
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        port = probe.getsockname()[1]
    server = started(port)
    try:
        keys = {"aws_access_key_id": "reader", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
        s3 = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **keys)
        s3.create_bucket(Bucket="data")
        run(binary, folder, "run", "--store", "s3://data/store", AWS_ENDPOINT_URL=f"http://127.0.0.1:{port}",
            AWS_ALLOW_HTTP="true", AWS_REGION="us-east-1", AWS_ACCESS_KEY_ID="reader", AWS_SECRET_ACCESS_KEY="secret")
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket="data"):
            for entry in page["Contents"]:
                path = folder / entry["Key"]
                path.parent.mkdir(parents=True, exist_ok=True)
                s3.download_file("data", entry["Key"], str(path))
    finally:
        server.kill()


def check(name, made):
    """Runs a project in every way and compares what is left."""
    seed = random.randrange(1 << 32)
    choice = random.Random(seed)

    def fresh():
        folder = project()
        if made:
            shutil.rmtree(folder / "fixtures")
            shutil.copytree(made, folder / "fixtures")
        return folder

    def threads(count):
        return {"RAYON_NUM_THREADS": str(count), "POLARS_MAX_THREADS": str(count)}

    reference = fresh()
    run(binary, reference, "run")
    expected, expected_rows = bytes_of(reference), rows_of(reference)
    ways = {f"{count} threads": (threads(count), [], None) for count in [1, 2, 7]}
    ways |= {
        "rows and files in another order": ({}, [], lambda folder: shuffled(folder, choice)),
        "another locale and time zone": ({"LC_ALL": "tr_TR.UTF-8", "LANG": "tr_TR.UTF-8", "TZ": "Asia/Kolkata"}, [], None),
        "64 MB of memory": ({}, ["--memory", "64MB"], None),
    }
    for way, (environment, arguments, change) in ways.items():
        folder = fresh()
        if change:
            change(folder)
        run(binary, folder, "run", *arguments, **environment)
        # A dictionary of an extra column of the profile has its values in the order of the source.
        same = rows_of(folder) == expected_rows if change else bytes_of(folder) == expected
        assert same, f"{name}, seed {seed}: {way}"
        shutil.rmtree(folder)
    folder = fresh()
    in_s3(folder)
    assert bytes_of(folder) == expected, f"{name}, seed {seed}: S3"
    shutil.rmtree(folder)
    for shards in [1, 16]:
        folder = fresh()
        setting(folder, f"shards = {shards}")
        run(binary, folder, "run")
        assert rows_of(folder) == expected_rows, f"{name}, seed {seed}: {shards} shards"
        shutil.rmtree(folder)
    events = sum(pq.read_metadata(file).num_rows for file in (reference / "fixtures/events").glob("*.parquet"))
    others = [way for way, (*_, change) in ways.items() if not change]
    print(f"{name}, {events:,} events, seed {seed}: the same bytes of {len(expected[0])} data files with {', '.join(others)} and S3, "
          "and the same rows with rows and files in another order and with 1 and 16 shards", flush=True)


check("fixtures", None)
if int(customers) > 0:
    made = pathlib.Path(tempfile.mkdtemp())
    run(binary, pathlib.Path("."), "simulate", "--customers", customers, "--seed", "5", "--out", made)
    check("simulated", made)
