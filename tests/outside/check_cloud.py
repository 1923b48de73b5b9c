"""Sources and the store in S3 (moto) and Azure (azurite, where AZURITE names its program) leave the data files that they leave on
disk; of two runs at once one is live; a run that is killed at a request leaves the store whole; credentials are never
printed.

usage: check_cloud.py BINARY [ROUNDS]     (of two runs at once, and requests at which a run is killed; default 5)"""

import os
import pathlib
import re
import socket
import subprocess
import sys
import tempfile
import time

import boto3
from azure.storage.blob import BlobServiceClient

from project import REPOSITORY, project, root, run
from relay import Relay

binary = sys.argv[1]
rounds = int(sys.argv[2]) if len(sys.argv) > 2 else 5
SECRET = "a-secret-that-nobody-must-see"
FILES = {
    "crm/events/day=2024-07-01/part-000.parquet": REPOSITORY / "fixtures/events/part-000.parquet",
    "crm/profile/part-000.parquet": REPOSITORY / "fixtures/profile/part-000.parquet",
}
JOB = [
    ["run"],
    ["score", "--as-of", "2024-07-02"],
    ["report"],
    ["show", "profile", "--head", "2"],
    ["explain", "c360_0000001"],
    ["segments", "export", "New", "--out", tempfile.mkdtemp() + "/new.csv"],
    ["export", "feast", "--out", tempfile.mkdtemp()],
]


def started(port, *command):
    """A server, once it listens on a port of this machine."""
    server = subprocess.Popen(command, stdout=subprocess.DEVNULL, stderr=subprocess.DEVNULL)
    for _ in range(100):
        with socket.socket() as probe:
            if probe.connect_ex(("127.0.0.1", port)) == 0:
                return server
        time.sleep(0.2)
    server.kill()
    raise SystemExit(f"{command[0]} does not listen on port {port}")


def free_port():
    with socket.socket() as probe:
        probe.bind(("127.0.0.1", 0))
        return probe.getsockname()[1]


def tables(folder):
    """The checksums of the live data files of a store by name."""
    files = root(folder)["files"]
    found = {name: entry["xxh3"] for name, entry in files.items() if name.endswith(".parquet")}
    assert len(found) > 5, found
    return found


def copied(objects, prefix):
    """A folder on the disk with the objects whose keys begin with `prefix`."""
    folder = pathlib.Path(tempfile.mkdtemp())
    for path, content in objects.get(prefix).items():
        (folder / path).parent.mkdir(parents=True, exist_ok=True)
        (folder / path).write_bytes(content)
    return folder


class S3:
    """The objects of a bucket."""

    def __init__(self, client, bucket):
        self.client, self.bucket = client, bucket

    def put(self, key, content):
        self.client.put_object(Bucket=self.bucket, Key=key, Body=content)

    def get(self, prefix):
        """The objects whose keys begin with `prefix`, by the rest of the key."""
        pages = self.client.get_paginator("list_objects_v2").paginate(Bucket=self.bucket, Prefix=prefix)
        keys = [entry["Key"] for page in pages for entry in page.get("Contents", [])]
        return {key[len(prefix):]: self.client.get_object(Bucket=self.bucket, Key=key)["Body"].read() for key in keys}


class Azure:
    """The blobs of a container."""

    def __init__(self, container):
        self.container = container

    def put(self, key, content):
        self.container.upload_blob(key, content)

    def get(self, prefix):
        """The blobs whose names begin with `prefix`, by the rest of the name."""
        names = [blob.name for blob in self.container.list_blobs(name_starts_with=prefix)]
        return {name[len(prefix):]: self.container.download_blob(name).readall() for name in names}


def job(folder, environment):
    """Runs the main job, and gives the seconds of each command."""
    seconds = {}
    for arguments in JOB:
        began = time.time()
        run(binary, folder, *arguments, **environment)
        seconds[" ".join(arguments[:2])] = round(time.time() - began, 1)
    return seconds


def check(start, environment, relay, objects):
    """Compares the main job at a URL with that on disk, and lets runs meet and die."""
    for name, path in FILES.items():
        objects.put(name, path.read_bytes())
    remote = project()
    settings = remote / "c360.toml"
    text = settings.read_text()
    text = text.replace("fixtures/profile", f"{start}/crm/profile")
    text = text.replace('store = "store"', f'store = "{start}/ml/store"')
    settings.write_text(text.replace("fixtures/events", f"{start}/crm/events"))
    seconds = job(remote, environment)
    assert tables(copied(objects, "ml/")) == expected, start
    print(f"{start}: {len(expected)} data files are those on disk; seconds {seconds}")

    settings.write_text(text.replace("fixtures/events", f"{start}/crm/evnets"))
    told = run(binary, remote, "validate", code=3, **environment)
    assert f"{start}/crm/evnets" in told and SECRET not in told, told
    settings.write_text(text.replace("fixtures/events", f"{start}/crm/events"))

    command = [binary, "--project", str(remote), "--quiet", "features", "build", "--as-of"]
    def begin(as_of):
        return subprocess.Popen([*command, as_of], env={**os.environ, **environment}, stdout=subprocess.DEVNULL,
                                stderr=subprocess.PIPE, text=True)

    outcomes = {}
    for number in range(rounds):
        as_ofs = [f"2024-0{4 + side}-{1 + number % 28:02}T{number // 28:02}:00:00Z" for side in range(2)]
        runs = [begin(as_of) for as_of in as_ofs]
        told = [one.communicate()[1] for one in runs]
        codes = tuple(one.returncode for one in runs)
        assert set(codes) <= {0, 5} and 0 in codes, (codes, told)
        assert all(code == 0 or "changed meanwhile" in text or "is held by" in text or "another run" in text
                   for code, text in zip(codes, told)), told
        outcomes[codes] = outcomes.get(codes, 0) + 1
        for as_of, code in zip(as_ofs, codes):
            show = [binary, "--project", str(remote), "show", "features/commerce", "--head", "1", "--as-of", as_of]
            shown = subprocess.run(show, env={**os.environ, **environment}, capture_output=True, text=True)
            assert (shown.returncode == 0) == (code == 0), (as_of, code, shown.stderr)
    print(f"{start}: {rounds} rounds of two runs at once ended with {outcomes}")

    kill(remote, start, environment, relay, objects)


def kill(remote, start, environment, relay, objects):
    """Kills a run at its requests, each time at a copy of the same store."""
    night = ["features", "build", "--as-of", "2024-07-02"]

    def at(name):
        return ["--store", f"{start}/kills/{name}/store"]

    def restored(name):
        for path, content in before.items():
            objects.put(f"kills/{name}/{path}", content)
        return at(name)

    def finished(name):
        """The data files after the night, and the names of all objects that `gc` leaves, without the numbers and marks of runs."""
        run(binary, remote, *night, *at(name), **environment)
        folder = copied(objects, f"kills/{name}/")
        run(binary, remote, "gc", "--keep", "1", "--grace", "0d", *at(name), **environment)
        marks = re.compile(r"\b(\d{6,}|[0-9a-f]{8})\b")
        return tables(folder), sorted(marks.sub("", path) for path in objects.get(f"kills/{name}/"))

    run(binary, remote, "features", "build", *at("first"), **environment)
    before = objects.get("kills/first/")
    restored("undisturbed")
    relay.reset()
    run(binary, remote, *night, *at("undisturbed"), **environment)
    requests = relay.requests.total()
    undisturbed = finished("undisturbed")
    tried = killed = 0
    for request in range(1, requests + 1, max(1, requests // rounds)):
        for answered in [False, True]:
            name = f"{request}-{answered}"
            command = [binary, "--project", str(remote), "--quiet", *night, *restored(name)]
            environ = {**os.environ, **environment}
            code = relay.kill(lambda: subprocess.Popen(command, env=environ, stderr=subprocess.DEVNULL), request, answered)
            relay.reset()
            tried, killed = tried + 1, killed + (code == -9)
            run(binary, remote, "history", *at(name), **environment)
            assert finished(name) == undisturbed, name
    assert killed > tried / 2, (killed, tried)
    print(f"{start}: of {tried} runs, to be killed before or after one of {requests} requests, {killed} came so far; "
          "each time history ends with 0, the next run leaves the data files of a run that nothing disturbed, and "
          "gc the same objects")


on_disk = project()
seconds = job(on_disk, {})
expected = tables(on_disk)
print(f"on disk: {len(expected)} data files; seconds {seconds}")

port = free_port()
server = started(port, sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port))
try:
    access = {"aws_access_key_id": "reader", "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
    s3 = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **access)
    s3.create_bucket(Bucket="data")
    relay = Relay(port)
    check("s3://data", {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{relay.port}", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": SECRET,
    }, relay, S3(s3, "data"))
finally:
    server.kill()

azurite = os.environ.get("AZURITE")
if azurite:
    # The account and the key of the emulator are the same everywhere and documented.
    account = "devstoreaccount1"
    key = "Eby8vdM02xNOcqFlqUwJPLlmEtlCDXJ1OUzFT50uSRZ6IFsuFq2UVErCz4I6tq/K1SZFPTOtr/KBHBeksoGMGw=="
    port = free_port()
    server = started(
        port, azurite, "--silent", "--skipApiVersionCheck", "--location", tempfile.mkdtemp(), "--blobHost",
        "127.0.0.1", "--blobPort", str(port),
    )
    try:
        address = f"http://127.0.0.1:{port}/{account}"
        service = BlobServiceClient(address, credential={"account_name": account, "account_key": key})
        container = service.create_container("data")
        relay = Relay(port)
        check("az://data", {
            "AZURE_STORAGE_USE_EMULATOR": "true", "AZURITE_BLOB_STORAGE_URL": f"http://127.0.0.1:{relay.port}",
            "AZURE_STORAGE_ACCOUNT_NAME": account, "AZURE_STORAGE_ACCOUNT_KEY": key,
        }, relay, Azure(container))
    finally:
        server.kill()
