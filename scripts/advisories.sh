#!/usr/bin/env bash
# Usage: scripts/advisories.sh
# Checks the dependencies against the RustSec advisory database, which it fetches: for where the
# network reaches it.
set -euo pipefail
cd "$(dirname "$0")/.."
scripts/deny.sh
PATH="${XDG_CACHE_HOME:-$HOME/.cache}/strongroom/tools/bin:$PATH"
exec cargo deny check advisories
