#!/usr/bin/env bash
# Checks that what the tests need is here; installs it where it may, else names it.
set -euo pipefail
missing=()
command -v go >/dev/null || { echo "Go 1.26 or newer is needed: https://go.dev/dl" >&2; exit 1; }
python=${PYTHON:-python3}
"$python" -c 'import sys; sys.exit(sys.version_info < (3, 9))' 2>/dev/null || missing+=(python3)
probe=$(mktemp -d)
trap 'rm -rf "$probe"' EXIT
"$python" -m venv "$probe/venv" >/dev/null 2>&1 || missing+=(python3-venv)
command -v setpriv >/dev/null || missing+=(util-linux)
if command -v cargo >/dev/null; then # AWS's own image library is asked where it can be built
  command -v pkg-config >/dev/null || missing+=(pkg-config)
  pkg-config --exists openssl 2>/dev/null || missing+=(libssl-dev)
fi
if [ ${#missing[@]} -gt 0 ]; then
  if [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null; then
    apt-get update -qq
    apt-get install -y -qq --no-install-recommends "${missing[@]}"
  else
    echo "these packages are needed: ${missing[*]} (Debian: apt-get install ${missing[*]})" >&2
    exit 1
  fi
fi
