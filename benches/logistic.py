"""Writes rows for benches/logistic.rs and fits them with scikit-learn.

usage: python3 benches/logistic.py ROWS_FILE [ROWS] [COLUMNS]   (pip install numpy scikit-learn)
"""
import sys
import time

import numpy as np
from sklearn.linear_model import LogisticRegression
from sklearn.metrics import log_loss

path = sys.argv[1]
rows, columns = (int(n) for n in (sys.argv[2:4] + ["500000", "50"][len(sys.argv[2:4]):]))
random = np.random.default_rng(0)
x = random.standard_normal((rows, columns))
beta = random.standard_normal(columns) * 0.3
y = (random.random(rows) < 1 / (1 + np.exp(-(x @ beta - 2)))).astype(np.uint8)
with open(path, "wb") as file:
    file.write(np.array([rows, columns], dtype="<u8").tobytes())
    file.write(x.astype("<f8").tobytes())
    file.write(y.tobytes())
for solver in ("lbfgs", "newton-cholesky", "lbfgs", "newton-cholesky"):
    begun = time.time()
    model = LogisticRegression(C=1.0, solver=solver, max_iter=1000).fit(x, y)
    seconds = time.time() - begun
    loss = log_loss(y, model.predict_proba(x)[:, 1])
    print(f"{solver}: {seconds:.2f} s, log loss {loss:.9f}, coefficients {model.coef_[0][:3]}")
