"""Sources in S3 (moto) and Azure (azurite, where AZURITE names its program) give the features of those on disk byte for
byte; credentials are never printed; what is not there is named."""

import os
import socket
import subprocess
import sys
import tempfile
import time

import boto3
from azure.storage.blob import BlobServiceClient

from project import REPOSITORY, live, project, root, run

binary = sys.argv[1]
SECRET = "a-secret-that-nobody-must-see"
FILES = {
    "crm/events/day=2024-07-01/part-000.parquet": REPOSITORY / "fixtures/events/part-000.parquet",
    "crm/profile/part-000.parquet": REPOSITORY / "fixtures/profile/part-000.parquet",
}


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


def features(folder):
    """The bytes of the live files of all feature views."""
    names = [name for name in root(folder)["files"] if name.startswith("features/")]
    assert names
    return {name: live(folder, name).read_bytes() for name in names}


def check(start, environment):
    """Compares features of sources below a URL with those of the same files on disk."""
    remote = project()
    settings = remote / "c360.toml"
    text = settings.read_text()
    text = text.replace("fixtures/profile", f"{start}/crm/profile")
    settings.write_text(text.replace("fixtures/events", f"{start}/crm/events"))
    began = time.time()
    run(binary, remote, "features", "build", **environment)
    seconds = time.time() - began
    assert features(remote) == expected, start
    settings.write_text(text.replace("fixtures/events", f"{start}/crm/evnets"))
    told = run(binary, remote, "validate", code=3, **environment)
    assert f"{start}/crm/evnets" in told and SECRET not in told, told
    print(f"{start}: {len(expected)} files of features are those on disk, {seconds:.1f} s")


on_disk = project()
began = time.time()
run(binary, on_disk, "features", "build")
print(f"on disk: {time.time() - began:.1f} s")
expected = features(on_disk)

port = free_port()
server = started(port, sys.executable, "-m", "moto.server", "-H", "127.0.0.1", "-p", str(port))
try:
    access = {"aws_access_key_id": "reader", "aws_secret_access_key": SECRET, "region_name": "us-east-1"}
    s3 = boto3.client("s3", endpoint_url=f"http://127.0.0.1:{port}", **access)
    s3.create_bucket(Bucket="data")
    for key, path in FILES.items():
        s3.upload_file(str(path), "data", key)
    check("s3://data", {
        "AWS_ENDPOINT_URL": f"http://127.0.0.1:{port}", "AWS_ALLOW_HTTP": "true", "AWS_REGION": "us-east-1",
        "AWS_ACCESS_KEY_ID": "reader", "AWS_SECRET_ACCESS_KEY": SECRET,
    })
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
        check("az://data", {
            "AZURE_STORAGE_USE_EMULATOR": "true", "AZURITE_BLOB_STORAGE_URL": f"http://127.0.0.1:{port}",
            "AZURE_STORAGE_ACCOUNT_NAME": account, "AZURE_STORAGE_ACCOUNT_KEY": key,
        })
    finally:
        server.kill()
