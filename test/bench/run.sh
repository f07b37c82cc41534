#!/usr/bin/env bash
# Installs the peers where it may, then measures. Results: a table on standard
# output, build/bench.json and build/bench.svg.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/../.."
cache=${XDG_CACHE_HOME:-$HOME/.cache}/cape
venv=$cache/bench-venv
if ! [ -x "$venv/bin/uvicorn" ]; then
  mkdir -p "$cache"
  "${PYTHON:-python3}" -m venv "$venv"
  "$venv/bin/pip" install -q -r test/bench/requirements.txt
fi
missing=()
command -v bwrap >/dev/null || missing+=(bubblewrap)
command -v age >/dev/null || missing+=(age)
if [ ${#missing[@]} -gt 0 ] && [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
  apt-get update -qq && apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null
fi
heavy=$cache/bench-heavy
if ! [ -d "$heavy/sklearn" ]; then
  "${PYTHON:-python3}" -m pip install -q --target "$heavy" numpy scikit-learn && chmod -R a+rX "$heavy"
fi
mkdir -p build
go build -o build/bench ./test/bench
exec build/bench --venv "$venv" --heavy "$heavy" --json build/bench.json --svg build/bench.svg "$@"
