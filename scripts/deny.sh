#!/usr/bin/env bash
# Usage: scripts/deny.sh
# Checks licences, bans and sources of every dependency (deny.toml). Installs cargo-deny once, into
# the user's cache. Advisories need a database from the network: scripts/advisories.sh.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib/common.sh
need_rust
tools=${XDG_CACHE_HOME:-$HOME/.cache}/strongroom/tools
if ! command -v cargo-deny >/dev/null 2>&1 && [ ! -x "$tools/bin/cargo-deny" ]; then
    say "installing cargo-deny"
    CARGO_TARGET_DIR=$tools/build cargo install --quiet --debug --locked cargo-deny --root "$tools"
    rm -rf "$tools/build"
fi
PATH="$tools/bin:$PATH"
cargo deny --log-level error check bans licenses sources
