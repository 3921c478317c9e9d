# Shared by the tests at the shell: a pool of its own for each test, and what a user would type.

sr() { "$STRONGROOM_BIN" "$@"; }

# A pool, its configuration, its mount points: in a folder of this test.
make_pool() { # [INIT OPTIONS...]
    work=$(mktemp -d /var/tmp/strongroom-test.XXXXXX)
    chmod 755 "$work"
    export STRONGROOM_POOL=$work/pool STRONGROOM_CONFIG=$work/config
    mkdir -p "$work/m" "$work/r"
    sr init --size 1G "$@" >"$work/init.out" 2>&1 || { cat "$work/init.out"; return 1; }
}

# Ends the daemon, and leaves nothing behind: a mount that is still there fails the test.
drop_pool() {
    [ -n "${work:-}" ] || return 0
    sr shutdown --force >/dev/null 2>&1 || true
    local left
    left=$(grep -c " $work/" /proc/self/mounts || true)
    grep -o " $work/[^ ]*" /proc/self/mounts | while read -r at; do umount -l "$at"; done
    rm -rf "$work"
    [ "$left" = 0 ] || { echo "mounts were left behind: $left"; return 1; }
}

daemon_pid() { sr status --json | jq -r .pid; }

take() { # CLUSTER -> snapshot id
    sr snapshot create "$1" --json | jq -r '.results[0].id'
}

# Bats' run, with the standard error beside it.
both() { run bash -c '"$STRONGROOM_BIN" "$@" 2>&1' strongroom "$@"; }

one_line() { [ "$(printf '%s\n' "$output" | grep -vc '^hint:')" -eq 1 ]; }
