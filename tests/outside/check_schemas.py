"""The files that `init` writes, in Taplo, which is what Even Better TOML checks files with: it accepts them by the schemas
that their first lines name, and refuses an unknown key and a wrong type.

check_schemas.py BINARY. Taplo comes from npm, beside the environment of this script.
"""

import pathlib
import shutil
import subprocess
import sys
import tempfile

from project import REPOSITORY

TOOLS = pathlib.Path(sys.executable).parent.parent / "node"


def taplo(project, file):
    binary = TOOLS / "node_modules/.bin/taplo"
    done = subprocess.run([binary, "lint", file], cwd=project, capture_output=True, text=True)
    return done.returncode, done.stdout + done.stderr


def main():
    if not (TOOLS / "node_modules").exists():
        subprocess.run(["npm", "install", "--silent", "--prefix", TOOLS, "@taplo/cli@0.7"], check=True)
    project = pathlib.Path(tempfile.mkdtemp(prefix="c360-")) / "proposed"
    sources = ["--events", REPOSITORY / "fixtures/events", "--profile", REPOSITORY / "fixtures/profile"]
    subprocess.run([sys.argv[1], "init", project, *sources], check=True, capture_output=True)
    files = sorted(path.relative_to(project) for path in project.rglob("*.toml"))
    for file in files:
        code, text = taplo(project, file)
        assert code == 0, f"{file}: {text}"
    for file, before, after in [
        ("models/churn.toml", "horizon", "horizont"),
        ("models/rfm.toml", 'name = "rfm"', "name = 5"),
        ("c360.toml", "[sources.events]", "[sources.event]"),
    ]:
        path = project / file
        text = path.read_text()
        assert before in text, f"{file} has no {before}"
        path.write_text(text.replace(before, after, 1))
        code, found = taplo(project, file)
        assert code != 0 and "error" in found, f"{file} with {after} is accepted: {found}"
        path.write_text(text)
    print(f"{len(files)} files are accepted by their schemas, and three faults are refused")
    shutil.rmtree(project.parent)


main()
