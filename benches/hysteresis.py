"""How many customers change their primary segment per night, with hysteresis and without.

usage: python3 benches/hysteresis.py BINARY FOLDER [CUSTOMERS] [NIGHTS]

Simulates customers into FOLDER, copies this repository's project there twice, once without any `stay` and
`min_dwell`, trains both before the first night, scores every night, and prints both tables side by side.
"""

import datetime
import json
import pathlib
import re
import shutil
import subprocess
import sys

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
    """By as-of who changed their primary segment, of those who had one."""
    changed = {}
    for path in sorted(project.glob("store/runs/*-score/metrics.json")):
        metrics = json.loads(path.read_text())
        flows = [flow for flow in metrics["flows"] if flow["from"] != "new"]
        moved = sum(flow["customers"] for flow in flows if flow["from"] != flow["to"])
        changed[metrics["as_of"][:10]] = (moved, sum(flow["customers"] for flow in flows))
    return changed


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
    print("night        customers  with hysteresis  without")
    total = [0, 0]
    for date in map(str, dates[1:]):
        (ours, of), (theirs, _) = both[0][date], both[1][date]
        total = [total[0] + ours, total[1] + theirs]
        print(f"{date}   {of:>9,}  {ours:>15,}  {theirs:>7,}")
    print(f"per night    {'':>9}  {total[0] / nights:>15,.1f}  {total[1] / nights:>7,.1f}")


main()
