"""A flipped bit of a page of a source whose pages have checksums is found: the command ends with 3 and names the file, or
ends as if the bit had not been flipped, because the command does not read the page.

usage: check_damage.py BINARY [FLIPS]     (default 40)"""

import random
import shutil
import struct
import sys

import pyarrow.parquet as pq

from project import project, root, run

binary = sys.argv[1]
flips = int(sys.argv[2]) if len(sys.argv) > 2 else 40
build = ["features", "build"]


def features(folder):
    files = root(folder)["files"]
    return {name: entry["xxh3"] for name, entry in files.items() if name.startswith("features/")}


folder = project()
file = folder / "fixtures/events/part-000.parquet"
pq.write_table(pq.read_table(file), file, write_page_checksum=True, compression="none")
run(binary, folder, *build)
expected = features(folder)
whole = file.read_bytes()
footer = struct.unpack("<I", whole[-8:-4])[0]
seed = random.randrange(1 << 32)
print(f"seed {seed}")
choice = random.Random(seed)
found = 0
for _ in range(flips):
    bit = choice.randrange(4 * 8, (len(whole) - 8 - footer) * 8)
    flipped = bytearray(whole)
    flipped[bit // 8] ^= 1 << bit % 8
    file.write_bytes(flipped)
    shutil.rmtree(folder / "store")
    told = run(binary, folder, *build, code=None)
    if (folder / "store/roots").exists():
        assert features(folder) == expected, f"bit {bit} has changed the features"
        continue
    told = run(binary, folder, *build, code=3)
    assert "part-000.parquet" in told and "hint: " in told, told
    found += 1
assert found > 0
print(f"of {flips} flipped bits of pages {found} were found, and the others were not read")
