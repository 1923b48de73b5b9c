"""ONNX Runtime gives the logits and probabilities that `score` wrote, to 1e-6, from the features that
`features build` wrote: every shape of an input, both algorithms, both calibrations, on all customers
of the fixtures for whom the model is defined."""

import json
import shutil
import sys

import numpy as np
import onnx
import onnxruntime
import pyarrow as pa
import pyarrow.compute as pc
import pyarrow.dataset as ds

from project import project, run, table

LEAST = 1e-6
ATTRIBUTES = 'attributes = ["country", "language", "primary_source"]'
SPECS = {
    "as it is": ("", ""),
    "boosted trees, attributes, isotonic": (
        'algorithm = "gbdt"',
        f'[inputs]\n{ATTRIBUTES}\n[calibration]\nmethod = "isotonic"',
    ),
    "bins, attributes": ("", f'[inputs]\n{ATTRIBUTES}\nshape = "bins"'),
    "splines, products, isotonic": (
        "",
        '[inputs]\nshape = "spline"\n'
        'interactions = [["orders_90d", "page_views_30d"], ["orders_30d", "searches_30d"]]\n'
        '[calibration]\nmethod = "isotonic"',
    ),
}


def inputs(folder, session, keys):
    """A column per input of the graph, of the customers `keys`."""
    columns = {}
    profile = ds.dataset(folder / "fixtures" / "profile").to_table()
    tables = [table(folder, f"features/{view.name}/") for view in (folder / "store/features").iterdir()]
    for needed in session.get_inputs():
        text = needed.type == "tensor(string)"
        source = profile if text else next(t for t in tables if needed.name in t.column_names)
        rows = pc.index_in(keys, source["customer360_id"])
        values = source[needed.name].take(rows)
        if text:
            array = np.array(pc.fill_null(values, "").to_pylist(), dtype=object)
        else:
            array = values.cast(pa.float64()).to_numpy(zero_copy_only=False)
        columns[needed.name] = array.reshape(-1, 1)
    return columns


def check(binary, name, spec):
    folder = project(churn=spec)
    run(binary, folder, "run")
    run(binary, folder, "features", "build")
    path = folder / "churn.onnx"
    answer = run(binary, folder, "--format", "json", "export", "onnx", "churn", "--out", path)
    onnx.checker.check_model(str(path), full_check=True)
    session = onnxruntime.InferenceSession(str(path), providers=["CPUExecutionProvider"])
    assert json.loads(answer)["inputs"] == [needed.name for needed in session.get_inputs()]
    scores = table(folder, "scores/")
    of_model = pc.and_(pc.equal(scores["model"], "churn"), pc.equal(scores["basis"], "model"))
    scores = scores.filter(of_model)
    given = inputs(folder, session, scores["customer360_id"].combine_chunks())
    logit, probability = session.run(["logit", "probability"], given)
    worst = [
        np.abs(theirs[:, 0] - ours.to_numpy()).max()
        for theirs, ours in [(logit, scores["raw"]), (probability, scores["score"])]
    ]
    print(
        f"{name}: {len(given)} inputs, {path.stat().st_size} bytes, {scores.num_rows} customers; "
        f"greatest difference of a logit {worst[0]:.1e}, of a probability {worst[1]:.1e}"
    )
    assert scores.num_rows > 500 and max(worst) < LEAST, f"{name}: off by {worst}"
    shutil.rmtree(folder)


for name, spec in SPECS.items():
    check(sys.argv[1], name, spec)
