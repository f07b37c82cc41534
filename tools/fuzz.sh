#!/usr/bin/env bash
# Runs every fuzz target for a while: tools/fuzz.sh [TIMES], "5s" or "500x". A count
# is steadier in continuous checks: the end of a time can itself count as a failure.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
times=${1:-500x}
count=0
while IFS=: read -r file line; do
  name=$(sed -E 's/^func (Fuzz[A-Za-z0-9_]+).*/\1/' <<<"$line")
  dir=./$(dirname "$file")
  echo "fuzz $dir $name"
  go test -run '^$' -fuzz "^${name}\$" -fuzztime "$times" -fuzzminimizetime 1x -parallel 2 "$dir" >/tmp/cape-fuzz.$$ 2>&1 || { cat /tmp/cape-fuzz.$$; rm -f /tmp/cape-fuzz.$$; exit 1; }
  count=$((count + 1))
done < <(git grep -E '^func Fuzz[A-Za-z0-9_]+\(' -- '*_test.go')
rm -f /tmp/cape-fuzz.$$
[ "$count" -gt 0 ] || { echo "no fuzz targets found" >&2; exit 1; }
echo "$count fuzz targets ran $times each"
