"""Applications that need much installed, or long: MariaDB, PostgreSQL's own regression suite, the build of
findutils with its tests, debootstrap; see applications.py. Sources are Debian's, fetched by apt-get."""
import re
import shutil
import subprocess
import threading
import time
from pathlib import Path

from kill_loads import Pgbench
from light_applications import Files, must, must_say_nothing
from pools import PATIENCE, fail


def debian_source(package, folder, version=None):
    """The upstream archive of a Debian source package, of the machine's own archives."""
    parts = folder / "apt"
    for part in ("parts", "lists/partial"):
        (parts / part).mkdir(parents=True, exist_ok=True)
    for listed in (Path("/etc/apt/sources.list"), *Path("/etc/apt/sources.list.d").glob("*")):
        text = listed.read_text(encoding="utf-8") if listed.exists() else ""
        if "debian" in text:
            text = re.sub(r"^Types: deb$", "Types: deb-src", text, flags=re.M)
            (parts / "parts" / listed.name).write_text(re.sub(r"^deb ", "deb-src ", text, flags=re.M), encoding="utf-8")
    apt = ("apt-get", "-qq", "-o", "Dir::Etc::SourceList=/dev/null", "-o", f"Dir::Etc::SourceParts={parts}/parts",
           "-o", f"Dir::State::Lists={parts}/lists", "-o", "APT::Sandbox::User=root")
    must(*apt, "update")
    wanted = f"{package}={version}" if version else package
    must(*apt, "source", "--download-only", "--only-source", wanted, cwd=folder)
    return next(path for path in folder.glob(f"{package}_*.orig.tar.*") if path.suffix != ".asc")


def unpack(archive, folder):
    """Unpacks an archive of one directory, which becomes `folder`."""
    folder.mkdir()
    must("tar", "-xf", archive, "-C", folder, "--strip-components=1", "--no-same-owner")


def same_but_times(one, other, *left_out):
    """As `same_trees`, whenever things were made."""
    must_say_nothing("rsync", "-rlpogDHAXn", "--delete", "--itemize-changes", "--checksum",
                     *(f"--exclude={path}" for path in left_out), f"{one}/", f"{other}/")


class MariaDb:
    """Transfers between accounts by several clients, killed under them; each commit is acknowledged to its client."""

    NAME, SYNCS = "mariadb", True
    TOLD = "transfers acknowledged, their sum, mariadb-check --all-databases --extended"
    CLIENTS, ACCOUNTS = 4, 1000
    SETTINGS = ("--skip-networking", "--innodb-flush-log-at-trx-commit=1", "--log-bin=binlog", "--sync-binlog=1",
                "--innodb-buffer-pool-size=64M")

    def __init__(self, root, outside, options):
        self.data, self.place, self.options = root / "data", outside / "run", options
        self.server, self.clients, self.threads = None, [], []
        self.done = [0] * self.CLIENTS

    def to_server(self, program):
        return [program, "--no-defaults", "-S", str(self.place / "socket"), "-u", "root"]

    def ask(self, question):
        return must(*self.to_server("mariadb"), "-N", "-e", question).strip()

    def run(self):
        self.data.mkdir(mode=0o700)
        shutil.chown(self.data, "mysql", "mysql")
        must("mariadb-install-db", "--no-defaults", "--user=mysql", f"--datadir={self.data}", "--skip-test-db",
             "--auth-root-authentication-method=normal")
        self.serve()
        rows = ",".join(f"({n},1000)" for n in range(self.ACCOUNTS))
        self.ask("create database bank; use bank; create table accounts(id int primary key, balance int not null);"
                 "create table transfers(client int, n int, note varchar(200), primary key(client, n), key(note));"
                 f"insert into accounts values {rows}")
        for client in range(self.CLIENTS):
            pipe = subprocess.PIPE
            process = subprocess.Popen([*self.to_server("mariadb"), "-N", "--unbuffered", "bank"], stdin=pipe, stdout=pipe,
                                       stderr=subprocess.DEVNULL, text=True)
            thread = threading.Thread(target=self.transfer, args=(client, process), daemon=True)
            self.clients.append(process)
            self.threads.append(thread)
            thread.start()
        time.sleep(5 if self.options.short else 30)
        if not all(self.done):
            fail(f"MariaDB acknowledged {self.done} transfers to its clients{self.log()}")

    def transfer(self, client, process):
        """One client, until its server is gone."""
        n = 0
        while True:
            n += 1
            # By rising number, so that no two wait for one another.
            one, two = sorted(((n * 7919 + client) % self.ACCOUNTS, (n * 104729 + client + 1) % self.ACCOUNTS))
            try:
                process.stdin.write(
                    f"begin; update accounts set balance = balance - {n % 9} where id = {one};"
                    f"update accounts set balance = balance + {n % 9} where id = {two};"
                    f"insert into transfers values({client}, {n}, repeat('{n} ', 20)); commit; select {n};\n")
                process.stdin.flush()
                if process.stdout.readline() != f"{n}\n":
                    return
            except OSError:
                return
            self.done[client] = n

    def serve(self):
        self.place.mkdir(exist_ok=True)
        shutil.chown(self.place, "mysql", "mysql")
        with open(self.place / "log", "a", encoding="utf-8") as log:
            self.server = subprocess.Popen(
                ["mariadbd", "--no-defaults", "--user=mysql", f"--datadir={self.data}", f"--socket={self.place}/socket",
                 f"--pid-file={self.place}/pid", *self.SETTINGS], stdin=subprocess.DEVNULL, stdout=log, stderr=log)
        end = time.monotonic() + PATIENCE
        ping = [*self.to_server("mariadb-admin"), "ping"]
        while subprocess.run(ping, capture_output=True, check=False).returncode != 0:
            if self.server.poll() is not None or time.monotonic() > end:
                fail(f"MariaDB does not start{self.log()}")
            time.sleep(0.1)

    def log(self):
        path = self.place / "log"
        return f"\n{path}:\n" + "\n".join(path.read_text(encoding="utf-8").splitlines()[-20:]) if path.exists() else ""

    def daemon_died(self):
        # Its folder is gone: nothing that it does now counts.
        self.abandon()
        for thread in self.threads:
            thread.join(PATIENCE)

    def abandon(self):
        for process in (*self.clients, *([self.server] if self.server else [])):
            process.kill()
            process.wait()
        self.server, self.clients = None, []

    def examine(self, least, most):
        """How many transfers of each client are there, which must lie between these."""
        found = []
        for client in range(self.CLIENTS):
            count, last = self.ask(f"select count(*), max(n) from bank.transfers where client = {client}").split()
            if count != last or not least[client] <= int(count) <= most[client]:
                fail(f"{count} transfers of client {client} are there, up to {last}; {least[client]} were acknowledged")
            found.append(int(count))
        if self.ask("select sum(balance) from bank.accounts") != str(1000 * self.ACCOUNTS):
            fail("the accounts' sum has changed")
        checked = must(*self.to_server("mariadb-check"), "--all-databases", "--extended").splitlines()
        wrong = [line for line in checked if line.split()[-1] != "OK"]
        if wrong or not any(line.startswith("bank.accounts") for line in checked):
            fail("mariadb-check found:\n" + "\n".join(wrong))
        return found

    def look_again(self):
        self.serve()
        self.done = self.examine(self.done, [n + 1 for n in self.done])
        self.stop()

    def stop(self):
        must(*self.to_server("mariadb-admin"), "shutdown")
        self.server.wait(PATIENCE)
        self.server = None

    def look_at_snapshot(self, root):
        """A database that recovers writes: the clone is looked at."""

    def look_at_clone(self, root, outside):
        copy = MariaDb(root, outside, self.options)
        try:
            copy.serve()
            copy.examine(self.done, self.done)
            copy.stop()
        finally:
            copy.abandon()


class Regression:
    """PostgreSQL's own regression suite against a server on the mount; killed when it runs a second time."""

    NAME, SYNCS = "regression", True
    TOLD = "pg_regress passes all, pg_amcheck --all --heapallindexed after it was killed within"

    def __init__(self, root, outside, options):
        self.load, self.outside, self.options = Pgbench(root, outside, options), outside, options
        self.suite, self.again = outside / "suite", None

    def run(self):
        self.load.prepare()
        self.fetch()
        done = subprocess.run(self.command(), capture_output=True, text=True, check=False)
        if done.returncode != 0 or not re.search(r"All \d+ tests passed", done.stdout):
            fail(f"pg_regress ended {done.returncode}: {done.stdout[-3000:]}{done.stderr[-1000:]}")
        null = subprocess.DEVNULL
        self.again = subprocess.Popen(self.command(), stdin=null, stdout=null, stderr=null)
        time.sleep(5 if self.options.short else 15)

    def fetch(self):
        """The suite, of the version that is installed, and the library that its tests call."""
        package = f"postgresql-{self.load.bin.parent.name}"
        version = must("dpkg-query", "-W", "-f", "${Version}", package)
        source = self.outside / "source"
        unpack(debian_source(package, self.outside, version), source)
        shutil.copytree(source / "src/test/regress", self.suite)
        # The headers alone: the package with them asks for a whole compiler of its own.
        headers = self.outside / "headers"
        must("apt-get", "-qq", "-o", "APT::Sandbox::User=root", "download",
             f"postgresql-server-dev-{self.load.bin.parent.name}={version}", cwd=self.outside)
        must("dpkg", "-x", next(self.outside.glob("postgresql-server-dev-*.deb")), headers)
        include = next(headers.glob("usr/include/postgresql/*/server"))
        must("gcc", "-shared", "-fPIC", "-O2", f"-I{include}", "-o", self.suite / "regress.so", self.suite / "regress.c")
        for library in ("autoinc.so", "refint.so"):
            (self.suite / library).symlink_to(self.load.bin.parent / "lib" / library)
        must("chown", "-R", "postgres:", self.suite)

    def command(self):
        regress = self.load.bin.parent / "lib/pgxs/src/test/regress/pg_regress"
        return self.load.as_postgres(
            regress, f"--bindir={self.load.bin}", f"--dlpath={self.suite}", f"--inputdir={self.suite}",
            f"--outputdir={self.suite}", f"--schedule={self.suite}/parallel_schedule", "--no-locale", "--encoding=UTF8",
            f"--host={self.load.sockets}", "--port=54530", "--user=postgres", "--max-connections=8")

    def daemon_died(self):
        self.load.end()
        self.again.wait(PATIENCE)

    def abandon(self):
        if self.again is not None:
            self.again.kill()
        self.load.abandon()

    @staticmethod
    def examine(load):
        load.serve()
        load.must("pg_amcheck", "--all", "--install-missing", "--heapallindexed", *load.to_server()[:-1])
        load.stop()

    def look_again(self):
        self.examine(self.load)

    def look_at_snapshot(self, root):
        """A database that recovers writes: the clone is looked at."""

    def look_at_clone(self, root, outside):
        copy = Pgbench(root, outside, self.options)
        try:
            copy.adopt()
            self.examine(copy)
        finally:
            copy.abandon()


class Build(Files):
    """A project that asks much of the filesystem in its tests, built where it lies."""

    NAME = "build"
    TOLD = "findutils: configure, make, make check; nothing to be made anew in the clone"

    def run(self):
        self.tree, self.kept = self.root / "findutils", self.outside / "kept"
        unpack(debian_source("findutils", self.outside), self.tree)
        must("env", "FORCE_UNSAFE_CONFIGURE=1", "./configure", "-q", "--disable-nls", cwd=self.tree)
        must("make", "-s", "-j2", cwd=self.tree)
        told = must("make", "check", "-j2", cwd=self.tree)
        sums = {word: sum(map(int, re.findall(rf"^# {word}: +(\d+)$", told, re.M))) for word in ("PASS", "FAIL", "ERROR")}
        if not sums["PASS"] or sums["FAIL"] or sums["ERROR"]:
            fail(f"make check: {sums}")
        self.passed = sums["PASS"]
        must("cp", "-a", self.tree, self.kept)

    def look_at_snapshot(self, root):
        # A file's time may be some milliseconds later once the daemon was killed (docs/testing.md).
        same_but_times(self.kept, root / "findutils")

    def look_at_clone(self, root, outside):
        super().look_at_clone(root, outside)
        told = must("make", "V=1", cwd=root / "findutils")
        if "gcc" in told:
            fail(f"something is made anew in a clone:\n{told[-2000:]}")


class Bootstrap(Files):
    """A Debian by debootstrap, which is `dpkg --root` for a hundred packages, as on the filesystem beneath."""

    NAME = "debootstrap"
    TOLD = "the tree as on the filesystem beneath, dpkg --verify and --audit find nothing"
    # Times, and what programs write of them or of chance.
    CHANCE = ("/var/log", "/var/cache/ldconfig", "/etc/machine-id", "/var/lib/systemd")

    def run(self):
        suite = re.search(r"VERSION_CODENAME=(\S+)", Path("/etc/os-release").read_text(encoding="utf-8"))[1]
        packages, self.beneath = self.outside / "packages", self.outside / "tree"
        packages.mkdir()
        for tree in (self.beneath, self.root / "tree"):
            must("debootstrap", "--variant=minbase", f"--cache-dir={packages}", suite, tree)

    def look_at_snapshot(self, root):
        tree = root / "tree"
        same_but_times(self.beneath, tree, *self.CHANCE)
        must_say_nothing("dpkg", f"--root={tree}", "--verify")
        must_say_nothing("dpkg", f"--root={tree}", "--audit")


HEAVY = (MariaDb, Regression, Build, Bootstrap)
