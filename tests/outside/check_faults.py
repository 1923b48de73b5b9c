"""Whatever fails, the store is whole. Calls of the program to the C library are made to fail, or the process is killed at
them (faults.rs): a disk that is full, a permission that is denied, an error or a time-out of the device, a short read or
write, a bit that is read wrong. After each fault, the root names only whole files, champions and profile are as they were
or as they become, and the next run leaves what a run leaves that nothing disturbed.

usage: check_faults.py BINARY [POINTS] [KILLS]
POINTS (default 1) is the number of calls of each kind at which each kind of fault is tried in each command; 0 is all.
KILLS (default 5) is the number of runs that are killed at a random moment."""

import os
import pathlib
import random
import re
import shutil
import signal
import subprocess
import sys
import tempfile
import time
from collections import Counter

import xxhash

from project import REPOSITORY, project, root, run

binary = sys.argv[1]
points = int(sys.argv[2]) if len(sys.argv) > 2 else 1
kills = int(sys.argv[3]) if len(sys.argv) > 3 else 5

#: Which kinds of fault can be met by which operations.
FAULTS = {
    "kill": {"create", "write", "sync", "link", "rename", "folder", "remove", "open", "read", "list"},
    "killed-after": {"create", "write", "sync", "link", "rename", "folder", "remove"},
    "full": {"create", "write", "sync", "link", "rename", "folder"},
    "denied": {"create", "open", "link", "rename", "folder", "remove", "list", "find"},
    "failed": {"create", "open", "read", "write", "sync", "link", "rename", "remove", "list", "find"},
    "timeout": {"create", "open", "read", "write", "sync", "link", "rename", "list"},
    "short": {"read", "write"},
    "flip": {"read"},
}
#: What the names of files have of the run and the attempt that wrote them.
MARKS = re.compile(r"\b(\d{6,}|[0-9a-f]{8})\b")

work = pathlib.Path(tempfile.mkdtemp(prefix="c360-faults-")).resolve()
library = work / "libfaults.so"
compile_library = ["rustc", "--edition", "2024", "-O", "--crate-type", "cdylib", "-o", library]
subprocess.run([*compile_library, REPOSITORY / "tests/outside/faults.rs"], check=True)

SEGMENTS = """
otherwise = "Other"

[[segment]]
name = "At risk"
enter = "churn_risk_score >= 0.6"
stay = "churn_risk_score >= 0.5"
min_dwell = "14d"
primary = true

[[segment]]
name = "Champions"
enter = "rfm_recency = 5"
"""

# A project of few customers and models, so that a run is short.
folder = project(churn=("", "[fit]\nminimum_class = 30"))
for name in ["affinity", "lifetime_value", "propensity"]:
    (folder / f"models/{name}.toml").unlink()
(folder / "models/segments.toml").write_text(SEGMENTS)
shutil.rmtree(folder / "fixtures")
run(binary, folder, "simulate", "--customers", "400", "--days", "730", "--seed", "3", "--out", folder / "fixtures")


def state(case):
    """What a reader of the store sees, apart from the names of runs: data files, champions and the current profile."""
    latest = root(case)
    names = {name: entry["xxh3"] for name, entry in latest["files"].items() if name.endswith(".parquet")}
    versions = {name for name in latest["files"] if name.endswith("model.json")}
    out = case / "out"
    exported = {path.relative_to(out): path.read_bytes() for path in out.rglob("*") if path.is_file()}
    return names, versions, latest["champions"], (latest["profile"] or {}).get("as_of"), exported


def objects(case):
    """The paths of the objects of the store, without what runs and attempts are named by."""
    store = case / "store"
    return sorted(MARKS.sub("", str(path.relative_to(store))) for path in store.rglob("*") if path.is_file())


def check_whole(case):
    """Compares every file that the root names with its checksum."""
    for name, entry in root(case)["files"].items():
        content = (case / "store" / entry["object"]).read_bytes()
        assert len(content) == entry["bytes"] and xxhash.xxh3_64_hexdigest(content) == entry["xxh3"], name


def begin(case, arguments, **environment):
    """Starts a command on the store of a case."""
    arguments = [str(argument).replace("OUT", str(case / "out")) for argument in arguments]
    command = [binary, "--project", str(folder), "--store", str(case / "store"), "--quiet", *arguments]
    environment = {**os.environ, **environment}
    return subprocess.Popen(command, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, env=environment)


def ended(case, arguments, **environment):
    """Runs a command to its end: the exit code and what it said of errors."""
    process = begin(case, arguments, **environment)
    told = process.communicate()[1]
    return process.returncode, told


def done(case, arguments):
    code, told = ended(case, arguments)
    assert code == 0, f"{arguments}: exit {code}\n{told}"


def case_of(name, before):
    """A copy of a case as a case of its own."""
    case = work / name
    shutil.rmtree(case, ignore_errors=True)
    shutil.copytree(before, case, symlinks=True)
    return case


def finished(case, arguments):
    """What the command leaves when it is run, or run again, and `gc` follows."""
    done(case, arguments)
    check_whole(case)
    left = state(case)
    done(case, ["gc", "--keep", "1", "--grace", "0d"])
    check_whole(case)
    return left, objects(case)


class Undisturbed:
    """What a command leaves that nothing disturbs: what is live after it, and what it leaves when it is run once or twice."""

    def __init__(self, arguments, before):
        self.before = root(before)["number"], state(before)
        case = case_of("undisturbed", before)
        self.once = finished(case, arguments)
        case = case_of("undisturbed", before)
        done(case, arguments)
        self.live = state(case)
        self.twice = finished(case, arguments)

    def check_after(self, case, arguments):
        """Checks that the store can be read after a fault, and that the next run is right."""
        check_whole(case)
        number, live = root(case)["number"], state(case)
        is_published = number > self.before[0]
        assert live[:4] == (self.live if is_published else self.before[1])[:4], "a part of the run is live"
        done(case, ["history"])
        if live[3]:
            done(case, ["show", "profile", "--head", "1"])
        left, expected = finished(case, arguments), self.twice if is_published else self.once
        more, fewer = [Counter(a[1]) - Counter(b[1]) for a, b in [(left, expected), (expected, left)]]
        assert left[1] == expected[1], f"the next run leaves {dict(more)}, and not {dict(fewer)}"
        assert left[0] == expected[0], f"the next run leaves {left[0]}"


def try_command(name, arguments, before):
    """Tries all kinds of fault at the calls of one command; how many, and how many the command survived itself."""
    log = work / "log"
    log.unlink(missing_ok=True)
    preload = {"LD_PRELOAD": str(library), "C360_FAULT_LOG": str(log)}
    case = case_of("undisturbed", before)
    code, told = ended(case, arguments, **preload, C360_FAULT_FOLDER=str(case))
    assert code == 0, told
    calls = Counter(line.split(" ", 1)[0] for line in log.read_text().splitlines())
    undisturbed = Undisturbed(arguments, before)
    tried = Counter()
    outcomes = Counter()
    for kind, operations in FAULTS.items():
        for operation in sorted(operations & set(calls)):
            count = calls[operation]
            every = range(1, count + 1)
            chosen = every if points in (0, *range(count, points + 1)) else sorted(choice.sample(every, points))
            for number in chosen:
                what = f"{name}: {kind} {operation} {number} of {count}"
                case = case_of("case", before)
                fault = {"LD_PRELOAD": str(library), "C360_FAULT_FOLDER": str(case), "C360_FAULT": f"{kind} {operation} {number}"}
                code, told = ended(case, arguments, **fault)
                tried[kind] += 1
                outcomes[code] += 1
                try:
                    assert code in (0, 1, -signal.SIGKILL), f"exit {code}"
                    assert code != 1 or re.search("^error: ", told, re.M) and str(case) in told, "no file is named"
                    undisturbed.check_after(case, arguments)
                except (AssertionError, OSError) as error:
                    failures.append(what)
                    print(f"FAILED {what}: {error}\nexit {code}\n{told}", flush=True)
    print(f"{name}: {sum(tried.values())} faults ({', '.join(f'{kind} {count}' for kind, count in tried.items())}); "
          f"exit codes {dict(outcomes)}", flush=True)
    return tried


seed = random.randrange(1 << 32)
print(f"seed {seed}", flush=True)
choice = random.Random(seed)

empty = work / "empty"
empty.mkdir()
built = case_of("built", empty)
done(built, ["features", "build"])
scored = case_of("scored", empty)
done(scored, ["run"])
many = case_of("many", scored)
for day in [2, 3]:
    done(many, ["score", "--as-of", f"2024-07-0{day}"])

COMMANDS = [
    ("features build", ["features", "build", "--as-of", "2024-07-02"], built),
    ("train", ["train"], built),
    ("score", ["score", "--as-of", "2024-07-02"], scored),
    ("gc", ["gc", "--keep", "1", "--grace", "0d"], many),
    ("export", ["export", "feast", "--out", "OUT"], many),
]
failures = []
total = Counter()
for name, arguments, before in COMMANDS:
    total += try_command(name, arguments, before)
assert not failures, f"{len(failures)} of {sum(total.values())} faults are not survived"
print(f"in all {sum(total.values())} faults, after which the store was whole and the next run right", flush=True)

killed = 0
known = {}
for _ in range(kills):
    name, arguments, before = choice.choice(COMMANDS[:3] + [("run", ["run", "--as-of", "2024-07-02"], scored)])
    if name not in known:
        began = time.time()
        done(case_of("case", before), arguments)
        known[name] = time.time() - began, Undisturbed(arguments, before)
    took, undisturbed = known[name]
    case = case_of("case", before)
    process = begin(case, arguments)
    time.sleep(choice.uniform(0, took))
    process.kill()
    process.communicate()
    killed += process.returncode == -signal.SIGKILL
    undisturbed.check_after(case, arguments)
print(f"{kills} runs were to be killed at a random moment, and {killed} were; each next run was right")
shutil.rmtree(work)
