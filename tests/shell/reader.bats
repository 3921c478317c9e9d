# The independent reader (tests/reader), written from docs/format.md alone, beside the product: it
# lists, opens and extracts what the product wrote, and refuses what it must refuse.

load lib.bash

setup_file() {
    [ -x "${READER_PYTHON:-}" ] || { echo "the reader's Python is missing: scripts/test.sh installs it"; return 1; }
}
setup() { POOL_SIZE=300M make_pool; }
teardown() { drop_pool; }

READER=$BATS_TEST_DIRNAME/../reader

# The reader, of a copy of the pool that stays as it is while the daemon serves the pool itself.
rd() { "$READER_PYTHON" "$READER/reader.py" --pool "$work/copy" --config-dir "$work/config-copy" "$@"; }

copy_pool() {
    mkdir -p "$work/copy"
    cp --sparse=always "$work/pool/pool.img" "$work/copy/"
    rm -rf "$work/config-copy"
    cp -a "$work/config" "$work/config-copy"
}

refuses() { # PATTERN COMMAND...: the reader ends with 1 and one line that says so
    local pattern=$1; shift
    run rd "$@"
    [ "$status" -eq 1 ] || { echo "status $status: $output"; return 1; }
    [[ $output == error:*$pattern* ]] || { echo "no '$pattern' in: $output"; return 1; }
    [ "$(wc -l <<<"$output")" -eq 1 ]
}

# Names, types, modes, owners, sizes, times, link counts and targets below a folder, and attributes.
facts() {
    (cd "$1" && find . -type d -printf '%p %M %U %G %T@ %n\n' -o -printf '%p %M %U %G %s %T@ %n %l\n' | sort)
    (cd "$1" && find . -type b -printf '%p ' -exec stat -c '%t %T' {} \; | sort)
    (cd "$1" && find . | sort | xargs -d '\n' getfattr -h -d -m - 2>/dev/null)
}

same() { # EXTRACTED MOUNTED
    diff -r --no-dereference --exclude='special-*' "$1" "$2" || return 1
    diff <(facts "$1") <(facts "$2")
}

long_name() { printf 'n%.0s' $(seq 250); }

# Files of every sort, in a folder of a cluster.
make_files() {
    echo small > "$1/small"
    : > "$1/empty"
    head -c 3000000 /dev/urandom > "$1/many-extents"
    truncate -s 40M "$1/holes"
    printf middle | dd of="$1/holes" bs=1 seek=12345678 conv=notrunc status=none
    printf end | dd of="$1/holes" bs=1 seek=41943037 conv=notrunc status=none
    head -c 200000 /dev/urandom > "$1/punched"
    fallocate -p -o 40960 -l 100000 "$1/punched"
    head -c 100000 /dev/urandom > "$1/shortened"
    truncate -s 5001 "$1/shortened"
    truncate -s 9001 "$1/shortened"
    echo long > "$1/$(long_name)"
    printf x > "$1/"$'bytes-\xff\xfe-and\nline'
    ln -s "$(printf 'target/%.0s' $(seq 500))" "$1/long-link"
    ln -s nowhere "$1/link"
    ln "$1/small" "$1/hard"
    mkdir -p "$1/a/b/c" "$1/wide"
    chmod 1777 "$1/a/b"; chmod 4750 "$1/small"; chown 1234:4321 "$1/small"
    seq 1200 | (cd "$1/wide" && xargs -I{} sh -c 'echo {} > "file-{}"')
    rm "$1"/wide/file-1??
    setfattr -n user.comment -v hello "$1/hard"
    setfattr -n user.big -v "$(head -c 3200 /dev/zero | tr '\0' v)" "$1/small"
    setfattr -n user.dir -v d "$1/a"
    setfacl -m u:77:rwx "$1/a/b/c"
    mkfifo "$1/special-fifo"
    mknod "$1/special-device" b 259 70000
    touch -d '1960-01-02 03:04:05.678901234 UTC' "$1/link" -h
    touch -d '2300-01-02 03:04:05.678901234 UTC' "$1/empty"
}

# Parts of what stands in files, written over.
overwrite() {
    head -c 90000 /dev/urandom | dd of="$1/many-extents" bs=1000 seek=500 conv=notrunc status=none
    printf again | dd of="$1/holes" bs=1 seek=12345600 conv=notrunc status=none
    rm "$1/wide/file-7" "$1/empty"; mv "$1/wide/file-8" "$1/a/moved"
    echo more >> "$1/small"
}

@test "the reader's cryptography gives the values of the vectors" {
    "$READER_PYTHON" "$READER/test_crypto.py"
}

@test "list, verify and extract agree with the product: keys, snapshots, clones, rotation, a rewrap" {
    sr key create k1; sr key create k2
    sr cluster create db --key k1
    sr mount db "$work/m"
    make_files "$work/m"
    first=$(take db)
    overwrite "$work/m"
    sr cluster set-key db k2
    second=$(sr snapshot create db --description 'the second' --json | jq -r '.results[0].id')
    sr umount db
    sr restore "$first" --to-cluster copy
    sr mount copy "$work/m"
    overwrite "$work/m"
    third=$(take copy)
    sr umount copy
    sr cluster create plain
    sr mount plain "$work/m"
    make_files "$work/m"
    fourth=$(take plain)
    sr umount plain
    sr cluster create never-written
    sr snapshot rewrap "$first" --key k2
    sr cluster delete db --yes
    sr shutdown
    copy_pool

    # What the headers say.
    rd list > "$work/list"
    diff <(jq -S '[.snapshots[] | {id, clusterName, clusterId, description,
               encryptionKeyId: .wraps[0].encryptionKeyId, keyVersion: .wraps[0].keyVersion,
               keyFingerprint: .wraps[0].keyFingerprint,
               referencedBytes: (.referencedBlocks * 4096)}] | sort_by(.id)' "$work/list") \
         <(sr snapshot list --json | jq -S '[.results[] | {id, clusterName, clusterId, description,
               encryptionKeyId, keyVersion, keyFingerprint, referencedBytes}] | sort_by(.id)')
    diff <(jq -S '[.clusters[] | {name: .clusterName, id: .clusterId, origin,
               referencedBytes: (.referencedBlocks * 4096)}] | sort_by(.name)' "$work/list") \
         <(sr cluster list --json | jq -S '[.results[] | {name, id, origin, referencedBytes}] | sort_by(.name)')

    run rd verify
    [ "$status" -eq 0 ] || { echo "$output"; return 1; }
    [ "$(grep -c '^verified: ' <<<"$output")" -eq 7 ]

    for snapshot in "$first" "$second" "$third" "$fourth"; do
        rd extract "$snapshot" "$work/out"
        sr restore "$snapshot" "$work/r"
        same "$work/out" "$work/r"
        sr umount "$work/r"
        rm -rf "$work/out"
    done
    rd extract copy "$work/out"
    sr mount copy "$work/m"
    same "$work/out" "$work/m"
    rd extract never-written "$work/empty"
    [ -z "$(ls -A "$work/empty")" ]
    refuses "no snapshot or cluster" extract snap-0000000000000000 "$work/none"
}

@test "what a crash left in the intent log is read, as the log stands and once an opening has counted it" {
    sr key create k1
    sr cluster create db --key k1
    sr mount db "$work/m"
    make_files "$work/m"
    take db
    overwrite "$work/m"
    echo logged > "$work/m/logged"
    sync "$work/m/logged" "$work/m/many-extents" "$work/m/holes" "$work/m/small"
    kill_daemon
    copy_pool
    [ "$(rd list | jq '.clusters[0].logRecords')" -gt 0 ]
    rd verify
    rd extract db "$work/out"

    # An opening without the key counts the records and leaves them; the reader applies them still.
    mv "$work"/config/pools/*/keyring "$work/away"
    fails 3 mount db "$work/r"
    sr shutdown
    mv "$work/away" "$(echo "$work"/config/pools/*)/keyring"
    copy_pool
    [ "$(rd list | jq '.clusters[0].logRecords')" -gt 0 ]
    rd verify
    rd extract db "$work/out2"

    sr mount db "$work/r"
    [ "$(cat "$work/r/logged")" = logged ]
    same "$work/out" "$work/r"
    same "$work/out2" "$work/r"
}

@test "wrong keys, disabled keys and another pool's configuration are refused by name" {
    sr key create k1
    sr cluster create db --key k1
    sr cluster create plain
    sr mount db "$work/m"; sr mount plain "$work/r"
    echo secret > "$work/m/file"; echo open > "$work/r/file"
    keyed=$(take db); plain=$(take plain)
    sr shutdown
    copy_pool
    local folder; folder=$(echo "$work"/config-copy/pools/*)
    mv "$folder/keyring.key" "$work/keyring.key"

    head -c 32 /dev/urandom > "$folder/keyring.key"
    refuses "keyring, its file key: the key does not open it" extract "$keyed" "$work/out"
    rm "$folder/keyring.key"
    refuses "there is no keyring.key" extract "$keyed" "$work/out"
    rd extract "$plain" "$work/plain"
    [ "$(cat "$work/plain/file")" = open ]
    run rd verify
    [ "$status" -eq 1 ]
    [[ $output == *"not opened: cluster db: "* && $output == *"not opened: snapshot $keyed of cluster db: "* ]]
    cp "$work/keyring.key" "$folder/keyring.key"
    rd extract "$keyed" "$work/keyed"
    [ "$(cat "$work/keyed/file")" = secret ]

    sr key disable k1 --yes
    sr shutdown
    copy_pool
    refuses "local://k1, version 1: the key is disabled" extract "$keyed" "$work/out"

    head -c 32 /dev/urandom > "$work/wrong"
    refuses "the root secret opens no wrap" --root-key "$work/wrong" list
    STRONGROOM_CONFIG=$work/other sr init --pool "$work/other.img" --size 300M > /dev/null
    cp "$work"/other/pools/*/keyring* "$folder/"
    refuses "the keyring is of version" extract "$keyed" "$work/out"
    [ ! -e "$work/out" ]
}

@test "a passphrase, a recovery key and a backup of the configuration open it" {
    rm -rf "$work/pool" "$work/config"
    local words=$work/words
    echo correct horse > "$words"; chmod 600 "$words"
    sr init --size 300M --root-secret passphrase --passphrase-file "$words" > "$work/init.out"
    sr daemon --passphrase-file "$words"
    sr key create k1
    sr cluster create db --key k1
    sr mount db "$work/m"
    echo deep > "$work/m/file"
    snap=$(take db)
    echo of the backup > "$work/backup-words"; chmod 600 "$work/backup-words"
    sr config backup "$work/backup" --backup-passphrase-file "$work/backup-words"
    sr shutdown
    copy_pool
    recovery_key "$work/recovery"

    rd --passphrase-file "$words" extract "$snap" "$work/out"
    [ "$(cat "$work/out/file")" = deep ]
    rd --recovery-key "$work/recovery" verify
    echo wrong > "$work/wrong"
    refuses "the root secret opens no wrap" --passphrase-file "$work/wrong" list
    tr 'A-H' 'B-HA' < "$work/recovery" > "$work/typo"
    refuses "typing error in group" --recovery-key "$work/typo" list

    of_backup() {
        "$READER_PYTHON" "$READER/reader.py" --pool "$work/copy" --backup "$work/backup" \
            --backup-passphrase-file "$1" --recovery-key "$work/recovery" "${@:2}"
    }
    of_backup "$work/backup-words" extract "$snap" "$work/out2"
    [ "$(cat "$work/out2/file")" = deep ]
    run of_backup "$work/wrong" list
    [ "$status" -eq 1 ]
    [[ $output == *"the key does not open it"* ]]
}

# Where things stand in the copy of the pool, out of the reader's own modules.
locate() { # PYTHON: statements that know `pool`, a Pool, and `opened(NAME)`, a tree that was opened
    PYTHONPATH=$READER "$READER_PYTHON" - "$work/copy" "$work/config-copy" <<EOF
import sys
from functools import partial
from pathlib import Path
from config import Configuration
from pool import Pool
path, config_dir = (Path(argument) for argument in sys.argv[1:])
pool = Pool(path, partial(Configuration.of_folder, config_dir))
opened = lambda name: pool.open(pool.catalog.holder(name))
$1
EOF
}

flip() { # BYTE OF THE IMAGE
    local image=$work/copy/pool.img old
    old=$(od -An -tu1 -j "$1" -N 1 "$image")
    printf "\\x$(printf %x $((old ^ 1)))" | dd of="$image" bs=1 seek="$1" conv=notrunc status=none
}

finds() { # PATTERN: verify names it
    run rd verify
    [ "$status" -eq 1 ] || { echo "status $status: $output"; return 1; }
    grep -q "^damaged: .*$1" <<<"$output" || { echo "no '$1' in: $output"; return 1; }
}

@test "a flipped bit anywhere is named: data, nodes, maps, ring, superblock; one good copy is enough" {
    sr key create k1
    sr cluster create db --key k1
    sr mount db "$work/m"
    mkdir "$work/m/sub"
    seq 50000 > "$work/m/sub/numbers"
    seq 1000 | (cd "$work/m" && xargs touch)
    snap=$(take db)
    sr shutdown
    copy_pool
    rd verify

    local block
    block=$(locate "v = opened('db').volume
print(next(e for i in range(16, 999) for e in v.extents(v.inode(i))).address + 3)")
    flip $((block * 4096 + 77))
    refuses "sub/numbers: byte 12288, device block $block: damaged, its tag differs" extract "$snap" "$work/out"
    finds "byte 12288, device block $block: damaged, its tag differs"
    finds "block $block is damaged, its CRC differs"
    flip $((block * 4096 + 77))
    rm -rf "$work/out"

    local tree="o = opened('db'); list(o.volume.items.range())"
    block=$(locate "$tree; print(next(p.address for p, level in o.nodes if level))")
    flip $((block * 4096 + 5000))
    finds "snapshot $snap of cluster db, node at block $block: damaged"
    rd extract "$snap" "$work/out"
    [ "$(tail -n 1 "$work/out/sub/numbers")" = 50000 ]
    flip $((block * 4096 + 5000))

    block=$(locate "$tree; print(next(p.address for p, level in o.nodes if not level))")
    flip $((block * 4096))
    refuses "node at block $block: damaged, its tag differs" extract "$snap" "$work/out2"
    flip $((block * 4096))

    block=$(locate "print(pool.catalog_nodes[0][0].second)")
    flip $((block * 4096 + 9))
    finds "catalog, node at block $block: damaged, its tag differs"
    flip $((block * 4096 + 9))

    # Two MiB are the second slot, two more the second copy.
    flip $((0x100 + 1048576))
    finds "superblock, slot 1, copy 0: its CRC differs"
    flip $((0x100 + 1048576))

    local position
    position=$(locate "print((pool.payload.ring_head - 1) % pool.superblock.ring_blocks)")
    flip $(((1024 + position) * 4096 + 90))
    finds "space ring, record at .*"
    flip $(((1024 + position) * 4096 + 90))
    rd verify
}

@test "a pool that was put back is refused: the anchor is newer" {
    sr cluster create db
    sr mount db "$work/m"
    sr shutdown
    copy_pool
    sr mount db "$work/m"
    echo later > "$work/m/file"
    take db
    sr shutdown
    cp -a "$work/config/." "$work/config-copy/"
    refuses "older than" list
}
