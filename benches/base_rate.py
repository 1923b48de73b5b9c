"""How far the probabilities of Complete Journey lie from what happened, on the whole, at many as-ofs.

usage: base_rate.py BINARY [AS_OF ...]

The project of examples/complete-journey is trained as of each day (thirteen development as-ofs of 2017 unless
some are given), and for churn and propensity the logit intercept on the test snapshot is printed: 0 where as much
was predicted as happened, below 0 where too much was predicted. The last lines have the mean of its size and the
mean log loss over all as-ofs.
"""

import json
import pathlib
import shutil
import subprocess
import sys
import tempfile

EXAMPLE = pathlib.Path(__file__).resolve().parents[1] / "examples" / "complete-journey"
MODELS = ["churn", "propensity"]
DEVELOPMENT = [
    *["2017-07-22", "2017-08-05", "2017-08-19", "2017-09-02", "2017-09-16", "2017-09-30", "2017-10-07"],
    *["2017-10-14", "2017-10-21", "2017-10-28", "2017-11-04", "2017-11-11", "2017-11-18"],
]


def project(folder):
    """The example with the two classifiers alone, beside the same data."""
    shutil.copytree(EXAMPLE / "features", folder / "features")
    (folder / "models").mkdir()
    for model in MODELS:
        shutil.copy(EXAMPLE / "models" / f"{model}.toml", folder / "models")
    shutil.copy(EXAMPLE / "c360.toml", folder)
    (folder / "data").symlink_to(EXAMPLE / "data")


def trained(binary, as_of):
    """The test snapshot's row of each model's metrics."""
    with tempfile.TemporaryDirectory(prefix="base-rate-") as name:
        folder = pathlib.Path(name)
        project(folder)
        command = [binary, "--project", name, "--quiet", "--format", "json", "train", "--as-of", as_of]
        done = subprocess.run(command, capture_output=True, text=True)
        assert done.returncode in (0, 4), done.stderr
        models = json.loads(done.stdout)["models"]
        files = {model: models[model]["files"]["metrics.json"] for model in MODELS}
        return {model: json.loads(pathlib.Path(path).read_text())["stability"][-1] for model, path in files.items()}


def main():
    binary, as_ofs = sys.argv[1], sys.argv[2:] or DEVELOPMENT
    tests = {model: [] for model in MODELS}
    for as_of in as_ofs:
        for model, test in trained(binary, as_of).items():
            assert test["predicted_as"] == "test", test
            tests[model].append(test)
            print(
                f"{as_of}  {model:10s}  test {test['as_of'][:10]}  rows {test['rows']}"
                f"  happened {test['base_rate']:.4f}  intercept {test['intercept']:+.4f}"
                f"  log loss {test['log_loss']:.5f}",
                flush=True,
            )
    for model, rows in tests.items():
        size = sum(abs(row["intercept"]) for row in rows) / len(rows)
        loss = sum(row["log_loss"] for row in rows) / len(rows)
        print(f"{model}: mean size of the intercept {size:.4f}, mean log loss {loss:.5f}, {len(rows)} as-ofs")


main()
