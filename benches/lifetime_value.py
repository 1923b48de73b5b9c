"""Writes the customers of the CDNOW sample for benches/lifetime_value.rs and fits them with lifetimes.

usage: python3 benches/lifetime_value.py BUYERS.csv   (pip install lifetimes)

Calibration is up to 1997-09-30 in weeks, as `lifetimes.datasets.load_cdnow_summary_data_with_monetary_value`
has it; `later` counts days with a purchase in the 39 weeks after it.
"""
import sys
import time
import warnings

import numpy as np
import pandas
from lifetimes import (
    BetaGeoFitter,
    GammaGammaFitter,
    ModifiedBetaGeoFitter,
    ParetoNBDFitter,
)
from lifetimes.datasets import load_cdnow_summary_data_with_monetary_value, load_dataset

warnings.filterwarnings("ignore")
buyers = load_cdnow_summary_data_with_monetary_value()
lines = load_dataset("CDNOW_sample.txt", header=None, sep=r"\s+")
lines.columns = ["master", "customer_id", "date", "quantity", "price"]
lines = lines[lines["date"] > 19970930].drop_duplicates(["customer_id", "date"])
later = lines.groupby("customer_id").size()
buyers["later"] = later.reindex(buyers.index).fillna(0).astype(int)
columns = {"frequency": "frequency", "recency": "recency", "T": "age", "monetary_value": "mean_spend"}
buyers.rename(columns=columns)[[*columns.values(), "later"]].to_csv(sys.argv[1], index=False)

given = [buyers[name] for name in ("frequency", "recency", "T")]
for fitter in (BetaGeoFitter, ModifiedBetaGeoFitter, ParetoNBDFitter):
    seconds = []
    for _ in range(3):
        begun = time.time()
        model = fitter(penalizer_coef=0.0).fit(*given)
        seconds.append(time.time() - begun)
    ahead = model.conditional_expected_number_of_purchases_up_to_time(39, *given)
    print(
        f"{fitter.__name__} {min(seconds):.3f} s, {dict(model.params_.round(3))}, 39 ahead "
        f"{ahead.sum():.0f} of {buyers['later'].sum()}, correlation {np.corrcoef(ahead, buyers['later'])[0, 1]:.4f}"
    )
repeaters = buyers[buyers["frequency"] > 0]
begun = time.time()
model = GammaGammaFitter(penalizer_coef=0.0).fit(repeaters["frequency"], repeaters["monetary_value"])
print(f"GammaGammaFitter {time.time() - begun:.3f} s, {dict(model.params_.round(2))} of {len(repeaters)}")
