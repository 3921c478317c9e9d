# Who answers: sockets of strangers, directories that others can change, a daemon that is just dying.

load lib.bash

teardown() {
    [ -z "${work:-}" ] || sr shutdown --force --socket "$work/anybodys/s" >/dev/null 2>&1 || true
    [ -z "${stranger:-}" ] || kill "$stranger" 2>/dev/null || true
    [ -z "${place:-}" ] || rm -rf "$place"
    drop_pool
}

# A user who answers on a socket and writes down what he is told.
serve_as_nobody() { # SOCKET
    runuser -u nobody -- /usr/bin/python3 -c '
import os, socket, sys
os.umask(0)
listener = socket.socket(socket.AF_UNIX)
listener.bind(sys.argv[1])
listener.listen()
while True:
    peer = listener.accept()[0]
    told = peer.recv(65536)
    if told:
        open(sys.argv[1] + ".told", "ab").write(told)
    try:
        peer.sendall(b"HTTP/1.1 200 OK\r\nContent-Length: 14\r\n\r\n{\"results\":[]}")
    except BrokenPipeError:
        pass
    peer.close()
' "$1" 3>&- &
    stranger=$!
    eventually 10 test -S "$1"
}

# A directory of user nobody, where all above it is as given.
make_place() { # FOLDER
    place=$(mktemp -d "$1/strongroom-place.XXXXXX")
    chmod 755 "$place"
    chown nobody: "$place"
}

@test "nothing is said to a stranger who answers on the socket, whoever's the pool" {
    make_pool
    make_place /var/tmp
    serve_as_nobody "$place/control.sock"
    echo a-passphrase > "$work/words"; chmod 600 "$work/words"
    for told in "cluster list" "status" "shutdown" "root-secret add passphrase --new-passphrase-file $work/words"; do
        fails 1 $told --socket "$place/control.sock"
        one_line
        [[ $output == *"served by user $(id -u nobody)"*"nothing was said to it"* ]]
        # In /var/tmp anybody could have made a directory and called it the pool.
        fails 1 $told --pool "$place"
        [[ $output == *"served by user $(id -u nobody)"* ]]
    done
    fails 1 cluster list --json --socket "$place/control.sock"
    [ "$(jq -r .code <<< "$output")" = forbidden ]
    [ ! -e "$place/control.sock.told" ]
}

@test "the owner of a pool answers, where nobody else can have put it there" {
    make_place /srv
    serve_as_nobody "$place/control.sock"
    [ "$(sr cluster list --json --pool "$place" | jq -c .results)" = '[]' ]
    grep -q 'GET /v1/clusters' "$place/control.sock.told"
}

@test "a pool in a directory that others can change is neither made nor served" {
    make_pool
    make_place /var/tmp
    fails 1 init --size 300M --recovery-key none --pool "$place"
    one_line
    [[ $output == *"belongs to user $(id -u nobody)"* ]]
    [ -z "$(ls "$place")" ]
    chown root: "$place"; chmod 777 "$place"
    fails 1 init --size 300M --recovery-key none --pool "$place"
    [[ $output == *"mode 0777"*"chmod go-w $place"* ]]
    chmod 777 "$work/pool"
    fails 1 cluster list
    one_line
    [[ $output == *"chmod go-w $work/pool"* ]]
    chmod 755 "$work/pool"; chown nobody "$work/pool"
    fails 1 cluster list
    fails 1 daemon
    [[ $output == *"belongs to user"* ]]
    chown root "$work/pool"
    sr cluster list
}

@test "a socket is not put where others could exchange it" {
    make_pool
    mkdir -m 777 "$work/anybodys"
    fails 1 cluster list --socket "$work/anybodys/s"
    [[ $output == *"chmod go-w $work/anybodys"* ]]
    chmod 1777 "$work/anybodys"
    sr cluster list --socket "$work/anybodys/s"
    [ "$(stat -c %a "$work/anybodys/s")" = 600 ]
    sr shutdown --socket "$work/anybodys/s"
}

@test "the first command after a daemon was killed works, while its socket still takes connections" {
    make_pool
    sr cluster create db
    sr mount db "$work/m"
    for i in $(seq 10); do
        pid=$(daemon_pid)
        head -c 8M /dev/urandom > "$work/m/file"
        kill -9 "$pid"
        case $((i % 3)) in
            0) sr cluster list ;;
            1) take db ;;
            2) sr cluster create "c$i" ;;
        esac
        [ "$(daemon_pid)" != "$pid" ]
        mountpoint -q "$work/m"
    done
}

@test "who names a pool is not served by the socket of another one" {
    make_pool
    sr cluster create db
    local socket=$STRONGROOM_POOL/control.sock
    STRONGROOM_POOL=$work/second sr init --size 256M > "$work/second.out" 2>&1
    fails 1 --pool "$work/second" --socket "$socket" cluster delete db --yes
    [[ $output == *"the socket is that of the pool $STRONGROOM_POOL, and --pool names $work/second"* ]]
    fails 1 --pool "$work/second" --socket "$socket" shutdown
    sr cluster show db > /dev/null
    # Who names a socket alone means whatever is served there; the image in a served directory is that directory.
    env -u STRONGROOM_POOL "$STRONGROOM_BIN" --socket "$socket" cluster show db > /dev/null
    sr --pool "$STRONGROOM_POOL/pool.img" cluster show db > /dev/null
    # What is to be typed names the pool as the command did.
    sr --pool "$STRONGROOM_POOL" shutdown
    both --pool "$STRONGROOM_POOL" status
    [[ $output == *"strongroom --pool $STRONGROOM_POOL daemon"* ]]
}
