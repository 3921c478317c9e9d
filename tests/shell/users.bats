# Who may: an ordinary user's own pool, the database's user on root's mount, strangers.

load lib.bash

teardown() {
    if [ -n "${home:-}" ]; then
        as_user "$STRONGROOM_BIN" shutdown --force >/dev/null 2>&1 || true
        umount -l "$home/m" 2>/dev/null || true
        [ -z "${fuse_mode:-}" ] || chmod "$fuse_mode" /dev/fuse
        rm -rf "$home"
    fi
    drop_pool
}

as_user() {
    runuser -u nobody -- env -i PATH="$PATH" HOME="$home" XDG_CONFIG_HOME="$home/.config" \
        XDG_RUNTIME_DIR="$home/run" STRONGROOM_POOL="$home/pool" "$@"
}

# An ordinary user with a home, and a program that he can run.
make_user() {
    home=$(mktemp -d /var/tmp/strongroom-user.XXXXXX)
    chmod 755 "$home"
    mkdir -p "$home/m" "$home/r" "$home/.config" "$home/run"
    chown -R nobody: "$home"
    fuse_mode=$(stat -c %a /dev/fuse)
    chmod 666 /dev/fuse
    runuser -u nobody -- test -x "$STRONGROOM_BIN" || skip "an ordinary user cannot run $STRONGROOM_BIN"
    command -v fusermount3 >/dev/null || skip "there is no fusermount3"
}

@test "an ordinary user has a pool of his own, by fusermount3" {
    make_user
    as_user "$STRONGROOM_BIN" init --size 300M
    as_user "$STRONGROOM_BIN" key create k1
    as_user "$STRONGROOM_BIN" cluster create db --key k1
    as_user "$STRONGROOM_BIN" mount db "$home/m"
    as_user sh -c "echo one > $home/m/file"
    snap=$(as_user "$STRONGROOM_BIN" snapshot create db --json | jq -r '.results[0].id')
    as_user sh -c "echo two > $home/m/file"
    as_user "$STRONGROOM_BIN" restore "$snap" "$home/r"
    [ "$(as_user cat "$home/r/file")" = one ]
    as_user "$STRONGROOM_BIN" umount "$home/r"
    as_user "$STRONGROOM_BIN" shutdown
    as_user "$STRONGROOM_BIN" mount db "$home/m"
    [ "$(as_user cat "$home/m/file")" = two ]
}

@test "allow_other is refused to an ordinary user where fuse.conf does not allow it, and says so" {
    make_user
    ! grep -q '^ *user_allow_other' /etc/fuse.conf 2>/dev/null || skip "fuse.conf allows it here"
    as_user "$STRONGROOM_BIN" init --size 300M
    as_user "$STRONGROOM_BIN" cluster create db
    run as_user "$STRONGROOM_BIN" mount db "$home/m" -o allow_other
    [ "$status" -ne 0 ]
    [[ $output == *user_allow_other* ]]
}

@test "the database's user works on root's mount, others as the permissions say" {
    make_pool
    sr cluster create db
    sr mount db "$work/m"
    install -d -o nobody -g nogroup -m 700 "$work/m/data"
    runuser -u nobody -- sh -c "echo mine > $work/m/data/file && sync $work/m/data/file"
    [ "$(stat -c %U "$work/m/data/file")" = nobody ]
    run runuser -u nobody -- touch "$work/m/not-his"
    [ "$status" -ne 0 ]
    run runuser -u games -- cat "$work/m/data/file"
    [ "$status" -ne 0 ]
    snap=$(take db)
    sr restore "$snap" "$work/r"
    [ "$(runuser -u nobody -- cat "$work/r/data/file")" = mine ]
}

@test "a private mount is root's alone" {
    make_pool
    sr cluster create db
    sr mount db "$work/m" -o private
    chmod 777 "$work/m"
    run runuser -u nobody -- ls "$work/m"
    [ "$status" -ne 0 ]
    ls "$work/m"
}

@test "PostgreSQL runs as its own user on root's mount, and on a clone beside it" {
    bin=$(ls -d /usr/lib/postgresql/*/bin 2>/dev/null | tail -n 1)
    [ -x "$bin/initdb" ] || skip "there is no PostgreSQL"
    id postgres >/dev/null || skip "there is no user postgres"
    make_pool
    pg() { runuser -u postgres -- "$@"; }
    sr cluster create db
    sr mount db "$work/m"
    install -d -o postgres -m 700 "$work/m/data"
    install -d -o postgres -m 700 "$work/run"
    pg "$bin/initdb" -D "$work/m/data" -A trust >/dev/null
    start() { pg "$bin/pg_ctl" -D "$1/data" -w -l "$1/data/log" -o "-k $work/run -p $2 -h ''" start >/dev/null 3>&-; }
    ask() { pg psql -h "$work/run" -p "$1" -qAtc "$2" postgres; }
    start "$work/m" 6001
    ask 6001 "create table t as select generate_series(1, 1000) as n"
    snap=$(take db)
    ask 6001 "delete from t"
    sr restore "$snap" --to-cluster copy
    sr mount copy "$work/r"
    rm -f "$work/r/data/postmaster.pid"
    start "$work/r" 6002
    [ "$(ask 6002 'select count(*), sum(n) from t')" = "1000|500500" ]
    [ "$(ask 6001 'select count(*) from t')" = 0 ]
    pg "$bin/pg_ctl" -D "$work/r/data" -m fast -w stop >/dev/null
    pg "$bin/pg_ctl" -D "$work/m/data" -m fast -w stop >/dev/null
}
