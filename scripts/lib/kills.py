"""kill -9 of the daemon in a loop under load; run by scripts/kills.sh."""
import argparse
import hashlib
import json
import os
import random
import shutil
import signal
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

from kill_loads import LOADS
from pools import MIB, PATIENCE, Pool, answers, fail, mounts_at, until

# Rounds between two looks at the whole pool, and snapshots kept meanwhile.
CHECK_EVERY = 10
KEEP = 4
# Seconds within which a mount must be back, on average.
MOUNTED_WITHIN = 2.0


def digest(root):
    """All names, kinds, sizes and contents below a directory, as one number."""
    sum_ = hashlib.blake2b(digest_size=16)
    for folder, folders, files in os.walk(root):
        folders.sort()
        for name in sorted(folders) + sorted(files):
            path = Path(folder, name)
            status = path.lstat()
            sum_.update(f"{path.relative_to(root)}\0{status.st_mode}\0{status.st_uid}\0".encode())
            if path.is_file() and not path.is_symlink():
                with open(path, "rb") as file:
                    sum_.update(hashlib.file_digest(file, "blake2b").digest())
    return sum_.hexdigest()


class VolatileDisk:
    """A disk beneath the pool whose write cache is lost with the power: tests/disk/volatile.rs."""

    def __init__(self, folder):
        self.place = folder / "disk"
        self.place.mkdir()
        self.server = subprocess.Popen([os.environ["STRONGROOM_DISK"], self.place, folder / "medium"])
        until("the disk is there", lambda: mounts_at(self.place))

    def power(self, word):
        """A number cuts it, and decides what the medium kept; then nothing is served until it is `on`."""
        (self.place / "power").write_text(str(word), encoding="ascii")

    def told(self):
        tally = json.loads((self.place / "power").read_text(encoding="ascii"))
        return "{lost} of {sectors} unflushed sectors lost in {cuts} power cuts, {discarded} bytes discarded".format(**tally)

    def stop(self):
        subprocess.run(["umount", "-l", self.place], capture_output=True, check=False)
        self.server.wait(PATIENCE)


class Kills:
    """One load on one cluster of one pool, killed again and again."""

    def __init__(self, pool, load, disk, options):
        self.pool, self.load, self.disk, self.options = pool, load, disk, options
        self.dice = random.Random(f"{options.seed} {load.NAME}")
        self.head, self.then = pool.folder / "head", pool.folder / "then"
        # What each snapshot kept must hold; the one that is mounted at `then`.
        self.snapshots, self.shown = {}, None
        self.times, self.counts = [], {}

    def note(self, what, count=1):
        self.counts[what] = self.counts.get(what, 0) + count

    def run(self):
        self.pool.sr("cluster", "create", "db")
        self.mount(self.options.mount_options)
        self.load.prepare()
        for number in range(1, self.options.rounds + 1):
            self.round(number)
            if number % CHECK_EVERY == 0 or number == self.options.rounds:
                self.look_at_everything()
            if number % CHECK_EVERY == 0:
                print(f"{self.load.NAME}: {number} rounds, {self.told_times()}", flush=True)
        self.load.stop()

    def mount(self, options=()):
        self.pool.sr("mount", "db", self.head, *options)

    def round(self, number):
        self.load.start()
        time.sleep(self.dice.uniform(0.1, 0.6) * self.options.pace)
        during = self.begin_a_snapshot() if number % 4 == 3 else self.take()
        time.sleep(self.dice.uniform(0.0, 0.08 if during else 0.8 * self.options.pace))
        self.kill()
        self.load.end()
        began = time.monotonic()
        if number % 2:
            # The mount that died is put back at its place by what asks for it.
            self.mount(self.options.mount_options)
        else:
            self.pool.sr("cluster", "list")
        until("the mount is back", lambda: answers(self.head))
        self.times.append(time.monotonic() - began)
        if mounts_at(self.head) != 1:
            fail(f"{mounts_at(self.head)} mounts lie at {self.head}")
        if during:
            self.after_a_snapshot(during)
        self.compare_shown()
        self.load.verify()
        self.rotate()
        self.note("kills")

    def kill(self):
        pid = self.pool.sr("status")["pid"]
        if self.disk:
            self.disk.power(self.dice.getrandbits(63))
        os.kill(pid, signal.SIGKILL)
        if self.disk:
            # What it wrote before it noticed must not come after the power is back.
            until("the daemon is gone", lambda: not Path(f"/proc/{pid}").exists())
            self.disk.power("on")

    # Snapshots.

    def take(self):
        """A snapshot under load, and what it held while the daemon lived."""
        found = self.pool.sr("snapshot", "create", "db")["results"][0]["id"]
        self.snapshots[found] = self.held_by(found)
        self.note("snapshots")

    def begin_a_snapshot(self):
        """One in whose middle the daemon may be killed."""
        return self.pool.begin("snapshot", "create", "db")

    def after_a_snapshot(self, during):
        """What was told to be there is; what was not may be there all the same, and is whole."""
        done = self.pool.ended(during, PATIENCE)
        listed = {s["id"] for s in self.pool.sr("snapshot", "list")["results"]}
        if done.returncode == 0:
            self.note("snapshots told before the kill")
            told = json.loads(done.stdout)["results"][0]["id"]
            if told not in listed:
                fail(f"the snapshot {told} was told and is not there")
        for found in listed - set(self.snapshots):
            self.snapshots[found] = self.held_by(found)
            self.note("snapshots killed over")

    def held_by(self, snapshot):
        """What a snapshot holds, looked at aside."""
        place = self.pool.folder / "clone"
        self.pool.sr("restore", snapshot, place)
        held = digest(place)
        self.pool.sr("umount", place)
        return held

    def compare_shown(self):
        """The snapshot that was mounted when the daemon was killed is mounted again, and the same."""
        if self.shown is None:
            return
        until("the snapshot's mount is back", lambda: answers(self.then))
        self.compare(self.shown)
        self.pool.sr("umount", self.then)
        self.shown = None
        if mounts_at(self.then):
            fail(f"something is mounted at {self.then} still")

    def compare(self, snapshot):
        if digest(self.then) != self.snapshots[snapshot]:
            fail(f"the snapshot {snapshot} holds something else than before")
        self.note("snapshots compared")

    def rotate(self):
        """Old ones go, in no order; one is mounted for the next kill."""
        while len(self.snapshots) > KEEP:
            victim = self.dice.choice(list(self.snapshots))
            self.pool.sr("snapshot", "delete", victim)
            del self.snapshots[victim]
            self.note("snapshots deleted")
        if self.snapshots and self.dice.randrange(2):
            self.shown = self.dice.choice(list(self.snapshots))
            self.pool.sr("restore", self.shown, self.then)

    def look_at_everything(self):
        self.load.stop()
        self.pool.check()
        self.note("checks")
        for snapshot in self.snapshots:
            self.pool.sr("restore", snapshot, self.then)
            self.compare(snapshot)
            self.pool.sr("umount", self.then)
        self.shown = None
        self.mount(self.options.mount_options)
        self.load.verify_whole()

    def told_times(self):
        mean, worst = statistics.mean(self.times), max(self.times)
        return f"mounted again after {mean:.2f} s on average, {worst:.2f} s at worst"

    def summary(self):
        counts = {**self.counts, **self.load.counts}
        return ", ".join(f"{count} {what}" for what, count in sorted(counts.items()))


def one_load(kind, options):
    folder = Path(tempfile.mkdtemp(prefix="strongroom-kills.", dir=options.dir))
    folder.chmod(0o755)
    disk = VolatileDisk(folder) if options.power else None
    pool, kills, whole = None, None, False
    begin = time.monotonic()
    try:
        pool = Pool(folder, options.pool, disk and disk.place / "pool.img")
        outside = folder / "outside"
        outside.mkdir()
        load = kind(folder / "head", outside, options)
        kills = Kills(pool, load, disk, options)
        try:
            kills.run()
        finally:
            load.abandon()
        whole = True
    finally:
        if kills is not None and kills.times:
            lost = f"; {disk.told()}" if disk else ""
            print(f"{load.NAME}: {kills.summary()}; {kills.told_times()}; {time.monotonic() - begin:.0f} s{lost}", flush=True)
        if not whole and options.keep:
            print(f"kept: {folder}", file=sys.stderr)
        else:
            if pool:
                pool.stop()
            for place in ("head", "then", "clone"):
                subprocess.run(["umount", "-l", folder / place], capture_output=True, check=False)
            if disk:
                disk.stop()
            shutil.rmtree(folder, ignore_errors=True)
    if not options.short and not options.power and statistics.mean(kills.times) >= MOUNTED_WITHIN:
        fail(f"{load.NAME}: mounts are back after {statistics.mean(kills.times):.2f} s on average")


def main():
    parser = argparse.ArgumentParser(prog="scripts/kills.sh", description=__doc__)
    parser.add_argument("--rounds", type=int, default=None, help="kills of each load (200)")
    parser.add_argument("--only", choices=sorted(LOADS), action="append", help="this load alone, or these")
    parser.add_argument("--power", action="store_true", help="the power fails with each kill, and what was not flushed is lost")
    parser.add_argument("--short", action="store_true", help="3 kills of each load, a smaller pool")
    parser.add_argument("--seed", type=int, default=None, help="the same moments again, as far as a load allows")
    parser.add_argument("--keep", action="store_true", help="after a failure, leave all as it is")
    parser.add_argument("--dir", default="/var/tmp")
    options = parser.parse_args()
    options.rounds = options.rounds or (3 if options.short else 200)
    options.pool = (2 if options.short else 10) * 1024 * MIB
    options.pace = 0.5 if options.short else 1.0
    if options.seed is None:
        options.seed = int.from_bytes(os.urandom(4), "little")
    print(f"seed {options.seed}", flush=True)
    # Ended from outside, it still unmounts and tidies up.
    signal.signal(signal.SIGTERM, lambda *_: fail("ended by a signal"))
    for name in options.only or sorted(LOADS):
        kind = LOADS[name]
        options.mount_options = kind.MOUNT_OPTIONS
        one_load(kind, options)
    print("nothing that was acknowledged was lost")


if __name__ == "__main__":
    main()
