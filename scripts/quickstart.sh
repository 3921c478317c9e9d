#!/usr/bin/env bash
# Usage: scripts/quickstart.sh [--keep DIR]
# Installs what is needed, builds, and shows the main job end to end with PostgreSQL, in a temporary
# pool that it removes again; --keep DIR makes the pool in DIR and leaves it there. Needs root.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib/common.sh

keep=
case "${1:-}" in
    '') ;;
    --keep) keep=${2:-}; [ -n "$keep" ] || die "--keep needs a directory" ;;
    *) sed -n '2,4s/^# //p' "$0"; exit 2 ;;
esac
[ "$(id -u)" = 0 ] || die "the quick start mounts and runs PostgreSQL as its own user: run it as root"

install_packages gcc libc6-dev fuse3 jq postgresql postgresql-client
need_rust
need_fuse
say "building (a few minutes the first time)"
cargo build --release --quiet
bin=${CARGO_TARGET_DIR:-$PWD/target}/release/strongroom
pgbin=$(ls -d /usr/lib/postgresql/*/bin | sort -V | tail -n 1)
begun=$SECONDS

work=${keep:-$(mktemp -d /var/tmp/strongroom-quickstart.XXXXXX)}
mkdir -p "$work"/{pool,mnt/db,mnt/then,mnt/copy,socket}
work=$(cd "$work" && pwd)
chmod 755 "$work" "$work/mnt"
export STRONGROOM_POOL=$work/pool STRONGROOM_CONFIG=$work/config
chown postgres "$work/socket"
export PGHOST=$work/socket PGUSER=postgres PGDATABASE=postgres
port_live=54501 port_copy=54502 port_then=54503

[ -t 2 ] && dim=$'\033[2m' plain=$'\033[0m' || dim='' plain=''
sr() { printf '%s$ strongroom %s%s\n' "$dim" "$*" "$plain" >&2; "$bin" "$@"; }
as_postgres() { runuser -u postgres -- env -C / PGHOST="$PGHOST" "$@"; }
start_postgres() { # DIRECTORY PORT
    as_postgres "$pgbin/pg_ctl" -D "$1" -w -t 60 -l "$work/socket/log-$2" \
        -o "-p $2 -k $PGHOST -c listen_addresses='' -c max_wal_size=256MB" start >/dev/null \
        || { cat "$work/socket/log-$2" >&2; die "PostgreSQL did not start on $1"; }
}
stop_postgres() { as_postgres "$pgbin/pg_ctl" -D "$1" -m fast -w stop >/dev/null 2>&1 || true; }

clean() {
    local status=$?
    set +e
    [ -n "${bench:-}" ] && kill "$bench" 2>/dev/null
    stop_postgres "$work/mnt/db/data"; stop_postgres "$work/mnt/copy/data"
    "$bin" shutdown --force >/dev/null 2>&1
    if [ -z "$keep" ]; then rm -rf --one-file-system "$work"; else echo "kept: $work (STRONGROOM_POOL, STRONGROOM_CONFIG)"; fi
    [ $status -eq 0 ] || echo "the quick start failed (status $status)" >&2
    exit $status
}
trap clean EXIT

say "a pool, with its root secret outside it and a recovery key printed once"
sr init --size 4G

say "a customer key, and a cluster under it"
sr key create app --deletion-wait 7d
sr cluster create db --key local://app
sr mount db "$work/mnt/db"
chown postgres: "$work/mnt/db"; chmod 700 "$work/mnt/db"

say "PostgreSQL on the mount, with pgbench"
as_postgres "$pgbin/initdb" -D "$work/mnt/db/data" --data-checksums -A trust >/dev/null
start_postgres "$work/mnt/db/data" $port_live
as_postgres "$pgbin/pgbench" -p $port_live -i -s 5 -q postgres 2>&1 | tail -n 1
as_postgres psql -p $port_live -qc "create table plaintext_marker as select 'THE-MARKER-NOBODY-MAY-FIND-'||i as secret from generate_series(1,1000) i; create extension amcheck; checkpoint"
as_postgres "$pgbin/pgbench" -p $port_live -c 4 -j 2 -T 20 postgres >"$work/socket/pgbench" 2>&1 &
bench=$!
sleep 5

say "a snapshot while pgbench runs"
snap=$(sr snapshot create db --retain 7d --description "quick start" --json | jq -r '.results[0].id')
sr snapshot list db
sr key usage local://app

say "the key disabled: restoring is refused (status 3)"
sr key disable local://app --yes
status=0; sr restore "$snap" "$work/mnt/then" || status=$?
[ $status -eq 3 ] || die "expected status 3, got $status"

say "enabled again: the same command mounts the snapshot, read-only"
sr key enable local://app
sr restore "$snap" "$work/mnt/then"
ls -l "$work/mnt/then/data" | head -n 5
touch "$work/mnt/then/x" 2>/dev/null && die "a restored snapshot took a write"

say "the snapshot as a new cluster, with a second PostgreSQL on it while the first still runs"
sr restore "$snap" --to-cluster copy
sr mount copy "$work/mnt/copy"
rm -f "$work/mnt/copy/data/postmaster.pid"
start_postgres "$work/mnt/copy/data" $port_copy
kill -0 "$bench" 2>/dev/null && echo "pgbench still runs on the first"
as_postgres "$pgbin/pg_amcheck" -p $port_copy --heapallindexed postgres && echo "pg_amcheck: clean"
sums=$(as_postgres psql -p $port_copy -Atc "select (select sum(abalance) from pgbench_accounts) = (select sum(bbalance) from pgbench_branches) and (select sum(bbalance) from pgbench_branches) = (select sum(tbalance) from pgbench_tellers) and (select sum(tbalance) from pgbench_tellers) = (select coalesce(sum(delta),0) from pgbench_history)")
[ "$sums" = t ] || die "pgbench's sums do not agree on the clone"
echo "pgbench's sums agree"
wait "$bench" || { cat "$work/socket/pgbench" >&2; die "pgbench failed"; }
bench=
grep -E '^(tps|latency average)' "$work/socket/pgbench"

say "one table brought back from the snapshot"
as_postgres psql -p $port_live -qc "drop table plaintext_marker"
as_postgres "$pgbin/pg_dump" -p $port_copy -t plaintext_marker postgres | as_postgres psql -p $port_live -q >/dev/null
as_postgres psql -p $port_live -Atc "select count(*)||' rows are back' from plaintext_marker"

say "no plaintext and no file name stands in the pool"
stop_postgres "$work/mnt/copy/data"; stop_postgres "$work/mnt/db/data"
sr shutdown
needles=(THE-MARKER-NOBODY-MAY-FIND pgbench_accounts postgresql.conf PG_VERSION local://app "quick start")
mapfile -t patterns < <(printf -- '-e\n%s\n' "${needles[@]}")
# All of them in one reading; with -z the holes, of which the pool mostly consists, are skipped.
found=$(grep -z -m 1 -oaF "${patterns[@]}" "$work/pool/pool.img" | tr '\0' ' ' || [ $? -eq 1 ])
[ -z "$found" ] || die "in the pool in the clear: $found"
printf 'not found: %s\n' "${needles[@]}"
say "done in $((SECONDS - begun)) s after the build"
