# Bad input: one clear line, the documented status, nothing lost.

load lib.bash

setup() { make_pool; sr cluster create db; }
teardown() { drop_pool; }
hint() { [[ $output == *"hint: "*"$1"* ]]; } # WORDS: what the last refusal says to do

@test "wrong usage ends with 2" {
    fails 2
    fails 2 frobnicate
    fails 2 cluster create
    fails 2 mount db
    fails 2 snapshot create
    fails 2 init --size lots
}

@test "names that are none" {
    for name in a/b '' "$(printf 'a%.0s' {1..65})" Upper 'sp ace' $'\xff\xfe' snap-1234; do
        fails 2 cluster create "$name"
    done
    fails 2 cluster create -- -dash
}

@test "mount points that will not do" {
    fails 1 mount db "$work/missing"
    hint "mkdir -p $work/missing"
    touch "$work/file"; fails 1 mount db "$work/file"
    hint "empty directory"
    mkdir "$work/full"; touch "$work/full/x"; fails 1 mount db "$work/full"
    hint "empty directory"
    ln -s "$work/m" "$work/link"; fails 1 mount db "$work/link"
    mkdir "$work/pool/inside"; fails 1 mount db "$work/pool/inside"
    sr mount db "$work/m"
    sr mount db "$work/m"
    fails 1 mount db "$work/r"
    sr cluster create other
    fails 1 mount other "$work/m"
    hint "strongroom umount $work/m"
    mkdir "$work/t"; mount -t tmpfs none "$work/t"
    fails 1 mount other "$work/t"
    umount "$work/t"
    hint "findmnt $work/t"
}

@test "pools that are none" {
    fails 1 --pool "$work/nowhere" cluster list
    mkdir "$work/empty"; fails 1 --pool "$work/empty" cluster list
    head -c 300M /dev/zero > "$work/zeros"; fails 1 --pool "$work/zeros" cluster list
    for command in check 'salvage --list' 'debug superblock'; do
        # shellcheck disable=SC2086
        fails 1 --pool "$work/nowhere" $command
        hint "name the pool by --pool"
    done
    fails 1 init
}

@test "what is damaged in the configuration says what to do" {
    sr key create k1
    fails 2 key delete k1 --after 1d
    hint "can only be lengthened"
    sr shutdown
    folder=$(echo "$work"/config/pools/*)
    for file in generation root.key; do
        cp -p "$folder/$file" "$work/kept"
        echo damaged > "$folder/$file"
        fails 1 cluster list
        hint "strongroom "
        cp -p "$work/kept" "$folder/$file"
    done
    mv "$work/pool/control.sock" "$work/kept" 2> /dev/null || true
    touch "$work/pool/control.sock"
    fails 1 cluster list
    hint "--socket PATH"
    rm "$work/pool/control.sock"
    echo 'adminGroup = "no-such-group"' > "$work/config/strongroom.toml"
    fails 1 cluster list
    hint "getent group"
    rm "$work/config/strongroom.toml"
    sr cluster list
}

@test "unknown things" {
    fails 1 snapshot show snap-0123456789abcdef
    fails 1 cluster show nobody
    fails 1 key show nokey
    fails 1 mount nobody "$work/m"
    fails 1 cluster create c2 --key nokey
    fails 2 cluster create c2 --key foo://bar
    [ "$(sr cluster list --json | jq '.results | length')" = 1 ]
}

@test "a list of ids is all or nothing" {
    sr mount db "$work/m"
    snap=$(take db)
    fails 1 snapshot delete "$snap" snap-0123456789abcdef
    [ "$(sr snapshot list --json | jq '.results | length')" = 1 ]
}

@test "another user is refused, with 403" {
    chmod -R a+rx "$work"
    chmod 666 "$work/pool/control.sock" 2>/dev/null || sr status
    chmod 711 "$work/pool"; chmod 666 "$work/pool/control.sock"
    run runuser -u nobody -- curl -s -o /dev/null -w '%{http_code}' --unix-socket "$work/pool/control.sock" http://x/v1/status
    [ "$output" = 403 ]
}

@test "requests that are malformed or too large" {
    sr status
    s=$work/pool/control.sock
    [ "$(curl -s -o /dev/null -w '%{http_code}' --unix-socket "$s" -X POST -H 'content-type: application/json' -d '{' http://x/v1/clusters)" = 400 ]
    [ "$(curl -s -o /dev/null -w '%{http_code}' --unix-socket "$s" -X POST -H 'content-type: application/json' -d '{"name":"x","colour":"red"}' http://x/v1/clusters)" = 400 ]
    head -c 2M /dev/zero | tr '\0' ' ' > "$work/big"
    [ "$(curl -s -o /dev/null -w '%{http_code}' --unix-socket "$s" -X POST -H 'content-type: application/json' --data-binary @"$work/big" http://x/v1/clusters)" = 413 ]
    [ "$(curl -s -o /dev/null -w '%{http_code}' --unix-socket "$s" http://x/v1/nothing)" = 404 ]
}

@test "unmounted behind the daemon's back" {
    sr mount db "$work/m"
    echo x > "$work/m/file"
    umount "$work/m"
    for _ in $(seq 50); do [ "$(sr cluster show db --json | jq -r .state)" = unmounted ] && break; sleep 0.1; done
    [ "$(sr cluster show db --json | jq -r .state)" = unmounted ]
    sr mount db "$work/m"
    [ "$(cat "$work/m/file")" = x ]
}

@test "SIGTERM while writing loses nothing that was written" {
    sr mount db "$work/m"
    for i in $(seq 200); do echo "$i" > "$work/m/f$i"; done
    pid=$(daemon_pid)
    kill -TERM "$pid"
    for _ in $(seq 100); do kill -0 "$pid" 2>/dev/null || break; sleep 0.1; done
    ! kill -0 "$pid" 2>/dev/null
    sr mount db "$work/m"
    [ "$(ls "$work/m" | wc -l)" = 200 ]
    [ "$(cat "$work/m/f200")" = 200 ]
}
