"""MovieLens 100k for benches/affinity.rs, and what the implicit package makes of it.

usage: OPENBLAS_NUM_THREADS=1 python3 benches/affinity.py ML_100K.inter SPLIT.csv

(`pip install implicit pandas scipy`; the file is in the recbole wheel.) Ratings are taken as views: who
has rated has seen. The first three quarters of what each user rated, in the order of time, are learned
from; the others are to be foretold.
"""
import sys
import time

import implicit
import numpy as np
import pandas
import scipy.sparse

source, split = sys.argv[1:3]
rows = pandas.read_csv(source, sep="\t")
rows.columns = ["user", "item", "rating", "time"]
for name in ("user", "item"):
    rows[name] = rows[name].astype("category").cat.codes
rows = rows.sort_values(["user", "time", "item"])
count = rows.groupby("user")["user"].transform("size")
rows["later"] = (rows.groupby("user").cumcount() >= np.floor(0.75 * count)).astype(int)
rows[["user", "item", "later"]].to_csv(split, index=False)

train, later = rows[rows["later"] == 0], rows[rows["later"] == 1]
shape = (rows["user"].max() + 1, rows["item"].max() + 1)
seen = scipy.sparse.csr_matrix(
    (np.ones(len(train)), (train["user"], train["item"])), shape=shape, dtype=np.float32
)
truth = later.groupby("user")["item"].apply(set)


def ndcg(ranked):
    gains = []
    for user, wanted in truth.items():
        hits = np.array([item in wanted for item in ranked[user][:10]])
        ideal = (1 / np.log2(np.arange(2, min(10, len(wanted)) + 2))).sum()
        gains.append((hits / np.log2(np.arange(2, 2 + len(hits)))).sum() / ideal)
    return np.mean(gains)


popular = np.argsort(-np.asarray(seen.sum(0)).ravel(), kind="stable")
own = [set(seen[user].indices) for user in range(shape[0])]
ranked = [[item for item in popular if item not in own[user]][:10] for user in range(shape[0])]
print(f"popularity: NDCG@10 {ndcg(ranked):.4f}")
for use_cg in (True, False):
    for state in range(3):
        begun = time.time()
        model = implicit.als.AlternatingLeastSquares(
            factors=20, regularization=10.0, alpha=2, iterations=15,
            random_state=state, num_threads=2, use_cg=use_cg,
        )
        model.fit(seen, show_progress=False)
        seconds = time.time() - begun
        items, _ = model.recommend(np.arange(shape[0]), seen, N=10, filter_already_liked_items=True)
        name = "conjugate gradients" if use_cg else "cholesky"
        print(f"implicit, {name}, state {state}: {seconds:.3f} s, NDCG@10 {ndcg(items):.4f}")
