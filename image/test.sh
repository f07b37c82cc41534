#!/usr/bin/env bash
# Two builds agree, and the production image boots in QEMU's nitro-enclave machine: heartbeat, measurements, locked registers, and a document that clients refuse
# because nobody signed it.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
bash tools/vm-tools.sh --nitro
make -s image
bash image/twice.sh --cached
go test -count=1 -timeout 10m -v -tags image ./test/image
