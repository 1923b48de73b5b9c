"""The fixtures as a project in a folder of its own, with other models where a check needs them."""

import http.server
import json
import os
import pathlib
import shutil
import subprocess
import tempfile
import threading

import pyarrow.dataset as ds

REPOSITORY = pathlib.Path(__file__).resolve().parents[2]


def project(**models):
    """A copy of the fixtures' project; each keyword is a model and what its spec has beside."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="c360-"))
    for name in ["features", "models", "fixtures"]:
        shutil.copytree(REPOSITORY / name, folder / name)
    shutil.copy(REPOSITORY / "c360.toml", folder)
    for model, (top, tables) in models.items():
        path = folder / "models" / f"{model}.toml"
        path.write_text(f"{top}\n{path.read_text()}\n{tables}\n")
    return folder


def run(binary, folder, *arguments, code=0, **environment):
    """Runs the binary in a project and gives what it printed, its error where it must fail; a `code` of
    None is any."""
    command = [binary, "--project", str(folder), "--quiet", *map(str, arguments)]
    environment = {**os.environ, **environment}
    done = subprocess.run(command, capture_output=True, text=True, env=environment)
    fits = code in (None, done.returncode)
    assert fits, f"{command}\nexit {done.returncode}\n{done.stderr}"
    return done.stderr if code else done.stdout


def serve(handler):
    """Starts a server of a handler, which tells nothing, on a free port of loopback; gives its address."""
    handler.log_message = lambda *_: None
    server = http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler)
    threading.Thread(target=server.serve_forever, daemon=True).start()
    return f"http://127.0.0.1:{server.server_port}"


def table(folder, prefix):
    """The live rows of a table of the store."""
    files = [str(live(folder, name)) for name in root(folder)["files"] if name.startswith(prefix)]
    return ds.dataset(files).to_table()


def root(folder):
    """The latest root of the store, with the live files of all its manifests by name."""
    store = folder / "store"
    latest = json.loads(max((store / "roots").glob("*.json")).read_text())
    latest["files"] = {}
    for name, manifest in latest["folders"].items():
        files = json.loads((store / manifest["object"]).read_text())["files"]
        latest["files"] |= {f"{name}/{file}".lstrip("/"): entry for file, entry in files.items()}
    return latest


def live(folder, name):
    """The object of a live file."""
    return folder / "store" / root(folder)["files"][name]["object"]
