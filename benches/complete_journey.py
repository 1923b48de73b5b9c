"""Churn on Complete Journey beside scikit-learn: the same test rows, paired differences.

usage: complete_journey.py BINARY OUT.json [TEST]     (needs numpy, polars, pyarrow, scikit-learn)

For each of three outcomes (30 days after a gap of one, 14 and 7 days at once) the project of
examples/complete-journey is trained as of the day on which the outcomes of the test snapshot TEST
(default 2017-11-01) have ended, once with its own logistic model and once with `algorithm = "gbdt"`.
Beside it stand what a data scientist would write with scikit-learn in an hour: 22 features (recency,
tenure, and over 7, 14, 30, 60 and 90 days orders, spend, active days and distinct products), log1p, five
monthly snapshots of which the last is two months before the test, a logistic regression of the
standardized columns and histogram gradient boosting. Differences are paired: 2,000 times the test
households are drawn again. OUT.json has every number, and every configuration that our folds tried.
"""

import datetime as dt
import json
import pathlib
import re
import shutil
import subprocess
import sys
import tempfile

import numpy as np
import polars as pl
from sklearn.ensemble import HistGradientBoostingClassifier
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import average_precision_score, brier_score_loss, roc_auc_score
from sklearn.preprocessing import StandardScaler

EXAMPLE = pathlib.Path(__file__).resolve().parents[1] / "examples" / "complete-journey"
OUTCOMES = [(1, 30), (0, 14), (0, 7)]
WINDOWS = [7, 14, 30, 60, 90]
ELIGIBLE = 60
DRAWS = 2000


def days(count):
    return dt.timedelta(days=count)


def rows(lines, at, gap, horizon):
    """Features of the households that bought within 60 days before `at`, and who buys nothing after."""
    past = lines.filter(pl.col("time") < at)
    columns = [
        (at - pl.col("time").max()).dt.total_seconds().truediv(86400).alias("recency"),
        (at - pl.col("time").min()).dt.total_seconds().truediv(86400).alias("tenure"),
    ]
    for window in WINDOWS:
        within = pl.col("time") >= at - days(window)
        columns += [
            pl.col("basket_id").filter(within).n_unique().alias(f"orders {window}"),
            pl.col("sales_value").filter(within).sum().alias(f"spend {window}"),
            pl.col("time").filter(within).dt.date().n_unique().alias(f"days {window}"),
            pl.col("product_id").filter(within).n_unique().alias(f"products {window}"),
        ]
    begin = at + days(gap)
    after = (pl.col("time") >= begin) & (pl.col("time") < begin + days(horizon))
    buyers = lines.filter(after)["household_id"].unique()
    table = past.group_by("household_id").agg(columns).filter(pl.col("recency") <= ELIGIBLE)
    table = table.sort("household_id")
    label = ~table["household_id"].is_in(buyers.implode())
    x = np.log1p(table.drop("household_id").to_numpy().astype(float))
    return table["household_id"].cast(pl.String).to_list(), x, label.to_numpy()


def scikit_learn(lines, test, gap, horizon):
    """Probabilities of the test households by both models."""
    first = dt.datetime(test.year, test.month - 6, 1)
    past = [rows(lines, first.replace(month=first.month + i), gap, horizon) for i in range(5)]
    x, y = np.concatenate([p[1] for p in past]), np.concatenate([p[2] for p in past])
    keys, xt, yt = rows(lines, test, gap, horizon)
    scale = StandardScaler().fit(x)
    linear = LogisticRegression(C=0.1, max_iter=1000).fit(scale.transform(x), y)
    trees = HistGradientBoostingClassifier(
        max_iter=100, learning_rate=0.05, max_leaf_nodes=15, random_state=0
    ).fit(x, y)
    return keys, yt, {
        "scikit-learn logistic": linear.predict_proba(scale.transform(xt))[:, 1],
        "scikit-learn boosting": trees.predict_proba(xt)[:, 1],
    }


def ours(binary, test, gap, horizon, algorithm):
    """Probabilities by household, as tested, and what training has written of itself."""
    folder = pathlib.Path(tempfile.mkdtemp(prefix="complete-journey-"))
    for name in ["features", "models"]:
        shutil.copytree(EXAMPLE / name, folder / name)
    shutil.copy(EXAMPLE / "c360.toml", folder)
    (folder / "data").symlink_to(EXAMPLE / "data")
    path = folder / "models" / "churn.toml"
    spec = path.read_text()
    spec = re.sub(r'gap = ".*"', f'gap = "{gap}d"', spec)
    spec = re.sub(r'horizon = ".*"', f'horizon = "{horizon}d"', spec)
    # scikit-learn's side counts lines without an amount too; both must have the same rows.
    spec = spec.replace('where = "amount > 0"', "where = \"event_type = 'purchase'\"")
    path.write_text(f'algorithm = "{algorithm}"\n{spec}')
    as_of = (test + days(gap + horizon)).strftime("%Y-%m-%d")
    command = [binary, "--project", str(folder), "--quiet", "--format", "json"]
    done = subprocess.run([*command, "train", "--as-of", as_of], capture_output=True, text=True)
    assert done.returncode in (0, 4), done.stderr
    answer = json.loads(done.stdout)
    files = {name: pathlib.Path(path) for name, path in answer["models"]["churn"]["files"].items()}
    predictions = pl.read_parquet(files["predictions.parquet"])
    artifact = json.loads(files["model.json"].read_text())["model"]["classifier"]
    metrics = json.loads(files["metrics.json"].read_text())
    assert artifact["schedule"]["test"].startswith(test.strftime("%Y-%m-%d")), artifact["schedule"]
    shutil.rmtree(folder)
    by_key = dict(zip(predictions["customer360_id"], predictions["probability"]))
    labels = dict(zip(predictions["customer360_id"], predictions["label"]))
    return by_key, labels, metrics, artifact["configuration"]


def calibration_error(p, y):
    """Ten bins of equal count."""
    order = np.argsort(p, kind="stable")
    bins = np.array_split(order, 10)
    return sum(len(b) * abs(p[b].mean() - y[b].mean()) for b in bins) / len(p)


METRICS = {
    "ROC AUC": lambda p, y: roc_auc_score(y, p),
    "average precision": lambda p, y: average_precision_score(y, p),
    "Brier": lambda p, y: brier_score_loss(y, p),
    "ECE": calibration_error,
}


def difference(metric, a, b, y):
    """The metric of `a` less that of `b`, with its paired 95 % interval."""
    random = np.random.default_rng(7)
    drawn = []
    for _ in range(DRAWS):
        i = random.integers(0, len(y), len(y))
        drawn.append(metric(a[i], y[i]) - metric(b[i], y[i]))
    low, high = np.percentile(drawn, [2.5, 97.5])
    return [metric(a, y) - metric(b, y), low, high]


def main():
    binary, out = sys.argv[1], sys.argv[2]
    test = dt.datetime.fromisoformat(sys.argv[3] if len(sys.argv) > 3 else "2017-11-01")
    lines = pl.read_parquet(EXAMPLE / "data" / "transactions.parquet")
    lines = lines.rename({"transaction_timestamp": "time"})
    lines = lines.with_columns(pl.col("time").cast(pl.Datetime("us")))
    results = []
    for gap, horizon in OUTCOMES:
        keys, y, predicted = scikit_learn(lines, test, gap, horizon)
        peers = list(predicted)
        log = {}
        for algorithm in ["logistic", "gbdt"]:
            by_key, labels, metrics, configuration = ours(binary, test, gap, horizon, algorithm)
            other = set(by_key) ^ set(keys)
            assert not other, f"others are eligible: {sorted(other)[:10]}, {len(by_key)} and {len(keys)}"
            assert [labels[key] for key in keys] == y.tolist(), "others have left"
            predicted[f"c360-ml {algorithm}"] = np.array([by_key[key] for key in keys])
            log[algorithm] = {
                "configuration": configuration,
                "grade": metrics["grade"],
                "tried": metrics["tried"],
                "shapes": metrics["shapes"],
            }
        print(f"gap {gap}, horizon {horizon}: {len(y)} households, {int(y.sum())} left")
        result = {"gap": gap, "horizon": horizon, "rows": len(y), "left": int(y.sum()), "log": log}
        for name, p in predicted.items():
            values = {metric: float(of(p, y)) for metric, of in METRICS.items()}
            result[name] = {"metrics": values, "mean": float(p.mean())}
            text = "  ".join(f"{metric} {value:.4f}" for metric, value in values.items())
            print(f"  {name:24s} {text}  mean {p.mean():.4f}")
        for name in ["c360-ml logistic", "c360-ml gbdt"]:
            result[name]["less"] = {}
            for peer in peers:
                of_peer = {m: difference(of, predicted[name], predicted[peer], y) for m, of in METRICS.items()}
                result[name]["less"][peer] = of_peer
                text = "  ".join(f"{m} {d:+.4f} ({a:+.4f} to {b:+.4f})" for m, (d, a, b) in of_peer.items())
                print(f"  {name} less {peer}: {text}")
        results.append(result)
        sys.stdout.flush()
    pathlib.Path(out).write_text(json.dumps(results, indent=1))


main()
