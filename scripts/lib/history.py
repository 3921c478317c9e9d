"""A long random history of one pool, checked as it goes; run by scripts/history.sh."""
import argparse
import array
import functools
import os
import random
import shutil
import signal
import struct
import sys
import tempfile
import time
from pathlib import Path

from pools import BLOCK, MIB, Pool, fail

UNIT = 1024
KEY = "local://history"
# What `restore` and `mount` end with while a customer key cannot be used.
KEY_REFUSED = 3


@functools.lru_cache(maxsize=1 << 16)
def unit(file, place, version):
    """What stands in one unit of a file; a hole was never written."""
    return bytes(UNIT) if version == 0 else struct.pack("<IIII", file, place, version, ~version & 0xffffffff) * (UNIT // 16)


class Tree:
    """What a cluster or snapshot must hold: the version of each unit of the large files, and the small files."""

    def __init__(self, large, small):
        self.large, self.small = large, small

    def copy(self):
        return Tree([array.array("I", versions) for versions in self.large], dict(self.small))

    def compare(self, root):
        found = {str(path.relative_to(root)) for path in root.rglob("*") if path.is_file()}
        wanted = {f"large{n}" for n in range(len(self.large))} | {f"small/{name}" for name in self.small}
        if found != wanted:
            fail(f"files missing: {sorted(wanted - found)[:5]}, not expected: {sorted(found - wanted)[:5]}")
        for name, content in self.small.items():
            if (root / "small" / name).read_bytes() != content:
                fail(f"{root}/small/{name} holds something else")
        for number, versions in enumerate(self.large):
            with open(root / f"large{number}", "rb") as file:
                for start in range(0, len(versions), 1024):
                    end = min(start + 1024, len(versions))
                    wanted = b"".join([unit(number, place, versions[place]) for place in range(start, end)])
                    if file.read(len(wanted)) != wanted:
                        fail(f"{root}/large{number} holds something else in the MiB from unit {start} on")
                if file.read(1):
                    fail(f"{root}/large{number} is too long")


class History:
    def __init__(self, pool, seed, options):
        self.pool, self.dice, self.options = pool, random.Random(seed), options
        self.version = 0
        units = options.data // UNIT // options.files
        self.head = Tree([array.array("I", bytes(4 * units)) for _ in range(options.files)], {})
        self.snapshots, self.clones = {}, {}
        self.counts, self.freed, self.locked = {}, 0, False

    def note(self, what):
        self.counts[what] = self.counts.get(what, 0) + 1

    def log(self, text):
        if self.options.verbose:
            print(text, flush=True)

    # Writing, into a mounted tree.

    def fill(self, root):
        (root / "small").mkdir()
        for number, versions in enumerate(self.head.large):
            self.version += 1
            with open(root / f"large{number}", "wb") as file:
                for start in range(0, len(versions), 1024):
                    end = min(start + 1024, len(versions))
                    file.write(b"".join([unit(number, place, self.version) for place in range(start, end)]))
            versions[:] = array.array("I", [self.version]) * len(versions)

    def write(self, root, tree, budget):
        """Random writes and holes of all sizes, small files that come and go."""
        files = [os.open(root / f"large{n}", os.O_RDWR) for n in range(len(tree.large))]
        while budget > 0:
            number = self.dice.randrange(len(files))
            versions = tree.large[number]
            length = min(self.dice.choice((1, 4, 8, 37, 256, 1024)), len(versions))
            start = self.dice.randrange(len(versions) - length + 1)
            if self.dice.randrange(4):
                start -= start % min(length, 4)
            self.version += 1
            content = b"".join([unit(number, place, self.version) for place in range(start, start + length)])
            os.pwrite(files[number], content, start * UNIT)
            versions[start:start + length] = array.array("I", [self.version]) * length
            budget -= length * UNIT
        for handle in files:
            os.close(handle)
        self.small_files(root, tree)

    def small_files(self, root, tree):
        for _ in range(self.dice.randrange(60)):
            if tree.small and self.dice.randrange(2):
                name = self.dice.choice(sorted(tree.small))
                os.unlink(root / "small" / name)
                del tree.small[name]
            else:
                self.version += 1
                name, content = f"f{self.version}", self.dice.randbytes(self.dice.randrange(20_000))
                (root / "small" / name).write_bytes(content)
                tree.small[name] = content

    # What happens to the pool.

    def mount_head(self):
        self.pool.sr("mount", "db", self.pool.folder / "head")
        return self.pool.folder / "head"

    def step_write(self):
        root = self.mount_head()
        self.write(root, self.head, self.options.step)
        if self.dice.randrange(3) == 0:
            self.take()
        self.pool.sr("umount", "db")

    def take(self):
        found = self.pool.sr("snapshot", "create", "db")["results"][0]["id"]
        self.snapshots[found] = self.head.copy()
        self.note("snapshots taken")
        return found

    def compare(self, snapshot):
        self.pool.sr("restore", snapshot, self.pool.folder / "then")
        self.snapshots[snapshot].compare(self.pool.folder / "then")
        self.pool.sr("umount", self.pool.folder / "then")
        self.note("snapshots compared")

    def measured(self, what, said, change):
        """Does something that frees, and holds it to what was said before."""
        before = self.pool.blocks()
        change()
        freed = (before - self.pool.blocks()) * BLOCK
        self.log(f"{what}: {freed / MIB:.2f} MiB freed")
        if freed != said:
            fail(f"{what} was said to free {said} bytes, and freed {freed}")
        self.freed += freed
        self.note(f"{what.split()[0]} deletions measured")

    def delete(self, *ids):
        said = self.pool.sr("snapshot", "delete", *ids, "--dry-run")["freesBytes"]
        if len(ids) == 1:
            unique = self.pool.sr("snapshot", "show", ids[0])["uniqueBytes"]
            if unique != said:
                fail(f"uniqueBytes of {ids[0]} is {unique}, its deletion is said to free {said}")
        self.measured(f"snapshot {' '.join(ids)}", said, lambda: self.pool.sr("snapshot", "delete", *ids))
        for snapshot in ids:
            del self.snapshots[snapshot]

    def clone(self, snapshot):
        self.version += 1
        name = f"clone{self.version}"
        self.pool.sr("restore", snapshot, "--to-cluster", name)
        tree = self.snapshots[snapshot].copy()
        place = self.pool.folder / "clone"
        self.pool.sr("mount", name, place)
        if self.dice.randrange(4):
            self.write(place, tree, self.options.step // 4)
            if self.dice.randrange(2):
                found = self.pool.sr("snapshot", "create", name)["results"][0]["id"]
                self.snapshots[found] = tree.copy()
            self.write(place, tree, self.options.step // 8)
        self.pool.sr("umount", name)
        self.clones[name] = tree
        self.note("clones made")

    def compare_clone(self, name):
        place = self.pool.folder / "clone"
        self.pool.sr("mount", name, place)
        self.clones[name].compare(place)
        self.pool.sr("umount", name)

    def drop_clone(self, name):
        said = self.pool.sr("cluster", "show", name)["uniqueBytes"]
        self.measured(f"clone {name}", said, lambda: self.pool.sr("cluster", "delete", name, "--yes"))
        del self.clones[name]

    def in_place(self, snapshot):
        done = self.pool.sr("restore", snapshot, "--in-place", "--yes")
        self.snapshots[done["safetySnapshot"]["id"]] = self.head
        self.head = self.snapshots[snapshot].copy()
        self.note("restores in place")

    def own_snapshots(self):
        """Those of the cluster itself, of which one can be put back."""
        return [s["id"] for s in self.pool.sr("snapshot", "list", "db")["results"]]

    def random_step(self):
        """One of the things that happen; more is made than deleted until there is enough."""
        ids = list(self.snapshots)
        roll = self.dice.randrange(100)
        if len(ids) < 3 or (roll < 30 and len(ids) < self.options.keep):
            self.step_write()
            self.take()
        elif roll < 40:
            self.step_write()
        elif roll < 62:
            self.delete(self.dice.choice(ids))
        elif roll < 66 and len(ids) > 4:
            self.delete(*self.dice.sample(ids, self.dice.randrange(2, 4)))
        elif roll < 76 and len(self.clones) < 3:
            self.clone(self.dice.choice(ids))
        elif roll < 84 and self.clones:
            self.drop_clone(self.dice.choice(list(self.clones)))
        elif roll < 92:
            self.in_place(self.dice.choice(self.own_snapshots()))
        elif roll < 96:
            self.compare(self.dice.choice(ids))
        else:
            self.pool.check()
            self.note("checks")

    def with_the_key_disabled(self):
        """Deleting, listing, sizes and key usage need no key; whatever opens a tree is refused."""
        pool, ids = self.pool, list(self.snapshots)
        pool.sr("key", "disable", KEY, "--yes")
        victim = self.dice.choice(ids)
        pool.refused(KEY_REFUSED, "restore", victim, pool.folder / "then")
        pool.refused(KEY_REFUSED, "restore", victim, "--to-cluster", "refused")
        pool.refused(KEY_REFUSED, "restore", self.dice.choice(self.own_snapshots()), "--in-place", "--yes")
        pool.refused(KEY_REFUSED, "mount", "db", pool.folder / "head")
        used = {entry.get("id") for entry in pool.sr("key", "usage", KEY)["results"]}
        if used - {None} != set(ids):
            fail(f"key usage lists {len(used)} snapshots, there are {len(ids)}")
        for snapshot in pool.sr("snapshot", "list")["results"]:
            if snapshot["encryptionStatus"] != "disabled" or snapshot["referencedBytes"] == 0:
                fail(f"with the key disabled the list shows {snapshot}")
        # A snapshot is taken without any key.
        taken = pool.sr("snapshot", "create", "db")["results"][0]["id"]
        self.snapshots[taken] = self.head.copy()
        for _ in range(len(ids) // 2):
            self.delete(self.dice.choice(list(self.snapshots)))
            self.note("deletions under a disabled key")
        if self.clones:
            self.drop_clone(self.dice.choice(list(self.clones)))
        pool.check(complete=False)
        pool.sr("key", "enable", KEY)

    def run(self):
        new = self.pool.settle()["freeBytes"]
        self.pool.sr("key", "create", KEY.removeprefix("local://"))
        self.pool.sr("cluster", "create", "db", "--key", KEY)
        self.fill(self.mount_head())
        self.take()
        self.pool.sr("umount", "db")
        for number in range(self.options.steps):
            self.random_step()
            if number == self.options.steps // 2:
                self.with_the_key_disabled()
        self.pool.check()
        for snapshot in list(self.snapshots):
            self.compare(snapshot)
        for name in list(self.clones):
            self.compare_clone(name)
        self.head.compare(self.mount_head())
        self.pool.sr("umount", "db")
        self.delete_everything()
        self.pool.check()
        left = self.pool.settle()["freeBytes"]
        if left != new:
            fail(f"after everything was deleted {left} bytes are free; of the new pool {new} were")

    def delete_everything(self):
        """In random order, each held to what it was said to free."""
        ends = [("snapshot", name) for name in list(self.snapshots)] + [("clone", name) for name in list(self.clones)]
        ends.append(("head", "db"))
        self.dice.shuffle(ends)
        for kind, name in ends:
            if kind == "snapshot":
                self.delete(name)
            elif kind == "clone":
                self.drop_clone(name)
            else:
                said = self.pool.sr("cluster", "show", "db")["uniqueBytes"]
                self.measured("head db", said, lambda: self.pool.sr("cluster", "delete", "db", "--yes"))


def main():
    parser = argparse.ArgumentParser(prog="scripts/history.sh", description=__doc__)
    parser.add_argument("--seed", type=int, default=None, help="the same history again")
    parser.add_argument("--short", action="store_true", help="64 MiB, some thirty seconds")
    parser.add_argument("--dir", default="/var/tmp")
    parser.add_argument("--verbose", action="store_true")
    options = parser.parse_args()
    seed = int.from_bytes(os.urandom(4), "little") if options.seed is None else options.seed
    print(f"seed {seed}", flush=True)
    if options.short:
        options.data, options.files, options.step, options.keep, options.steps = 64 * MIB, 3, 4 * MIB, 12, 30
    else:
        options.data, options.files, options.step, options.keep, options.steps = 2048 * MIB, 8, 160 * MIB, 20, 110
    # Ended from outside, it still unmounts and tidies up.
    signal.signal(signal.SIGTERM, lambda *_: fail("ended by a signal"))
    begin = time.monotonic()
    folder = Path(tempfile.mkdtemp(prefix="strongroom-history.", dir=options.dir))
    history = None
    pool = Pool(folder, 1024 * MIB if options.short else 24 * 1024 * MIB)
    try:
        history = History(pool, seed, options)
        history.run()
    except SystemExit:
        print(f"the seed was {seed}", file=sys.stderr)
        raise
    finally:
        pool.stop()
        if history is not None:
            print(", ".join(f"{count} {what}" for what, count in sorted(history.counts.items())))
        shutil.rmtree(folder, ignore_errors=True)
    print(f"no space was lost: {history.freed / MIB:.0f} MiB freed, as said; {time.monotonic() - begin:.0f} s")


main()
