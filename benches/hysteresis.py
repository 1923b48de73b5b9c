"""How many customers change their primary segment per night, with hysteresis and without.

usage: python3 benches/hysteresis.py BINARY FOLDER [CUSTOMERS] [NIGHTS]

Simulates customers into FOLDER, copies this repository's project there twice, once without any `stay` and
`min_dwell`, trains both before the first night, scores every night, and prints both side by side. Needs pyarrow.
"""

import collections
import datetime
import pathlib
import re
import shutil
import subprocess
import sys

import pyarrow.parquet

REPOSITORY = pathlib.Path(__file__).resolve().parent.parent
LAST = datetime.date(2024, 7, 1)


def call(binary, project, *arguments):
    command = [binary, "--project", str(project), "--quiet", *arguments]
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        sys.exit(f"{' '.join(command)}\n{done.stderr}")
    return done.stdout


def project(folder, name, hysteresis):
    copy = folder / name
    shutil.rmtree(copy, ignore_errors=True)
    copy.mkdir()
    for part in ["features", "models"]:
        shutil.copytree(REPOSITORY / part, copy / part)
    text = (REPOSITORY / "c360.toml").read_text()
    (copy / "c360.toml").write_text(text.replace('"fixtures/', f'"{folder}/data/'))
    if not hysteresis:
        path = copy / "models/segments.toml"
        text = re.sub(r"(?m)^(stay|min_dwell) = .*\n", "", path.read_text())
        names = re.findall(r"(?m)^(still\w*|churn_still) = ", text)
        for name in names:
            text = re.sub(rf"(?m)^{name} = .*\n", "", text)
        # What an example says of members holds no more.
        path.write_text(text.split("[[example]]")[0])
    return copy


def changes(project):
    """By customer the nights on which their primary segment changed, with the one before and after."""
    changed = collections.defaultdict(list)
    for folder in sorted(project.glob("store/segment_changes/as_of=*")):
        night = datetime.date.fromisoformat(folder.name.removeprefix("as_of="))
        columns = ["customer360_id", "previous_primary", "primary_segment"]
        for path in folder.glob("*.parquet"):
            rows = pyarrow.parquet.read_table(path, columns=columns).to_pylist()
            for key, before, after in {tuple(row.values()) for row in rows}:
                if before is not None and before != after:
                    changed[key].append((night, before, after))
    return changed


def by_night(changed, date):
    """Customers who changed on a night, and who of them came back to where they were within a week."""
    moved = back = 0
    for moves in changed.values():
        for i, (night, before, _) in enumerate(moves):
            if night == date:
                moved += 1
                week = night + datetime.timedelta(days=7)
                back += any(after == before and later <= week for later, _, after in moves[i + 1 :])
    return moved, back


def main():
    binary, folder = str(pathlib.Path(sys.argv[1]).resolve()), pathlib.Path(sys.argv[2]).resolve()
    customers = sys.argv[3] if len(sys.argv) > 3 else "20000"
    nights = int(sys.argv[4]) if len(sys.argv) > 4 else 30
    folder.mkdir(parents=True, exist_ok=True)
    if not (folder / "data").exists():
        out = ["simulate", "--customers", customers, "--days", "730", "--seed", "11", "--out"]
        subprocess.run([binary, "--quiet", *out, str(folder / "data")], check=True)
    dates = [LAST - datetime.timedelta(days=back) for back in range(nights, -1, -1)]
    both = []
    for name, hysteresis in [("with", True), ("without", False)]:
        copy = project(folder, name, hysteresis)
        call(binary, copy, "train", "--as-of", str(dates[0]))
        for date in dates:
            call(binary, copy, "score", "--as-of", str(date))
        both.append(changes(copy))
    report(both, dates[1:])


def report(both, nights):
    print("              with hysteresis         without")
    print("night         changed  came back      changed  came back")
    total = [0] * 4
    for date in nights:
        row = [*by_night(both[0], date), *by_night(both[1], date)]
        total = [a + b for a, b in zip(total, row)]
        print("{}    {:>7,}  {:>9,}      {:>7,}  {:>9,}".format(date, *row))
    per_night = [number / len(nights) for number in total]
    print("per night     {:>7,.1f}  {:>9,.1f}      {:>7,.1f}  {:>9,.1f}".format(*per_night))



main()
