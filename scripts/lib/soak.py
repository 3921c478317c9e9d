"""Databases under load on three clusters that are snapshotted together, for long; run by scripts/soak.sh."""
import argparse
import json
import os
import random
import shutil
import signal
import statistics
import struct
import subprocess
import sys
import tempfile
import time
from collections import Counter
from pathlib import Path
from typing import NamedTuple

from kill_loads import Load, Pgbench, Sqlite
from pools import MIB, PATIENCE, Pool, answers, fail, mounts_at, until

# Clusters: PostgreSQL's data and its log, SQLite's databases.
DATA, WAL, LITE = CLUSTERS = ("pgdata", "pgwal", "lite")
# Groups of snapshots kept.
KEEP = 12
# Lives of the daemon between two looks at the whole pool.
CHECK_EVERY = 5
# A life of at least so many seconds says whether memory and descriptors grow.
LONG = 120
# Of the daemon: small, so that it is full soon, and what grows after that is something else.
CACHE = 48 * MIB
# By how much the median may, from the third quarter of a long life to the last. What has a bound grows towards it for
# a quarter of an hour (docs/testing.md).
MEMORY_GROWS, DESCRIPTORS_GROW = 24 * MIB, 4


class LargeSqlite(Sqlite):
    """SQLite, of whose transactions some are large, and whose log is truncated now and then."""

    LARGE_EVERY, HUGE_EVERY, TRUNCATE_EVERY = 200, 30, 25

    def prepare(self):
        super().prepare()
        for mode in self.MODES:
            base = self.open(mode)
            base.execute("create table large(n integer, part integer, body blob, primary key(n, part))")
            base.close()

    def pieces(self, n):
        """How many MiB the large transaction `n` writes."""
        if self.options.short:
            return 1 + n // self.LARGE_EVERY % 8
        return 1024 if n // self.LARGE_EVERY % self.HUGE_EVERY == 0 else 1 + n // self.LARGE_EVERY * 7 % 64

    @staticmethod
    def piece(n, part):
        return struct.pack("<QQ", n, part) * (MIB // 16)

    def within(self, base, n):
        if n % self.LARGE_EVERY == 0:
            base.execute("delete from large")
            for part in range(self.pieces(n)):
                base.execute("insert into large values(?, ?, ?)", (n, part, self.piece(n, part)))

    def after(self, base, n):
        if n % self.TRUNCATE_EVERY == 0:
            base.execute("pragma wal_checkpoint(truncate)")

    def examine_more(self, base, newest):
        last = newest - newest % self.LARGE_EVERY
        parts = 0
        for n, part, body in base.execute("select n, part, body from large order by n, part"):
            if (n, part) != (last, parts) or body != self.piece(n, part):
                fail(f"part {part} of the large transaction {n} is wrong; {last} is the last one")
            parts += 1
        if parts != (self.pieces(last) if last else 0):
            fail(f"{parts} parts of the large transaction {last} are there")


class Markers(Load):
    """One number after another, written durably to each cluster in turn: whenever one looks, no cluster has a
    newer one than the cluster before it, and none is more than one behind."""

    NAME = "markers"

    def __init__(self, places, outside, options):
        super().__init__(places[0], outside, options)
        self.files = [place / "marker" for place in places]

    def prepare(self):
        for file in self.files:
            file.write_bytes(bytes(8))

    def start(self):
        self.run(self.write)

    def write(self):
        handles, n = [os.open(file, os.O_RDWR) for file in self.files], self.examine()
        while True:
            n += 1
            for handle in handles:
                os.pwrite(handle, struct.pack("<Q", n), 0)
                os.fdatasync(handle)

    def examine(self):
        """Looks at all of them; the newest number."""
        found = [struct.unpack("<Q", file.read_bytes())[0] for file in self.files]
        if found != sorted(found, reverse=True) or found[0] > found[-1] + 1:
            fail(f"{', '.join(map(str, self.files))} hold {found}: they are not of one point in time")
        return found[0]


class Bounds(NamedTuple):
    """How many transactions each database has at least and at most."""

    rows: tuple
    lite: dict


class Sample(NamedTuple):
    """What the daemon holds."""

    at: float
    memory: int
    descriptors: int
    threads: int


class Soak:
    def __init__(self, pool, options):
        self.pool, self.options = pool, options
        self.dice = random.Random(options.seed)
        self.places = {name: pool.folder / name for name in CLUSTERS}
        outside = pool.folder / "outside"
        for folder in (outside, *self.places.values()):
            folder.mkdir()
        self.postgres = Pgbench(self.places[DATA], outside, options, self.places[WAL])
        self.lite = LargeSqlite(self.places[LITE], outside, options)
        self.markers = Markers([*self.places.values()], outside, options)
        self.loads = (self.postgres, self.lite, self.markers)
        # Groups of snapshots, oldest first: the snapshot of each cluster, and what it must hold.
        self.groups = []
        self.counts, self.lives = Counter(), 0
        self.samples = []

    def run(self):
        for name in CLUSTERS:
            self.pool.sr("cluster", "create", name)
        self.mount()
        for load in self.loads:
            load.prepare()
        end = time.monotonic() + 60 * self.options.minutes
        while time.monotonic() < end or self.lives < 2:
            self.life(end)
            if self.lives % CHECK_EVERY == 0:
                self.look_at_everything()
        self.look_at_everything()
        for group in list(self.groups):
            self.clone(group)

    def mount(self):
        for name, place in self.places.items():
            self.pool.sr("mount", name, place)

    def life(self, end):
        """From a start of the daemon to its death."""
        self.lives += 1
        self.samples = []
        seconds = self.dice.uniform(*((5, 8) if self.options.short else (20, 60)))
        if self.lives == 2 and not self.options.short:
            # Long enough to see whether it grows: half of the time.
            seconds = 30 * self.options.minutes
        end = min(time.monotonic() + seconds, max(end, time.monotonic() + 5))
        for load in self.loads:
            load.start()
        clones = 0
        while time.monotonic() < end:
            time.sleep(self.dice.uniform(0.5, 3))
            self.take()
            if len(self.groups) > KEEP or (len(self.groups) > 3 and self.dice.randrange(8) == 0):
                self.delete(self.a_range())
            if self.dice.randrange(6) == 0 or not clones:
                self.clone(self.dice.choice(self.groups))
                clones += 1
            self.sample()
        self.die()
        self.told_life()

    # Snapshots.

    def begun(self):
        """What is acknowledged now, and what may have been begun by now."""
        return self.postgres.count(), {mode: self.lite.last_told(mode) for mode in self.lite.MODES}

    def take(self):
        """All three at one point in time."""
        rows, lite = self.begun()
        done = self.pool.sr("snapshot", "create", *self.what_to_take())
        most_rows, most_lite = self.begun()
        ids = {result["clusterName"]: result["id"] for result in done["results"]}
        if set(ids) != set(CLUSTERS):
            fail(f"a snapshot of {CLUSTERS} made {done['results']}")
        bounds = {mode: (lite[mode], most_lite[mode] + 1) for mode in lite}
        self.groups.append((ids, Bounds((rows, most_rows + self.postgres.CLIENTS), bounds)))
        self.counts["snapshots"] += len(ids)

    def what_to_take(self):
        return ["--all"] if self.dice.randrange(2) else CLUSTERS

    def a_range(self):
        """Some groups in a row, wherever they stand."""
        length = self.dice.randrange(1, max(2, len(self.groups) // 2))
        first = self.dice.randrange(len(self.groups) - length + 1)
        return self.groups[first:first + length]

    def delete(self, groups):
        self.pool.sr("snapshot", "delete", *self.ids_of(groups))
        self.forget(groups)

    @staticmethod
    def ids_of(groups):
        return [found for ids, _ in groups for found in ids.values()]

    def forget(self, groups):
        self.groups = [group for group in self.groups if group not in groups]
        self.counts["snapshots deleted"] += len(self.ids_of(groups))

    # Clones.

    def clone(self, group):
        """Makes clusters of a group, starts the databases on them, and looks at them with their own tools."""
        ids, bounds = group
        names = {name: f"{name}-clone" for name in CLUSTERS}
        places = {name: self.pool.folder / clone for name, clone in names.items()}
        outside = self.pool.folder / "outside-clone"
        for folder in (outside, *places.values()):
            folder.mkdir()
        for name, clone in names.items():
            self.pool.sr("restore", ids[name], "--to-cluster", clone)
            self.pool.sr("mount", clone, places[name])
        Markers([*places.values()], outside, self.options).examine()
        postgres = Pgbench(places[DATA], outside, self.options, places[WAL])
        try:
            postgres.adopt()
            postgres.serve()
            postgres.examine(*bounds.rows)
            postgres.verify_whole()
            postgres.stop()
        finally:
            postgres.abandon()
        lite = LargeSqlite(places[LITE], outside, self.options)
        for mode, (least, most) in bounds.lite.items():
            lite.examine(mode, least, most)
        for clone, place in zip(names.values(), places.values()):
            self.pool.sr("umount", place)
            self.pool.sr("cluster", "delete", clone, "--yes")
            place.rmdir()
        shutil.rmtree(outside)
        self.counts["clones started and checked"] += len(names)

    # Death.

    def die(self):
        """kill -9: alone, in the middle of a snapshot, or of a deletion."""
        during, going = None, []
        kind = self.dice.choice(("alone", "snapshot", "deletion"))
        if kind == "snapshot":
            during = self.pool.begin("snapshot", "create", *self.what_to_take())
        elif kind == "deletion" and len(self.groups) > 1:
            going = self.a_range()
            during = self.pool.begin("snapshot", "delete", *self.ids_of(going))
        if during:
            time.sleep(self.dice.uniform(0, 0.08))
        os.kill(self.pool.sr("status")["pid"], signal.SIGKILL)
        for load in self.loads:
            load.end()
        began = time.monotonic()
        self.pool.sr("cluster", "list")
        for place in self.places.values():
            until(f"the mount at {place} is back", lambda place=place: answers(place))
            if mounts_at(place) != 1:
                fail(f"{mounts_at(place)} mounts lie at {place}")
        self.back = time.monotonic() - began
        if during:
            self.after_death(during, going)
        self.postgres.verify()
        self.lite.verify()
        self.markers.examine()
        self.counts["kills"] += 1

    def after_death(self, during, going):
        """A snapshot of several clusters is there whole or not at all, and so is a deletion of several."""
        done = self.pool.ended(during, PATIENCE)
        listed = {s["id"] for s in self.pool.sr("snapshot", "list")["results"]}
        if going:
            left = [found for found in self.ids_of(going) if found in listed]
            if left and (done.returncode == 0 or len(left) != len(self.ids_of(going))):
                fail(f"of a deletion of {self.ids_of(going)}, which ended {done.returncode}, {left} are left")
            if not left:
                self.forget(going)
                self.counts["deletions killed over"] += done.returncode != 0
        new = listed - set(self.ids_of(self.groups))
        if new and len(new) != len(CLUSTERS):
            fail(f"a snapshot of {CLUSTERS} left {new}")
        if done.returncode == 0 and not going:
            told = {result["id"] for result in json.loads(done.stdout)["results"]}
            if told != new:
                fail(f"the snapshots {told} were told, {new} are there")
        if new:
            # What they must hold nobody looked at.
            self.pool.sr("snapshot", "delete", *new)
            self.counts["snapshots killed over"] += len(new)

    def look_at_everything(self):
        self.postgres.stop()
        self.pool.check()
        self.counts["checks"] += 1
        self.mount()
        self.postgres.verify_whole()

    # What the daemon holds.

    def sample(self):
        process = Path(f"/proc/{self.pool.sr('status')['pid']}")
        status = dict(line.split(":", 1) for line in (process / "status").read_text().splitlines())
        memory = int(status["VmRSS"].split()[0]) * 1024
        descriptors = len(os.listdir(process / "fd"))
        self.samples.append(Sample(time.monotonic(), memory, descriptors, int(status["Threads"])))

    def told_life(self):
        def span(values, unit=1):
            return f"{min(values) // unit} to {max(values) // unit}"
        samples = self.samples
        seconds = samples[-1].at - samples[0].at
        print(f"life {self.lives}, {seconds:.0f} s: {span([s.memory for s in samples], MIB)} MiB, "
              f"{span([s.descriptors for s in samples])} descriptors, {span([s.threads for s in samples])} threads; "
              f"mounted again after {self.back:.2f} s; {self.summary()}", flush=True)
        if seconds < LONG:
            return
        quarter = len(samples) // 4
        quarters = [samples[n * quarter:(n + 1) * quarter] for n in range(4)]
        memory = [int(statistics.median(s.memory for s in part)) for part in quarters]
        descriptors = [int(statistics.median(s.descriptors for s in part)) for part in quarters]
        print(f"life {self.lives}, medians of its quarters: {', '.join(f'{m / MIB:.0f}' for m in memory)} MiB, "
              f"{', '.join(map(str, descriptors))} descriptors", flush=True)
        if memory[3] > memory[2] + MEMORY_GROWS or descriptors[3] > descriptors[2] + DESCRIPTORS_GROW:
            fail("the daemon grew")

    def summary(self):
        told = self.counts + Counter({f"pgbench's {what}": n for what, n in self.postgres.counts.items()})
        told += Counter({f"SQLite's {what}": n for what, n in self.lite.counts.items()})
        return ", ".join(f"{count} {what}" for what, count in sorted(told.items()))

    def end(self):
        for load in self.loads:
            load.abandon()


def main():
    parser = argparse.ArgumentParser(prog="scripts/soak.sh", description=__doc__)
    parser.add_argument("--minutes", type=float, default=60)
    parser.add_argument("--short", action="store_true", help="two lives of the daemon, smaller transactions")
    parser.add_argument("--seed", type=int, default=None, help="the same moments again, as far as a load allows")
    parser.add_argument("--keep", action="store_true", help="after a failure, leave all as it is")
    parser.add_argument("--dir", default="/var/tmp")
    options = parser.parse_args()
    if options.short:
        options.minutes = 0
    if options.seed is None:
        options.seed = int.from_bytes(os.urandom(4), "little")
    print(f"seed {options.seed}", flush=True)
    # Ended from outside, it still unmounts and tidies up.
    signal.signal(signal.SIGTERM, lambda *_: fail("ended by a signal"))
    folder = Path(tempfile.mkdtemp(prefix="strongroom-soak.", dir=options.dir))
    folder.chmod(0o755)
    (folder / "config").mkdir(mode=0o700)
    (folder / "config/strongroom.toml").write_text(f"cacheBytes = {CACHE}\n", encoding="ascii")
    pool = Pool(folder, (4 if options.short else 32) * 1024 * MIB)
    soak, whole = Soak(pool, options), False
    try:
        soak.run()
        whole = True
    finally:
        soak.end()
        if not whole and options.keep:
            print(f"kept: {folder}", file=sys.stderr)
        else:
            pool.stop()
            for line in Path("/proc/self/mounts").read_text(encoding="utf-8").splitlines():
                if line.split(" ")[1].startswith(f"{folder}/"):
                    subprocess.run(["umount", "-l", line.split(" ")[1]], capture_output=True, check=False)
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{soak.summary()}; nothing was lost, and all that was restored is whole")


if __name__ == "__main__":
    main()
