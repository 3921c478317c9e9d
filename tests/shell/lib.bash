# Shared by the tests at the shell: a pool of its own for each test, and what a user would type.

sr() { "$STRONGROOM_BIN" "$@"; }

# A pool, its configuration, its mount points: in a folder of this test.
make_pool() { # [INIT OPTIONS...]
    work=$(mktemp -d /var/tmp/strongroom-test.XXXXXX)
    chmod 755 "$work"
    export STRONGROOM_POOL=$work/pool STRONGROOM_CONFIG=$work/config
    mkdir -p "$work/m" "$work/r"
    sr init --size "${POOL_SIZE:-1G}" "$@" >"$work/init.out" 2>&1 || { cat "$work/init.out"; return 1; }
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

# Tries a command until it succeeds, for SECONDS at most.
eventually() { # SECONDS COMMAND...
    local end=$((SECONDS + $1)); shift
    until "$@" >/dev/null 2>&1; do
        [ "$SECONDS" -lt "$end" ] || { echo "did not become true: $*"; return 1; }
        sleep 0.2
    done
}

# Runs, and wants this status and one line about it.
fails() { # STATUS COMMAND...
    local want=$1; shift
    both "$@"
    [ "$status" -eq "$want" ] || { echo "status $status, wanted $want: $output"; return 1; }
    [ -n "$output" ]
}

# The recovery key as `init` printed it, in a file.
recovery_key() { # FILE
    grep -oE '^ *[0-9A-Z]{5}(-[0-9A-Z]{5}){12}$' "$work/init.out" | tr -d ' ' >"$1"
    chmod 600 "$1"
    [ -s "$1" ]
}

kill_daemon() {
    local pid; pid=$(daemon_pid)
    kill -9 "$pid"
    while kill -0 "$pid" 2>/dev/null; do sleep 0.1; done
}
