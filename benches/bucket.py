"""Compares a project on a disk with one whose sources and store are in S3 (moto): seconds, requests and bytes of a run
and of the night after it.

usage: bucket.py BINARY [CUSTOMERS]     (pip install 'moto[server,s3]' boto3 polars)"""

import datetime
import os
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time

import boto3
import polars

repository = pathlib.Path(__file__).resolve().parent.parent
sys.path.append(str(repository / "tests/outside"))
from relay import Relay

binary = pathlib.Path(sys.argv[1]).resolve()
customers = sys.argv[2] if len(sys.argv) > 2 else "500000"
NIGHT = datetime.datetime(2024, 7, 1, tzinfo=datetime.timezone.utc)
BUCKET = "data"


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def peak(command, folder, environment):
    """The seconds and the peak memory in MiB of a command."""
    begun = time.time()
    with open(folder / "log.txt", "a") as log:
        process = subprocess.Popen(command, cwd=folder, env=environment, stdout=log, stderr=log)
        _, status, usage = os.wait4(process.pid, 0)
    if status:
        raise SystemExit(f"{command}:\n{(folder / 'log.txt').read_text()[-2000:]}")
    return time.time() - begun, usage.ru_maxrss // 1024


work = pathlib.Path(tempfile.mkdtemp(dir=os.environ.get("BENCH_DIR")))
subprocess.run([binary, "simulate", "--customers", customers, "--days", "730", "--end", "2024-07-02",
                "--out", work / "made"], check=True, stdout=subprocess.DEVNULL)
on_disk, remote = work / "disk", work / "bucket"
for project in (on_disk, remote):
    for name in ("features", "models"):
        shutil.copytree(repository / name, project / name)
    shutil.copy(repository / "c360.toml", project)
events = polars.scan_parquet(work / "made/events/*.parquet")
(on_disk / "fixtures/events").mkdir(parents=True)
shutil.copytree(work / "made/profile", on_disk / "fixtures/profile")
before = events.filter(polars.col("event_ts") < NIGHT)
months = before.select(polars.col("event_ts").dt.truncate("1mo").unique().sort()).collect().to_series()
for month in months:
    of_month = before.filter(polars.col("event_ts").dt.truncate("1mo") == month)
    of_month.sink_parquet(on_disk / f"fixtures/events/{month:%Y-%m}.parquet")
new = on_disk / "fixtures/events/2024-07-01.parquet"
events.filter(polars.col("event_ts") >= NIGHT).sink_parquet(work / "new.parquet")
rows = before.select(polars.len()).collect().item()
shutil.rmtree(work / "made")

port = free_port()
moto = subprocess.Popen([pathlib.Path(sys.executable).parent / "moto_server", "-H", "127.0.0.1", "-p", str(port)],
                        stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
try:
    while socket.socket().connect_ex(("127.0.0.1", port)):
        time.sleep(0.2)
    relay = Relay(port)
    keys = {"aws_access_key_id": "reader", "aws_secret_access_key": "secret", "region_name": "us-east-1"}
    s3 = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **keys)
    s3.create_bucket(Bucket=BUCKET)
    for file in sorted((on_disk / "fixtures").rglob("*.parquet")):
        s3.upload_file(str(file), BUCKET, str(file.relative_to(on_disk)))
    settings = (remote / "c360.toml").read_text()
    settings = settings.replace('path = "fixtures', f'path = "s3://{BUCKET}/fixtures')
    (remote / "c360.toml").write_text(settings.replace('store = "store"', f'store = "s3://{BUCKET}/store"'))
    environment = os.environ | {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{relay.port}", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": "secret",
    }
    size = sum(file.stat().st_size for file in (on_disk / "fixtures/events").iterdir())
    print(f"{customers} customers, {rows:,} events in {len(months)} files of {size / 1e6:.0f} MB")
    print(f"the night after: a file of {(work / 'new.parquet').stat().st_size / 1e6:.2f} MB more")
    for arguments in (["run", "--as-of", "2024-07-01"], ["score", "--as-of", "2024-07-02"],
                      ["score", "--as-of", "2024-07-02"]):
        if arguments[0] == "score" and not new.exists():
            shutil.copy(work / "new.parquet", new)
            s3.upload_file(str(new), BUCKET, str(new.relative_to(on_disk)))
        for project in (on_disk, remote):
            relay.reset()
            seconds, memory = peak([binary, *arguments], project, environment)
            told = "" if project is on_disk else (
                f", {relay.requests.total()} requests ({dict(relay.requests)}), "
                f"{relay.received / 1e6:.1f} MB read, {relay.sent / 1e6:.1f} MB written")
            print(f"{' '.join(arguments):26} {project.name:6} {seconds:6.1f} s {memory:5} MiB{told}", flush=True)
finally:
    moto.kill()
    shutil.rmtree(work)
