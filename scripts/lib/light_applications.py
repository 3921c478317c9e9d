"""Applications that need little installed: databases, git, rsync, tar; see applications.py."""
import os
import random
import subprocess
import time

from kill_loads import Pgbench, Sqlite
from pools import MIB, fail


def must(*command, cwd=None):
    """What a program printed; that it fails is a failure."""
    done = subprocess.run([*map(str, command)], cwd=cwd, capture_output=True, text=True, check=False)
    if done.returncode != 0:
        fail(f"{' '.join(map(str, command))} ended {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}")
    return done.stdout


def must_say_nothing(*command, cwd=None):
    """A check that names what differs."""
    said = must(*command, cwd=cwd)
    if said:
        fail(f"{' '.join(map(str, command))} found:\n{said[:2000]}")


def same_trees(one, other):
    """Contents, times, owners, hard links, ACLs and extended attributes, as rsync compares them."""
    must_say_nothing("rsync", "-aHAXn", "--delete", "--itemize-changes", "--checksum", f"{one}/", f"{other}/")


def plant(root, files, dice):
    """A tree with all that a copy can lose."""
    root.mkdir()
    for n in range(files):
        folder = root / f"d{n % 20}"
        folder.mkdir(exist_ok=True)
        file = folder / f"f{n}"
        file.write_bytes(dice.randbytes(dice.randrange(20000)))
        file.chmod(dice.choice((0o600, 0o644, 0o755)))
        if n % 10 == 0:
            os.link(file, folder / f"link{n}")
            os.symlink(f"f{n}", folder / f"symbolic{n}")
            os.setxattr(file, "user.note", dice.randbytes(200))
            must("setfacl", "-m", "u:daemon:r,g:bin:rw", file)
            os.chown(file, 1, 2)
            os.utime(file, ns=(10**18 + n, 10**18 + 7 * n))
    with open(root / "sparse", "wb") as sparse:
        sparse.truncate(256 * MIB)
        sparse.seek(100 * MIB)
        sparse.write(b"in the middle")


class Databases:
    """One of the databases that the kills use too, killed under its load: it syncs what it acknowledges."""

    SYNCS = True

    def __init__(self, root, outside, options):
        self.load, self.options = self.LOAD(root, outside, options), options

    def run(self):
        self.load.prepare()
        self.load.start()
        time.sleep(3 if self.options.short else 30)

    def daemon_died(self):
        self.load.end()

    def look_again(self):
        self.load.verify()
        self.load.verify_whole()
        self.load.stop()

    def look_at_snapshot(self, root):
        """A database that recovers writes: the clone is looked at."""

    def abandon(self):
        self.load.abandon()


class Postgres(Databases):
    NAME, LOAD = "postgresql", Pgbench
    TOLD = "pgbench, sums, pg_amcheck --heapallindexed, pg_checksums --check"

    def look_again(self):
        super().look_again()
        self.load.must("pg_checksums", "--check", "-D", self.load.data)

    def look_at_clone(self, root, outside):
        copy = Pgbench(root, outside, self.options)
        try:
            copy.adopt()
            copy.serve()
            copy.examine(self.load.rows, self.load.rows)
            copy.verify_whole()
            copy.stop()
            copy.must("pg_checksums", "--check", "-D", copy.data)
        finally:
            copy.abandon()


class SqliteBoth(Databases):
    NAME, LOAD = "sqlite", Sqlite
    TOLD = "both journal modes, integrity_check, every acknowledged transaction"

    def look_at_clone(self, root, outside):
        copy = Sqlite(root, outside, self.options)
        for mode, newest in self.load.done.items():
            copy.examine(mode, newest, newest)


class Files:
    """An application whose check only reads, so that it is made of a snapshot as well."""

    SYNCS = False

    def __init__(self, root, outside, options):
        self.root, self.outside, self.options = root, outside, options
        self.dice = random.Random(self.NAME)
        self.files = 400 if options.short else 20000

    def daemon_died(self):
        """Nothing of it runs any more."""

    def look_again(self):
        self.look_at_snapshot(self.root)

    def look_at_clone(self, root, _outside):
        self.look_at_snapshot(root)

    def abandon(self):
        """Nothing of it runs on."""


class Git(Files):
    NAME, TOLD = "git", "clone, checkout, gc, fsck --full, status clean"
    AS = ("git", "-c", "user.name=t", "-c", "user.email=t@localhost", "-c", "safe.directory=*")

    def run(self):
        source = self.outside / "source"
        plant(source, self.files, self.dice)
        (source / "sparse").unlink()
        for command in (("init", "-q"), ("add", "."), ("commit", "-qm", "one")):
            must(*self.AS, *command, cwd=source)
        for n in range(5):
            (source / f"d{n}" / "more").write_bytes(self.dice.randbytes(30000))
            must(*self.AS, "add", ".", cwd=source)
            must(*self.AS, "commit", "-qm", f"more {n}", cwd=source)
        copy = self.root / "copy"
        must(*self.AS, "clone", "-q", "--no-local", source, copy)
        must(*self.AS, "checkout", "-q", "HEAD~5", cwd=copy)
        must(*self.AS, "checkout", "-q", "-", cwd=copy)
        must(*self.AS, "gc", "-q", "--aggressive", "--prune=now", cwd=copy)

    def look_at_snapshot(self, root):
        copy = root / "copy"
        must(*self.AS, "fsck", "--full", "--strict", "--no-progress", cwd=copy)
        # A place that is mounted read-only cannot have the index written anew.
        must_say_nothing(*self.AS, "--no-optional-locks", "status", "--porcelain", cwd=copy)


class Rsync(Files):
    NAME, TOLD = "rsync", "-aHAXS there and back, --checksum --itemize-changes names nothing"

    def run(self):
        self.source = self.outside / "source"
        plant(self.source, self.files, self.dice)
        must("rsync", "-aHAXS", "--checksum", f"{self.source}/", f"{self.root / 'copy'}/")
        must("rsync", "-aHAXS", "--checksum", f"{self.root / 'copy'}/", f"{self.outside / 'back'}/")
        same_trees(self.source, self.outside / "back")

    def look_at_snapshot(self, root):
        same_trees(self.source, root / "copy")
        held = (root / "copy/sparse").stat().st_blocks * 512
        if held > MIB:
            fail(f"{root}/copy/sparse holds {held} bytes: it is not sparse any more")


class Tar(Rsync):
    NAME, TOLD = "tar", "--acls --xattrs --sparse, unpacked on the mount and compared; the archive itself too"
    HOW = ("--acls", "--xattrs", "--sparse", "--numeric-owner")

    def run(self):
        self.source = self.outside / "source"
        plant(self.source, self.files, self.dice)
        must("tar", *self.HOW, "-cf", self.root / "archive.tar", "-C", self.source, ".")
        (self.root / "copy").mkdir()
        must("tar", *self.HOW, "-xpf", self.root / "archive.tar", "-C", self.root / "copy")

    def look_at_snapshot(self, root):
        must("tar", *self.HOW, "--compare", "-f", root / "archive.tar", "-C", self.source)
        super().look_at_snapshot(root)


LIGHT = (Postgres, SqliteBoth, Git, Rsync, Tar)
