"""Fetches the CDNOW sample (2,357 customers, 1997-01-01 to 1998-06-30) from the Python wheel that
carries it and writes it as Parquet into data/ beside this script.

usage: python3 fetch.py   (pip install pyarrow)
"""
import datetime
import pathlib
import subprocess
import sys
import tempfile
import zipfile

import pyarrow as arrow
import pyarrow.parquet as parquet

here = pathlib.Path(__file__).parent
with tempfile.TemporaryDirectory() as folder:
    download = [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps"]
    subprocess.run([*download, "--dest", folder, "lifetimes==0.11.3"], check=True)
    wheel = next(pathlib.Path(folder).glob("*.whl"))
    with zipfile.ZipFile(wheel) as archive:
        text = archive.read("lifetimes/datasets/CDNOW_sample.txt").decode()
rows = [line.split() for line in text.splitlines() if line.strip()]
days = [datetime.datetime.strptime(row[2], "%Y%m%d") for row in rows]
events = arrow.table({
    "purchase_id": [f"{row[1]}-{number}" for number, row in enumerate(rows)],
    "customer_id": [row[1] for row in rows],
    "bought_on": arrow.array(days, arrow.timestamp("us")),
    "cds": arrow.array([int(row[3]) for row in rows], arrow.int64()),
    "dollars": [float(row[4]) for row in rows],
})
customers = arrow.table({"customer_id": sorted({row[1] for row in rows})})
(here / "data").mkdir(exist_ok=True)
parquet.write_table(events, here / "data" / "purchases.parquet")
parquet.write_table(customers, here / "data" / "customers.parquet")
print(f"{events.num_rows} purchases of {customers.num_rows} customers")
