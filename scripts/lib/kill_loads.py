"""What runs on a mount while its daemon is killed, and what must be there afterwards: see kills.py.

Each load tells outside of the pool what was acknowledged to it. A crash of the daemon alone leaves the loads
running, so what they have told is all that they were told.
"""
import hashlib
import mmap
import multiprocessing
import os
import random
import shutil
import sqlite3
import struct
import signal
import subprocess
import time
from pathlib import Path

from pools import BLOCK, PATIENCE, fail

FORK = multiprocessing.get_context("fork")


def waits_in(pid):
    """What of the kernel a process waits in."""
    try:
        return Path(f"/proc/{pid}/stack").read_text(encoding="ascii")
    except OSError as error:
        return f"({error})"


class Load:
    """Processes that write until the mount dies under them."""

    MOUNT_OPTIONS = ()

    def __init__(self, root, outside, options):
        self.root, self.outside, self.options = root, outside, options
        self.dice = random.Random(f"{options.seed} {self.NAME} load")
        self.counts, self.processes = {}, []

    def note(self, what, count=1):
        self.counts[what] = self.counts.get(what, 0) + count

    def prepare(self):
        """Once, on the empty cluster."""

    def run(self, target, *arguments):
        """A process of the load; errors are how it learns that the mount died."""
        def quietly():
            try:
                target(*arguments)
            except (OSError, sqlite3.Error):
                pass
            # Descriptors of the parent, buffers and all, are none of its business.
            os._exit(0)
        process = FORK.Process(target=quietly, name=target.__name__, daemon=True)
        process.start()
        self.processes.append(process)

    def end(self):
        """Waits until all have noticed."""
        end = time.monotonic() + PATIENCE
        for process in self.processes:
            process.join(max(0, end - time.monotonic()))
            if process.is_alive():
                fail(f"{self.NAME}: {process.name} still waits for the daemon that was killed, in {waits_in(process.pid)}")
        self.processes = []

    def abandon(self):
        """Ends all, whatever they wait for."""
        for process in self.processes:
            process.kill()

    def verify_whole(self):
        """The long look, every few rounds."""

    def stop(self):
        """Leaves the mount."""


# A writer that records.

RECORD = struct.Struct("<BBxxIQ")
WROTE, KEPT, KEPT_ALL = 1, 2, 3


def content(file, unit, version):
    """What stands in one block of a file: whole, or torn."""
    return struct.pack("<IIQ", file, unit, version) * (BLOCK // 16)


def version_of(file, unit, block):
    """The version that a block of a file holds; 0: it was never written."""
    if block == bytes(BLOCK):
        return 0
    found_file, found_unit, version = struct.unpack_from("<IIQ", block)
    if block != content(file, unit, version) or (found_file, found_unit) != (file, unit):
        fail(f"block {unit} of file {file} is torn, or another's: {block[:16].hex()}")
    return version


def versions_in(path, file):
    """The versions of all blocks of a file."""
    data = path.read_bytes()
    if len(data) % BLOCK:
        fail(f"{path} has {len(data)} bytes: a block of it is cut")
    return [version_of(file, at // BLOCK, data[at:at + BLOCK]) for at in range(0, len(data), BLOCK)]


class Journal:
    """What a writer says of itself, kept outside of the pool."""

    def __init__(self, path):
        self.handle = os.open(path, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)

    def say(self, kind, file, unit, version):
        os.write(self.handle, RECORD.pack(kind, file, unit, version))

    def close(self):
        """For whoever has given it to another process."""
        os.close(self.handle)

    @staticmethod
    def read(path):
        return RECORD.iter_unpack(path.read_bytes())


class Writer(Load):
    """Files of many sorts of writing; what fsync, fdatasync, O_DSYNC, msync and rename acknowledged."""

    NAME = "writer"
    UNITS = 1024
    SORTS = ("fsync", "fdatasync", "append", "dsync", "direct", "mapping", "rename")

    def prepare(self):
        self.version = 0
        self.base = {file: {} for file in range(len(self.SORTS))}
        for file, sort in enumerate(self.SORTS):
            with open(self.path(file), "wb") as made:
                if sort not in ("append", "rename"):
                    made.truncate(self.UNITS * BLOCK)
                os.fsync(made.fileno())
        handle = os.open(self.root, os.O_RDONLY)
        os.fsync(handle)
        os.close(handle)

    def path(self, file):
        return self.root / self.SORTS[file]

    def journal(self, file):
        return self.outside / f"writer-{file}"

    def start(self):
        for file, sort in enumerate(self.SORTS):
            journal = Journal(self.journal(file))
            self.run(getattr(self, f"write_{sort}"), file, journal, random.Random(self.dice.random()))
            journal.close()

    def batches(self, file, journal, dice, write):
        """Blocks written, some at a time; after each batch the caller makes them durable."""
        version = self.version
        while True:
            for _ in range(dice.randrange(1, 9)):
                version += 1
                unit = dice.randrange(self.UNITS)
                journal.say(WROTE, file, unit, version)
                write(unit, content(file, unit, version))
            yield
            journal.say(KEPT_ALL, file, 0, version)

    def pwriting(self, file, journal, dice, durable, flags=0):
        handle = os.open(self.path(file), os.O_RDWR | flags)
        for _ in self.batches(file, journal, dice, lambda unit, data: os.pwrite(handle, data, unit * BLOCK)):
            durable(handle)

    def write_fsync(self, *how):
        self.pwriting(*how, os.fsync)

    def write_fdatasync(self, *how):
        self.pwriting(*how, os.fdatasync)

    def write_direct(self, file, journal, dice):
        handle = os.open(self.path(file), os.O_RDWR | os.O_DIRECT)
        aligned = mmap.mmap(-1, BLOCK)

        def write(unit, data):
            aligned[:] = data
            os.pwritev(handle, [aligned], unit * BLOCK)
        for _ in self.batches(file, journal, dice, write):
            os.fdatasync(handle)

    def write_mapping(self, file, journal, dice):
        handle = os.open(self.path(file), os.O_RDWR)
        mapped = mmap.mmap(handle, self.UNITS * BLOCK)

        def write(unit, data):
            mapped[unit * BLOCK:(unit + 1) * BLOCK] = data
        for _ in self.batches(file, journal, dice, write):
            mapped.flush()

    def write_dsync(self, file, journal, dice):
        handle, version = os.open(self.path(file), os.O_RDWR | os.O_DSYNC), self.version
        while True:
            version += 1
            unit = dice.randrange(self.UNITS)
            journal.say(WROTE, file, unit, version)
            os.pwrite(handle, content(file, unit, version), unit * BLOCK)
            journal.say(KEPT, file, unit, version)

    def write_append(self, file, journal, dice):
        handle, version = os.open(self.path(file), os.O_WRONLY | os.O_APPEND), self.version
        unit = os.fstat(handle).st_size // BLOCK
        while True:
            for _ in range(dice.randrange(1, 9)):
                version += 1
                journal.say(WROTE, file, unit, version)
                os.write(handle, content(file, unit, version))
                unit += 1
            os.fdatasync(handle)
            journal.say(KEPT_ALL, file, 0, version)

    def write_rename(self, file, journal, _dice):
        folder, version = os.open(self.root, os.O_RDONLY), self.version
        temporary = self.root / "rename.new"
        while True:
            version += 1
            journal.say(WROTE, file, 0, version)
            handle = os.open(temporary, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.write(handle, content(file, 0, version))
            os.fsync(handle)
            os.close(handle)
            os.rename(temporary, self.path(file))
            os.fsync(folder)
            journal.say(KEPT_ALL, file, 0, version)

    def verify(self):
        last = self.version
        for file, sort in enumerate(self.SORTS):
            written, kept = {}, dict(self.base[file])
            for kind, _, unit, version in Journal.read(self.journal(file)):
                last = max(last, version)
                if kind == WROTE:
                    written.setdefault(unit, []).append(version)
                    continue
                self.note("acknowledgements")
                for of, versions in written.items() if kind == KEPT_ALL else [(unit, written[unit])]:
                    kept[of] = max([kept.get(of, 0)] + [v for v in versions if v <= version])
            found = dict(enumerate(versions_in(self.path(file), file)))
            for unit in kept.keys() | found.keys():
                here, least = found.get(unit, 0), kept.get(unit, 0)
                if here != least and here not in [v for v in written.get(unit, ()) if v > least]:
                    fail(f"block {unit} of {sort} holds version {here}; {least} was acknowledged, "
                         f"{written.get(unit)} were written")
            self.base[file] = {unit: version for unit, version in found.items() if version}
        self.version = last
        if len(self.base[self.SORTS.index("append")]) > 16 * self.UNITS:
            file = self.SORTS.index("append")
            os.truncate(self.path(file), 0)
            handle = os.open(self.path(file), os.O_RDWR)
            os.fsync(handle)
            os.close(handle)
            self.base[file] = {}


class Ordered(Load):
    """One process on a writethrough mount: what a crash takes back is a suffix of what it did, over all files
    and names of the cluster."""

    NAME = "ordered"
    MOUNT_OPTIONS = ("-o", "writethrough")
    FILES, UNITS, GROWN, NAMES = 3, 256, 2048, 300
    # The file that only grows; names that come and go.
    GROWS, NAMES_MADE, NAMES_GONE = 100, 101, 102

    def prepare(self):
        self.version, self.grown, self.names = 0, 0, set()
        self.base = {}
        for file in range(self.FILES):
            with open(self.root / f"f{file}", "wb") as made:
                made.truncate(self.UNITS * BLOCK)
        (self.root / "grows").touch()
        (self.root / "names").mkdir()
        self.sync()

    def sync(self):
        handle = os.open(self.root / "grows", os.O_RDWR)
        os.fsync(handle)
        os.close(handle)

    def start(self):
        if self.grown > self.GROWN:
            os.truncate(self.root / "grows", 0)
            self.sync()
            self.base = {at: version for at, version in self.base.items() if at[0] != self.GROWS}
            self.grown = 0
        journal = Journal(self.outside / "ordered")
        self.run(self.write, journal, random.Random(self.dice.random()))
        journal.close()

    def write(self, journal, dice):
        files = [os.open(self.root / f"f{n}", os.O_RDWR) for n in range(self.FILES)]
        grows = os.open(self.root / "grows", os.O_WRONLY | os.O_APPEND)
        version, grown, names = self.version, self.grown, sorted(self.names)
        while True:
            version += 1
            what = dice.randrange(20)
            if what < 15:
                file, unit = dice.randrange(self.FILES), dice.randrange(self.UNITS)
                journal.say(WROTE, file, unit, version)
                os.pwrite(files[file], content(file, unit, version), unit * BLOCK)
            elif what < 17:
                journal.say(WROTE, self.GROWS, grown, version)
                os.write(grows, content(self.GROWS, grown, version))
                grown += 1
            elif not names or (what < 19 and len(names) < self.NAMES):
                journal.say(WROTE, self.NAMES_MADE, version & 0xffffffff, version)
                os.close(os.open(self.root / "names" / str(version), os.O_CREAT | os.O_EXCL | os.O_WRONLY))
                names.append(version)
            else:
                name = names.pop(dice.randrange(len(names)))
                journal.say(WROTE, self.NAMES_GONE, name & 0xffffffff, version)
                os.unlink(self.root / "names" / str(name))
            if dice.randrange(16) == 0:
                os.fsync(dice.choice(files + [grows]))
                journal.say(KEPT_ALL, 0, 0, version)

    def verify(self):
        done, kept, last = [], self.version, self.version
        for kind, file, unit, version in Journal.read(self.outside / "ordered"):
            last = max(last, version)
            if kind == WROTE:
                done.append((file, unit, version))
            else:
                kept = version
                self.note("acknowledgements")
        found = {(file, unit): version for file in range(self.FILES)
                 for unit, version in enumerate(versions_in(self.root / f"f{file}", file)) if version}
        for unit, version in enumerate(versions_in(self.root / "grows", self.GROWS)):
            found[(self.GROWS, unit)] = version
        names = {int(name) for name in os.listdir(self.root / "names")}
        # The state after each thing done, from the first on; one of them, at or after what was acknowledged, is it.
        state, there = dict(self.base), set(self.names)
        differs = {at for at in state.keys() | found.keys() if state.get(at, 0) != found.get(at, 0)}
        fits = kept <= self.version and not differs and there == names
        for file, unit, version in done:
            if file == self.NAMES_MADE:
                there.add(version)
            elif file == self.NAMES_GONE:
                there.discard(next(name for name in there if name & 0xffffffff == unit))
            else:
                state[(file, unit)] = version
                (differs.discard if found.get((file, unit), 0) == version else differs.add)((file, unit))
            fits = fits or (version >= kept and not differs and there == names)
        if not fits:
            newest = max(found.values(), default=0)
            fail(f"the files are as after none of the {len(done)} things done since {self.version}: {kept} was acknowledged, "
                 f"the newest found is {newest}, {len(differs)} blocks differ from the last state, "
                 f"{len(there ^ names)} names")
        self.note("things taken back by a crash", sum(1 for _, _, version in done if version > max(found.values(), default=0)))
        self.version, self.base, self.names = last, found, names
        self.grown = sum(1 for file, _ in found if file == self.GROWS)


class Sqlite(Load):
    """Two databases, one in each journal mode; each transaction is recorded outside before the next."""

    NAME = "sqlite"
    MODES = ("wal", "delete")
    PAGES, KEEP = 400, 2000

    def prepare(self):
        self.done = {mode: 0 for mode in self.MODES}
        for mode in self.MODES:
            base = self.open(mode)
            base.execute(f"pragma journal_mode={mode}")
            base.execute("create table done(n integer primary key, proof blob)")
            base.execute("create table pages(id integer primary key, body blob)")
            base.execute("create index by_proof on done(proof)")
            base.close()

    def open(self, mode):
        base = sqlite3.connect(self.root / f"{mode}.db", isolation_level=None, timeout=5)
        # FULL does not wait until the journal that it deletes to commit is gone for good.
        base.execute("pragma synchronous=extra")
        base.execute("pragma wal_autocheckpoint=200")
        return base

    @staticmethod
    def body(n):
        """Up to four pages of the database."""
        return hashlib.shake_128(str(n).encode()).digest(500 + n * 37 % 12000)

    def start(self):
        for mode in self.MODES:
            self.run(self.write, mode)

    def write(self, mode):
        record = os.open(self.outside / mode, os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_APPEND, 0o600)
        base, n = self.open(mode), self.done[mode]
        while True:
            n += 1
            base.execute("begin immediate")
            base.execute("insert into done values(?, ?)", (n, hashlib.blake2b(str(n).encode(), digest_size=16).digest()))
            base.execute("insert or replace into pages values(?, ?)", (n % self.PAGES, self.body(n)))
            base.execute("delete from done where n <= ?", (n - self.KEEP,))
            self.within(base, n)
            base.execute("commit")
            # A journal deleted, SQLite takes it for done where it cannot open the directory to sync it any more.
            os.statvfs(self.root)
            os.write(record, struct.pack("<Q", n))
            self.after(base, n)

    def within(self, base, n):
        """What else belongs to transaction `n`."""

    def after(self, base, n):
        """What is done between two transactions."""

    def told(self, mode):
        """The transactions acknowledged since the load was last started."""
        path = self.outside / mode
        return [n for (n,) in struct.iter_unpack("<Q", path.read_bytes())] if path.exists() else []

    def last_told(self, mode):
        return (self.told(mode) or [self.done[mode]])[-1]

    def verify(self):
        for mode in self.MODES:
            self.note("transactions acknowledged", len(self.told(mode)))
            least = self.last_told(mode)
            self.done[mode] = self.examine(mode, least, least + 1)

    def examine(self, mode, least, most):
        """Looks at one database; its last transaction, which must be one of these."""
        base = self.open(mode)
        found = base.execute("pragma integrity_check").fetchall()
        if found != [("ok",)]:
            fail(f"integrity_check of {mode}.db: {found[:5]}")
        if base.execute("pragma journal_mode").fetchone() != (mode,):
            fail(f"{mode}.db has another journal mode")
        numbers = [n for (n,) in base.execute("select n from done order by n")]
        newest = numbers[-1] if numbers else 0
        if not least <= newest <= most:
            fail(f"{mode}.db ends with transaction {newest}; {least} was acknowledged, at most {most} begun")
        if numbers != list(range(max(1, newest - self.KEEP + 1), newest + 1)):
            fail(f"{mode}.db lacks transactions before {newest}")
        for page, body in base.execute("select id, body from pages"):
            if body != self.body(newest - (newest - page) % self.PAGES):
                fail(f"page {page} of {mode}.db is not that of the last transaction that wrote it")
        self.examine_more(base, newest)
        base.close()
        return newest

    def examine_more(self, base, newest):
        """What `within` wrote up to the transaction `newest`."""


class Pgbench(Load):
    """PostgreSQL under pgbench: its transactions acknowledged are rows of its history."""

    NAME = "pgbench"
    CLIENTS = 4
    SUMS = ("select (select sum(abalance) from pgbench_accounts) = (select sum(bbalance) from pgbench_branches) "
            "and (select sum(bbalance) from pgbench_branches) = (select sum(tbalance) from pgbench_tellers) "
            "and (select sum(tbalance) from pgbench_tellers) = (select coalesce(sum(delta), 0) from pgbench_history)")
    SETTINGS = ("listen_addresses=", "max_wal_size=96MB", "min_wal_size=32MB", "shared_buffers=48MB",
                "checkpoint_timeout=30s", "logging_collector=off", "restart_after_crash=off")

    def __init__(self, root, outside, options, wal_root=None):
        """With its log below `wal_root`, or beside its data."""
        super().__init__(root, outside, options)
        self.bin = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
        self.data, self.server, self.bench, self.rows = self.root / "data", None, None, 0
        self.wal = wal_root and wal_root / "wal"
        self.sockets = self.outside / "sockets"

    def prepare(self):
        self.make_folders(self.sockets, self.data, *([self.wal] if self.wal else []))
        where = ["--waldir", self.wal] if self.wal else []
        self.must("initdb", "-D", self.data, *where, "-A", "trust", "--data-checksums", "--no-sync")
        self.serve()
        self.must("pgbench", "-i", "-q", "-s", "1" if self.options.short else "5", *self.to_server())
        self.must("psql", "-qc", "create extension amcheck", *self.to_server())

    def adopt(self):
        """Makes a copy of a running server's data one of its own."""
        self.make_folders(self.sockets)
        # The server that it names runs still, elsewhere.
        (self.data / "postmaster.pid").unlink(missing_ok=True)
        if self.wal:
            link = self.data / "pg_wal"
            link.unlink()
            link.symlink_to(self.wal)

    @staticmethod
    def make_folders(*folders):
        for folder in folders:
            folder.mkdir(mode=0o700)
            shutil.chown(folder, "postgres", "postgres")

    def as_postgres(self, program, *arguments):
        who = ["setpriv", "--reuid=postgres", "--regid=postgres", "--init-groups", "--", "env", "-C", "/"]
        return [*who, str(self.bin / program), *map(str, arguments)]

    def must(self, program, *arguments):
        done = subprocess.run(self.as_postgres(program, *arguments), capture_output=True, text=True, check=False)
        if done.returncode != 0:
            fail(f"{program} ended {done.returncode}: {done.stdout[-2000:]}{done.stderr[-2000:]}{self.log()}")
        return done.stdout.strip()

    def log(self):
        path = self.outside / "postgres.log"
        return f"\n{path}:\n" + "\n".join(path.read_text().splitlines()[-20:]) if path.exists() else ""

    def to_server(self):
        return ["-h", self.sockets, "-p", "54530", "-U", "postgres", "postgres"]

    def ask(self, question):
        return self.must("psql", "-Atc", question, *self.to_server())

    def serve(self):
        if self.server is not None:
            return
        settings = [word for setting in self.SETTINGS for word in ("-c", setting)]
        command = self.as_postgres("postgres", "-D", self.data, "-p", "54530", "-k", self.sockets, *settings)
        with open(self.outside / "postgres.log", "w", encoding="utf-8") as log:
            self.server = subprocess.Popen(command, stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + PATIENCE
        ready = self.as_postgres("pg_isready", "-q", *self.to_server()[:6])
        while subprocess.run(ready, check=False).returncode != 0:
            if self.server.poll() is not None or time.monotonic() > end:
                fail(f"PostgreSQL does not start{self.log()}")
            time.sleep(0.05)

    def start(self):
        self.serve()
        for old in self.outside.glob("sockets/bench.*"):
            old.unlink()
        command = self.as_postgres("pgbench", "-n", "-c", self.CLIENTS, "-j", 2, "-T", 3600, "-l",
                                   f"--log-prefix={self.sockets / 'bench'}", *self.to_server())
        null = subprocess.DEVNULL
        self.bench = subprocess.Popen(command, stdin=null, stdout=null, stderr=null)

    def end(self):
        if self.server is not None:
            # Its folder is gone: nothing that it does now counts, and it may not end by itself.
            self.quit()
        if self.bench is not None:
            try:
                # By itself, so that all its lines are written.
                self.bench.wait(PATIENCE)
            except subprocess.TimeoutExpired:
                self.bench.kill()
                fail("pgbench does not end after its server")
            self.bench = None

    def abandon(self):
        if self.bench is not None:
            self.bench.kill()
        if self.server is not None:
            self.quit()

    def quit(self):
        self.server.send_signal(signal.SIGQUIT)
        try:
            self.server.wait(10)
        except subprocess.TimeoutExpired:
            self.server.kill()
            self.server.wait(10)
        self.server = None

    def verify(self):
        self.serve()
        logs = list(self.sockets.glob("bench.*"))
        told = sum(path.read_text().count("\n") for path in logs)
        self.rows = self.examine(self.rows + told, self.rows + told + self.CLIENTS)
        self.note("transactions acknowledged", told)

    def count(self):
        return int(self.ask("select count(*) from pgbench_history"))

    def examine(self, least, most):
        """Looks at the tables; the number of transactions, which must lie between these."""
        rows = self.count()
        if not least <= rows <= most:
            fail(f"{rows} transactions are there, {least} were acknowledged, at most {most} begun")
        if self.ask(self.SUMS) != "t":
            fail("pgbench's sums do not agree")
        return rows

    def verify_whole(self):
        self.serve()
        self.must("pg_amcheck", "--heapallindexed", *self.to_server())
        self.note("pg_amcheck clean")

    def stop(self):
        if self.server is not None:
            self.server.send_signal(signal.SIGINT)
            self.server.wait(PATIENCE)
            self.server = None


LOADS = {load.NAME: load for load in (Ordered, Pgbench, Sqlite, Writer)}
