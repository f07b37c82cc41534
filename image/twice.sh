#!/usr/bin/env bash
# Builds the images twice, at two paths and with two caches, and compares every file.
#   twice.sh          both caches are empty: packages are fetched and the kernel compiled twice, some 20 minutes on two processors
#   twice.sh --cached both begin as copies of this machine's cache, whose kernel was compared with image/lock.json when it was built
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
revision=$(git rev-parse --short=12 HEAD 2>/dev/null || echo unknown)
cache=${CAPE_IMAGE_CACHE:-${XDG_CACHE_HOME:-$HOME/.cache}/cape}
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
paths=("$work/one" "$work/another path")
for i in 0 1; do
  mkdir -p "${paths[i]}" "$work/cache $i"
  git ls-files -z --cached --others --exclude-standard | xargs -0 sh -c 'for f; do [ ! -e "$f" ] || printf "%s\0" "$f"; done' sh |
    tar -c --null -T - | tar -x -C "${paths[i]}"
  if [ "${1:-}" = --cached ]; then
    cp -r "$cache/kernels" "$cache/packages" "$work/cache $i/"
  fi
  (cd "${paths[i]}" && go run ./image/cmd/mkimage build -revision "$revision" -cache "$work/cache $i" -out "$work/out$i")
done
if ! diff -r "$work/out0" "$work/out1"; then
  echo "two builds of the same sources differ" >&2
  exit 1
fi
(cd "$work/out0" && sha256sum -- *.eif)
