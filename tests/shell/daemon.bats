# The daemon's edges: read-only and resumed, its audit log, its administrators, its unit.

load lib.bash

teardown() {
    sr shutdown --force >/dev/null 2>&1 || true
    [ -z "${device:-}" ] || losetup -d "$device"
    [ -z "${disk:-}" ] || umount -l "$disk"
    drop_pool
}

# A pool on a device whose writes fail once the filesystem beneath is full.
make_failing_pool() {
    work=$(mktemp -d /var/tmp/strongroom-test.XXXXXX)
    chmod 755 "$work"
    mkdir "$work/m" "$work/disk"
    disk=$work/disk
    mount -t tmpfs -o size=200M tmpfs "$disk"
    truncate -s 300M "$disk/image"
    device=$(losetup -f --show "$disk/image")
    export STRONGROOM_POOL=$device STRONGROOM_CONFIG=$work/config
    sr init > "$work/init.out" 2>&1
}

pool_is() { [ "$(sr status --json | jq -r .pool.state)" = "$1" ]; }

@test "a pool whose device failed goes read-only, and pool resume brings it and its mounts back" {
    make_failing_pool
    sr cluster create db
    sr mount db "$work/m"
    echo kept > "$work/m/kept"; sync "$work/m/kept"
    [ "$(sr pool resume --json | jq -r .state)" = ok ]
    head -c 400M /dev/zero > "$disk/filler" 2>/dev/null || true
    for i in $(seq 40); do
        head -c 2M /dev/urandom > "$work/m/lost" 2>/dev/null && sync "$work/m/lost" 2>/dev/null || true
        ! pool_is readOnly || break
    done
    pool_is readOnly
    sr status | grep -q 'read-only: '
    sr status | grep -q '  - mend what made the pool read-only, then: strongroom pool resume'
    both cluster create other
    [[ $output == *"pool resume"* ]]
    before=$(daemon_pid)
    rm "$disk/filler"
    sr pool resume
    pool_is ok
    [ "$(daemon_pid)" != "$before" ]
    [ "$(cat "$work/m/kept")" = kept ]
    sr cluster create other
    sr shutdown
    sr check
}

@test "what was done with keys and snapshots is written down, with who and how it ended, and no secret" {
    make_pool
    sr key create k1
    sr cluster create db --key k1
    snap=$(take db)
    fails 1 key show nokey
    sr key disable k1 --yes
    fails 3 restore "$snap" "$work/r"
    sr key enable k1
    sr snapshot delete "$snap" --dry-run
    sr snapshot delete "$snap"
    echo words-that-nobody-guesses > "$work/words"; chmod 600 "$work/words"
    sr root-secret add passphrase --new-passphrase-file "$work/words"
    log=$(echo "$work"/config/pools/*/audit.log)
    [ "$(stat -c %a "$log")" = 600 ]
    jq -e . "$log" >/dev/null
    line() { jq -es --arg e "$1" --arg s "$2" --arg r "$3" 'any(.[]; .event == $e and (.subject | contains($s)) and .result == $r and .uid == 0 and .pid > 0 and (.at | endswith("Z")))' "$log" >/dev/null; }
    line key.create k1 ok
    line cluster.create db ok
    line key.disable local://k1 ok
    line snapshot.restore "$snap" key-disabled
    line key.enable local://k1 ok
    line snapshot.delete-dry-run "$snap" ok
    line snapshot.delete "$snap" ok
    line root-secret.add passphrase ok
    sr mount db "$work/m"
    fails 1 mount db "$work/r"
    sr pool grow --size 2G
    kill_daemon
    sr cluster list
    sr umount "$work/m"
    fails 1 umount db
    sr mount db "$work/m"
    sr umount --all
    sr shutdown --force
    line mount "db at $work/m" ok
    line mount "db at $work/r" already-mounted
    line pool.grow 2147483648 ok
    line umount "$work/m" ok
    line umount db not-mounted
    line umount all ok
    line shutdown --force ok
    # Made again by the daemon itself, after it was killed.
    jq -es --arg s "db at $work/m" 'map(select(.event == "mount" and .subject == $s)) | length == 3' "$log"
    ! grep -q words-that-nobody-guesses "$log"
}

@test "members of adminGroup may use the socket, strangers may not, and neither changes root secrets" {
    getent group games >/dev/null && id nobody >/dev/null
    make_pool
    chmod 711 "$work"
    printf 'adminGroup = "games"\n' > "$work/config/strongroom.toml"
    sr cluster create db
    s=$work/pool/control.sock
    [ "$(stat -c '%a %G' "$s")" = "660 games" ]
    as() { runuser -u nobody "$@"; }
    ask() { curl -s -o "$work/answer" -w '%{http_code}' --unix-socket "$s" "$@"; }
    touch "$work/answer"; chmod 666 "$work/answer"
    export -f ask; export s work
    member() { setpriv --reuid nobody --regid nogroup --groups "$(getent group games | cut -d: -f3)" bash -c 'ask "$@"' ask "$@"; }
    stranger() { setpriv --reuid nobody --regid nogroup --clear-groups bash -c 'ask "$@"' ask "$@"; }
    [ "$(member http://x/v1/clusters)" = 200 ]
    [ "$(jq -r '.results[0].name' "$work/answer")" = db ]
    [ "$(member -X POST -d '{"name":"k9"}' http://x/v1/keys)" = 201 ]
    [ "$(member -X POST -d '{"spec":"passphrase","passphrase":"p"}' http://x/v1/root-secrets)" = 403 ]
    [ "$(jq -r .code "$work/answer")" = forbidden ]
    # The kernel stops a stranger at the socket's mode; where it does not, the daemon does.
    [ "$(stranger http://x/v1/clusters)" = 000 ]
    chmod 711 "$work/pool"; chmod 666 "$s"
    [ "$(stranger http://x/v1/clusters)" = 403 ]
    # His own daemon's user is asked at the command line as well.
    setpriv --reuid nobody --regid nogroup --clear-groups \
        test -x "$STRONGROOM_BIN" || skip "an ordinary user cannot run $STRONGROOM_BIN"
    run setpriv --reuid nobody --regid nogroup --clear-groups env HOME=/ "$STRONGROOM_BIN" --socket "$s" --pool "$work/pool" cluster list
    [ "$status" -eq 1 ]
    [[ $output == *adminGroup* ]]
}

@test "what a member of adminGroup mounts must be on a directory of his own" {
    make_pool
    chmod 711 "$work"
    printf 'adminGroup = "games"\n' > "$work/config/strongroom.toml"
    sr cluster create db
    s=$work/pool/control.sock
    export s
    mount_at() { setpriv --reuid nobody --regid nogroup --groups "$(getent group games | cut -d: -f3)" curl -s --unix-socket "$s" -X POST -d "{\"mountpoint\":\"$1\"}" http://x/v1/clusters/db/mount; }
    [ "$(mount_at "$work/m" | jq -r .code)" = mount-point ]
    chown nobody "$work/r"
    [ "$(mount_at "$work/r" | jq -r .clusterName)" = db ]
    sr umount db
}

@test "systemd understands the unit" {
    command -v systemd-analyze >/dev/null || skip "there is no systemd-analyze"
    mkdir "${work:=$(mktemp -d /var/tmp/strongroom-test.XXXXXX)}/units"
    unit=$BATS_TEST_DIRNAME/../../scripts/systemd/strongroom@.service
    sed "s|/usr/local/bin/strongroom|$STRONGROOM_BIN|" "$unit" > "$work/units/strongroom@.service"
    run systemd-analyze verify --man=no --recursive-errors=no "$work/units/strongroom@var-lib-strongroom.service"
    echo "$output"
    [ "$status" -eq 0 ]
    ! grep -qiE 'unknown|ignoring|invalid|failed' <<< "$output"
    # What it names is what the command asks systemd for.
    [ "$(systemd-escape -p /var/lib/strongroom)" = var-lib-strongroom ]
}
