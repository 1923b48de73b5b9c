"""A version exported to a real MLflow server is read back by MLflow's own client: params, metrics and
files; a second export changes nothing; what the server refuses or cannot take is told."""

import http.server
import json
import pathlib
import shutil
import socket
import subprocess
import sys
import tempfile
import time
import urllib.request

import mlflow
import onnxruntime

from project import live, project, root, run, serve

binary = sys.argv[1]


def server(*arguments):
    """An MLflow server on loopback, its address, and where it keeps what it gets."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="mlflow-"))
    with socket.socket() as free:
        free.bind(("127.0.0.1", 0))
        port = free.getsockname()[1]
    command = [sys.executable, "-m", "mlflow", "server", "--host", "127.0.0.1", "--port", port]
    command += ["--backend-store-uri", f"sqlite:///{folder}/runs.db", "--workers", 1, *arguments]
    log = open(folder / "log", "w")
    process = subprocess.Popen(list(map(str, command)), cwd=folder, stdout=log, stderr=log)
    address = f"http://127.0.0.1:{port}"
    for _ in range(240):
        try:
            urllib.request.urlopen(f"{address}/health").read()
            return process, address, folder
        except OSError:
            assert process.poll() is None, (folder / "log").read_text()
            time.sleep(0.5)
    raise SystemExit("the MLflow server does not answer")


folder = project()
run(binary, folder, "run")
shown = json.loads(run(binary, folder, "--format", "json", "models", "show", "churn"))
version = f"models/churn/{shown['version']}"
metrics = json.loads(live(folder, f"{version}/metrics.json").read_text())

process, address, kept = server("--artifacts-destination", "artifacts")
try:
    export = ["--format", "json", "export", "mlflow", "churn", "--tracking-uri", address]
    answer = json.loads(run(binary, folder, *export))
    assert not answer["was_there"]
    mlflow.set_tracking_uri(address)
    client = mlflow.MlflowClient()
    found = client.get_run(answer["run_id"])
    assert found.info.status == "FINISHED", found.info
    assert client.get_experiment(found.info.experiment_id).name == "fixtures"
    assert found.data.tags["c360.version"] == shown["version"]
    assert found.data.params["spec.label.horizon"] == "90d", found.data.params
    for name, value in metrics["test"]["metrics"].items():
        assert found.data.metrics[f"test.{name}"] == value, name
    history = client.get_metric_history(answer["run_id"], "snapshot.roc_auc")
    ours = [snapshot["roc_auc"] for snapshot in metrics["stability"]]
    assert [point.value for point in sorted(history, key=lambda p: p.step)] == ours
    loaded = pathlib.Path(client.download_artifacts(answer["run_id"], "", tempfile.mkdtemp()))
    for name in root(folder)["files"]:
        if name.startswith(f"{version}/"):
            own = (loaded / name.split("/")[-1]).read_bytes()
            assert own == live(folder, name).read_bytes(), name
    onnxruntime.InferenceSession(str(loaded / "model.onnx"))
    again = json.loads(run(binary, folder, *export))
    assert again["was_there"] and again["run_id"] == answer["run_id"]
    assert len(client.search_runs([found.info.experiment_id])) == 1
    # A run that was cut short is finished by the next attempt, not doubled.
    client.set_terminated(answer["run_id"], "FAILED")
    again = json.loads(run(binary, folder, *export))
    assert not again["was_there"] and again["run_id"] == answer["run_id"]
    assert client.get_run(answer["run_id"]).info.status == "FINISHED"
    print(
        f"MLflow {mlflow.__version__}: {len(found.data.params)} params, "
        f"{len(found.data.metrics)} metrics, {len(list(loaded.glob('*.*')))} files read back"
    )
finally:
    process.terminate()
    process.wait()

error = run(binary, folder, *export, code=1)
assert "is the server up" in error, error
error = run(binary, folder, *export[:-1], "runs", code=2)
assert "http:// or https://" in error, error

process, address, kept = server("--no-serve-artifacts", "--default-artifact-root", "artifacts")
try:
    error = run(binary, folder, *export[:-1], address, code=2)
    assert "--serve-artifacts" in error, error
finally:
    process.terminate()
    process.wait()


class Refusing(http.server.BaseHTTPRequestHandler):
    """Asks for a name, and keeps what it was told."""

    told = None

    def do_GET(self):
        Refusing.told = self.headers.get("Authorization")
        self.send_response(401)
        self.end_headers()


address = serve(Refusing)
error = run(binary, folder, *export[:-1], address, code=1, MLFLOW_TRACKING_TOKEN="planted")
assert Refusing.told == "Bearer planted" and "401" in error and "planted" not in error, error
secret = {"MLFLOW_TRACKING_USERNAME": "ann", "MLFLOW_TRACKING_PASSWORD": "planted"}
error = run(binary, folder, *export[:-1], address, code=1, **secret)
assert Refusing.told == "Basic YW5uOnBsYW50ZWQ=" and "planted" not in error, error
print("refusals are told, and secrets are not")
shutil.rmtree(folder)
