"""Sources and the store in S3 (moto) and Azure (azurite, where AZURITE names its program) leave the data files that they leave on
disk; of two runs at once one is live; a run that is killed leaves the store whole; credentials are never printed.

usage: check_cloud.py BINARY [ROUNDS]     (rounds of two runs at once, and runs that are killed; default 5)"""

import os
import pathlib
import random
import socket
import subprocess
import sys
import tempfile
import time

import boto3
from azure.storage.blob import BlobServiceClient

from project import REPOSITORY, project, root, run

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


def job(folder, environment):
    """Runs the main job, and gives the seconds of each command."""
    seconds = {}
    for arguments in JOB:
        began = time.time()
        run(binary, folder, *arguments, **environment)
        seconds[" ".join(arguments[:2])] = round(time.time() - began, 1)
    return seconds


def check(start, environment, download):
    """Compares the main job at a URL with that on disk, and lets runs meet and die."""
    remote = project()
    settings = remote / "c360.toml"
    text = settings.read_text()
    text = text.replace("fixtures/profile", f"{start}/crm/profile")
    text = text.replace('store = "store"', f'store = "{start}/ml/store"')
    settings.write_text(text.replace("fixtures/events", f"{start}/crm/events"))
    seconds = job(remote, environment)
    copy = pathlib.Path(tempfile.mkdtemp())
    download("ml/store", copy / "store")
    assert tables(copy) == expected, start
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

    choice = random.Random(7)
    for number in range(rounds):
        killed = begin(f"2024-03-{1 + number % 28:02}T{number // 28:02}:00:00Z")
        time.sleep(choice.uniform(0, 1.2))
        killed.kill()
        killed.communicate()
        run(binary, remote, "history", **environment)
    run(binary, remote, "score", "--as-of", "2024-07-03", **environment)
    run(binary, remote, "gc", "--keep", "1", "--grace", "0d", **environment)
    print(f"{start}: after {rounds} runs that were killed, score and gc end with 0")


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
    for key, path in FILES.items():
        s3.upload_file(str(path), "data", key)

    def from_s3(prefix, folder):
        for page in s3.get_paginator("list_objects_v2").paginate(Bucket="data", Prefix=prefix + "/"):
            for entry in page["Contents"]:
                path = folder / entry["Key"][len(prefix) + 1:]
                path.parent.mkdir(parents=True, exist_ok=True)
                s3.download_file("data", entry["Key"], str(path))

    check("s3://data", {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": SECRET,
    }, from_s3)
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
        for name, path in FILES.items():
            container.upload_blob(name, path.read_bytes())

        def from_azure(prefix, folder):
            for blob in container.list_blobs(name_starts_with=prefix + "/"):
                path = folder / blob.name[len(prefix) + 1:]
                path.parent.mkdir(parents=True, exist_ok=True)
                path.write_bytes(container.download_blob(blob.name).readall())

        check("az://data", {
            "AZURE_STORAGE_USE_EMULATOR": "true", "AZURITE_BLOB_STORAGE_URL": f"http://127.0.0.1:{port}",
            "AZURE_STORAGE_ACCOUNT_NAME": account, "AZURE_STORAGE_ACCOUNT_KEY": key,
        }, from_azure)
    finally:
        server.kill()
