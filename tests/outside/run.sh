#!/usr/bin/env bash
# Checks against programs that are not part of this project: `run.sh onnx | mlflow | reports | feast | online | schemas | cloud | delta | damage | faults | determinism | lineage`.
# Each is a Python script beside this one, run in an environment of its own with the release binary, or with C360_BINARY.
set -euo pipefail
cd "$(dirname "$0")/../.."
name=$1
if [ "$name" = reports ] && ! [ -x "${CHROMIUM:-/usr/bin/chromium}" ]; then
  apt-get update -q && apt-get install -y -q chromium
fi
if [ "$name" = online ]; then
  command -v redis-server >/dev/null && ls /usr/lib/postgresql/*/bin/initdb >/dev/null 2>&1 ||
    { apt-get update -q && apt-get install -y -q redis-server postgresql openssl; }
fi
folder="${CARGO_TARGET_DIR:-target}/outside"
mkdir -p "$folder"
if [ ! -x "$folder/$name/bin/python" ]; then
  python3 -m venv "$folder/$name"
fi
"$folder/$name/bin/python" -m pip install --quiet --requirement "tests/outside/$name.txt"
binary=${C360_BINARY:-}
if [ -z "$binary" ]; then
  cargo build --release --quiet
  binary=$(cargo metadata --no-deps --format-version 1 | python3 -c \
    'import json, sys; print(json.load(sys.stdin)["target_directory"])')/release/c360-ml
fi
"$folder/$name/bin/python" "tests/outside/check_$name.py" "$binary" "${@:2}"
