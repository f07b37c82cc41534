#!/usr/bin/env bash
# The main job, end to end, on a platform of its own that is gone afterwards.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
here=$PWD
dir=$(mktemp -d)
server=
finish() {
  status=$?
  if [ -n "$server" ]; then kill "$server" 2>/dev/null || true; wait "$server" 2>/dev/null || true; fi
  if [ $status -ne 0 ]; then echo "demo failed; the server said:" >&2; tail -20 "$dir/log" >&2 || true; fi
  rm -rf "$dir"
}
trap finish EXIT
say() { printf '\n%s\n' "$*"; }
show() { printf '$ %s\n' "$*"; }
run() { # shows what could be pasted
  local shown=() word
  for word; do
    [[ $word =~ ^[A-Za-z0-9_./:=@%+,-]+$ ]] || word=\'$word\'
    shown+=("$word")
  done
  show "${shown[@]}"
  "$@"
}

say "1. A platform on this machine: one command, one directory."
bin/caped dev --data-dir "$dir/data" --listen 127.0.0.1:0 >"$dir/out" 2>"$dir/log" &
server=$!
for _ in $(seq 600); do
  grep -q 'cape is ready at' "$dir/out" && break
  kill -0 "$server" 2>/dev/null || { echo "caped dev ended" >&2; exit 1; }
  sleep 0.1
done
cat "$dir/out"
. "$dir/data/env"
PATH=$here/bin:$PATH

say "2. A new function, deployed: encrypted to the enclave before it leaves this folder."
(cd "$dir" && run cape function create hello)
show cape deploy hello -o json
cape deploy "$dir/hello" -o json >"$dir/hello.json" 2>/dev/null
field() { python3 -c 'import json,sys; print(json.load(open(sys.argv[1]))[sys.argv[2]])' "$@"; }
id=$(field "$dir/hello.json" function_id)
sum=$(field "$dir/hello.json" function_checksum)
echo "function $id, checksum $sum"

say "3. Run it. The client verifies the enclave first, and says what it verified."
run cape run "$id" 'Hello, enclave' --function-checksum "$sum" --verbose

say "4. An example with a dependency in its folder."
run cape deploy examples/stats 2>/dev/null
run cape run dev/stats -f examples/stats/input.json 2>/dev/null

say "5. Encrypt an input now, with nobody online; only the owner's functions can open it."
show "cape encrypt 'a secret'"
sealed=$(cape encrypt 'a secret' 2>/dev/null)
echo "${sealed:0:60}…"
show cape run "$id" "${sealed:0:24}…"
cape run "$id" "$sealed" 2>/dev/null

say "6. What this enclave is."
run cape get-pcrs
say "Done. Everything above ran on this machine; the platform is stopped and its directory removed."
