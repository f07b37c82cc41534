#!/usr/bin/env bash
# Runs every fuzz target for a short while: tools/fuzz.sh [SECONDS]
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
seconds=${1:-5}
count=0
while IFS=: read -r file line; do
  name=$(sed -E 's/^func (Fuzz[A-Za-z0-9_]+).*/\1/' <<<"$line")
  dir=./$(dirname "$file")
  echo "fuzz $dir $name"
  go test -run '^$' -fuzz "^${name}\$" -fuzztime "${seconds}s" -fuzzminimizetime 1x -parallel 2 "$dir" >/tmp/cape-fuzz.$$ 2>&1 || { cat /tmp/cape-fuzz.$$; rm -f /tmp/cape-fuzz.$$; exit 1; }
  count=$((count + 1))
done < <(git grep -E '^func Fuzz[A-Za-z0-9_]+\(' -- '*_test.go')
rm -f /tmp/cape-fuzz.$$
[ "$count" -gt 0 ] || { echo "no fuzz targets found" >&2; exit 1; }
echo "$count fuzz targets ran ${seconds} s each"
