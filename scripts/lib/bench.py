"""Benchmarks of strongroom beside gocryptfs and the filesystem beneath; run by scripts/bench.sh."""
import argparse
import json
import os
import shutil
import sqlite3
import statistics
import subprocess
import sys
import tempfile
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

from api import Api

BIN = os.environ["STRONGROOM_BIN"]
MIB = 1 << 20


def run(*command, **kwargs):
    """Runs a command; its standard output. An error ends the benchmark with what it said."""
    done = subprocess.run([str(c) for c in command], capture_output=True, text=True, **kwargs)
    if done.returncode != 0:
        sys.exit(f"error: {' '.join(map(str, command))} ended {done.returncode}:\n{done.stderr}")
    return done.stdout


def quiet(*command):
    """Runs a command whose children may keep its output open, and so without reading any."""
    subprocess.run([str(c) for c in command], stdout=subprocess.DEVNULL, check=True)


def drop_caches():
    os.sync()
    Path("/proc/sys/vm/drop_caches").write_text("3")


class Plain:
    """The filesystem beneath."""
    name = "disk"

    def __init__(self, base):
        self.root = base / "plain"

    def start(self):
        self.root.mkdir()

    def remount(self):
        drop_caches()

    def stop(self):
        shutil.rmtree(self.root, ignore_errors=True)

    def memory_kib(self):
        return 0


class Gocryptfs(Plain):
    name = "gocryptfs"

    def __init__(self, base):
        self.cipher, self.root, self.password = base / "cipher", base / "gocryptfs", base / "password"

    def start(self):
        self.cipher.mkdir()
        self.root.mkdir()
        self.password.write_text("benchmark")
        run("gocryptfs", "-q", "-init", "-scryptn", "10", "-passfile", self.password, self.cipher)
        self.mount()

    def mount(self):
        run("gocryptfs", "-q", "-allow_other", "-passfile", self.password, self.cipher, self.root)

    def remount(self):
        run("umount", self.root)
        drop_caches()
        self.mount()

    def stop(self):
        run("umount", self.root)
        shutil.rmtree(self.cipher)


class Strongroom(Plain):
    name = "strongroom"

    def __init__(self, base):
        self.base, self.root = base, base / "strongroom"
        self.env = dict(os.environ, STRONGROOM_POOL=str(base / "pool"), STRONGROOM_CONFIG=str(base / "config"))

    def sr(self, *words):
        return run(BIN, *words, env=self.env)

    def start(self):
        self.root.mkdir()
        self.sr("init", "--size", "24G")
        self.sr("key", "create", "bench")
        self.sr("cluster", "create", "bench", "--key", "bench")
        self.mount()

    def mount(self):
        self.sr("mount", "bench", self.root)

    def remount(self):
        self.sr("umount", "bench")
        drop_caches()
        self.mount()

    def stop(self):
        self.sr("shutdown", "--force")
        shutil.rmtree(self.base / "pool")

    def pid(self):
        return json.loads(self.sr("status", "--json"))["pid"]

    def memory_kib(self):
        for line in Path(f"/proc/{self.pid()}/status").read_text().splitlines():
            if line.startswith("VmHWM:"):
                return int(line.split()[1])
        return 0

    def api(self):
        return Api(self.base / "pool" / "control.sock")

    def snapshot(self):
        """Takes a snapshot; milliseconds over the socket, and bytes written to the device."""
        api = self.api()
        before = api.counter("device_write_bytes_total")
        begin = time.monotonic()
        api.post("/v1/snapshots", {"clusters": ["bench"]})
        took = (time.monotonic() - begin) * 1000
        return took, api.counter("device_write_bytes_total") - before

    def snapshot_command_ms(self):
        begin = time.monotonic()
        self.sr("snapshot", "create", "bench", "--json")
        return (time.monotonic() - begin) * 1000


def fio(root, **options):
    """One fio job; MiB/s for sequential jobs, operations/s for the others."""
    job = dict(name="job", directory=root, ioengine="psync", group_reporting=1, randrepeat=1,
               output_format="json", fallocate="none", invalidate=0)
    job.update(options)
    job = {k: v for k, v in job.items() if v is not None}
    out = json.loads(run("fio", *[f"--{k.replace('output_format', 'output-format')}={v}" for k, v in job.items()]))
    side = out["jobs"][0]["write" if "write" in job["rw"] else "read"]
    return side["bw_bytes"] / MIB if job["bs"] == "1M" else side["iops"]


class Bench:
    def __init__(self, short):
        self.short = short
        self.size = 64 * MIB if short else 1024 * MIB
        self.seconds = 2 if short else 8
        # 99.9th percentile of a pgbench transaction, by system: a checkpoint's stall would show here.
        self.tails_ms = {}

    def sequential_write(self, fs):
        return fio(fs.root, rw="write", bs="1M", size=self.size, end_fsync=1, filename="seq")

    def sequential_read(self, fs):
        self.sequential_write(fs)
        fs.remount()
        return fio(fs.root, rw="read", bs="1M", size=self.size, filename="seq")

    def _random_read(self, fs, jobs):
        """A sixteenth of the blocks, each once, each job in a part of its own: what lies beside a block that was
        read, or was read before, is in some cache, and this line is about what is in none."""
        self.sequential_write(fs)
        fs.remount()
        part = self.size // jobs
        return fio(fs.root, rw="randread", bs="4k", size=part, offset_increment=part, filename="seq", numjobs=jobs,
                   io_size=part // 16)

    def cold_random_read_1(self, fs):
        return self._random_read(fs, 1)

    def cold_random_read_4(self, fs):
        return self._random_read(fs, 4)

    def hot_read(self, fs):
        self.sequential_write(fs)
        quiet("cat", fs.root / "seq")
        return fio(fs.root, rw="read", bs="1M", size=self.size, filename="seq")

    def random_write(self, fs):
        self.sequential_write(fs)
        return fio(fs.root, rw="randwrite", bs="4k", size=self.size, io_size=self.size // 4, filename="seq",
                   end_fsync=1)

    def queued_direct_write(self, fs):
        self.sequential_write(fs)
        # Synced at the end, within the time: not everybody's direct writes go past the cache beneath.
        return fio(fs.root, rw="randwrite", bs="64k", size=self.size, filename="seq", direct=1, ioengine="libaio",
                   iodepth=16, runtime=self.seconds, time_based=1, end_fsync=1)

    def _fdatasync(self, fs, jobs):
        return fio(fs.root, rw="randwrite", bs="8k", size=64 * MIB, numjobs=jobs, fdatasync=1,
                   runtime=self.seconds, time_based=1)

    def fdatasync_1(self, fs):
        return self._fdatasync(fs, 1)

    def fdatasync_4(self, fs):
        return self._fdatasync(fs, 4)

    def fdatasync_beside_a_stream(self, fs):
        stream = subprocess.Popen(["fio", "--name=stream", f"--directory={fs.root}", "--rw=write", "--bs=1M",
                                   f"--size={self.size}", "--time_based", f"--runtime={self.seconds + 1}",
                                   "--rate=50m", "--ioengine=psync"], stdout=subprocess.DEVNULL)
        time.sleep(0.5)
        result = self._fdatasync(fs, 1)
        stream.wait()
        return result

    def small_files(self, fs):
        count = 500 if self.short else 5000
        begin = time.monotonic()
        for i in range(count):
            folder = fs.root / f"small{i // 100}"
            folder.mkdir(exist_ok=True)
            (folder / f"f{i}").write_bytes(b"x" * 4000)
        for i in range(count):
            (fs.root / f"small{i // 100}" / f"f{i}").read_bytes()
        for i in range(count):
            (fs.root / f"small{i // 100}" / f"f{i}").unlink()
        return count / (time.monotonic() - begin)

    def untar(self, fs):
        archive = Path(tempfile.gettempdir()) / "strongroom-bench.tar"
        if not archive.exists():
            run("tar", "-cf", archive, "-C", "/usr/share", "zoneinfo")
        begin = time.monotonic()
        run("tar", "-xf", archive, "-C", fs.root)
        run("sync", "-f", fs.root)
        return 1 / (time.monotonic() - begin)

    def _sqlite(self, fs, mode):
        path = fs.root / f"{mode}.db"
        connection = sqlite3.connect(path, isolation_level=None)
        connection.execute(f"pragma journal_mode={mode}")
        connection.execute("pragma synchronous=full")
        connection.execute("create table t (k integer primary key, v blob)")
        begin, done = time.monotonic(), 0
        while time.monotonic() - begin < self.seconds:
            connection.execute("begin")
            for _ in range(10):
                connection.execute("insert into t (v) values (randomblob(500))")
            connection.execute("commit")
            done += 1
        took = time.monotonic() - begin
        assert connection.execute("pragma integrity_check").fetchone()[0] == "ok"
        connection.close()
        return done / took

    def sqlite_delete(self, fs):
        return self._sqlite(fs, "delete")

    def sqlite_wal(self, fs):
        return self._sqlite(fs, "wal")

    def pgbench(self, fs):
        binaries = sorted(Path("/usr/lib/postgresql").glob("*/bin"))[-1]
        sockets = Path(tempfile.mkdtemp(prefix="sr-pg"))
        data = fs.root / "pg"
        shutil.chown(sockets, "postgres")
        os.chmod(fs.root, 0o777)
        as_pg = ["runuser", "-u", "postgres", "--"]
        run(*as_pg, binaries / "initdb", "-D", data, "-A", "trust")
        quiet(*as_pg, binaries / "pg_ctl", "-D", data, "-w", "-l", sockets / "log", "-o",
              f"-p 54510 -k {sockets} -c listen_addresses='' -c shared_buffers=64MB", "start")
        try:
            connect = ["-h", sockets, "-p", "54510", "-U", "postgres", "postgres"]
            run(*as_pg, binaries / "pgbench", "-i", "-q", "-s", "2" if self.short else "20", *connect)
            out = run(*as_pg, binaries / "pgbench", "-c", "4", "-j", "2", "-T", self.seconds * 5, "--log",
                      f"--log-prefix={sockets / 'latency'}", *connect)
            # Third column: microseconds of one transaction.
            took = sorted(int(line.split()[2]) for log in sockets.glob("latency.*")
                          for line in log.read_text().splitlines())
            self.tails_ms.setdefault(fs.name, []).append(took[len(took) * 999 // 1000] / 1000)
        finally:
            quiet(*as_pg, binaries / "pg_ctl", "-D", data, "-m", "fast", "-w", "stop")
            shutil.rmtree(sockets, ignore_errors=True)
        return next(float(line.split("=")[1].split()[0]) for line in out.splitlines() if line.startswith("tps"))


UNITS = dict(sequential_write="MiB/s", sequential_read="MiB/s", hot_read="MiB/s", untar="1/s", small_files="files/s",
             sqlite_delete="commits/s", sqlite_wal="commits/s", pgbench="tps")
LINES = ["sequential_write", "sequential_read", "cold_random_read_1", "cold_random_read_4", "hot_read", "random_write",
         "queued_direct_write", "fdatasync_1", "fdatasync_4", "fdatasync_beside_a_stream", "small_files", "untar",
         "sqlite_delete", "sqlite_wal", "pgbench"]


def fill(root, files, size):
    """Makes so many files of one size, 1,000 to a folder."""
    block = os.urandom(size - 8)

    def folder(number):
        place = root / str(number)
        place.mkdir()
        for i in range(number * 1000, min(files, (number + 1) * 1000)):
            handle = os.open(place / f"f{i}", os.O_WRONLY | os.O_CREAT)
            os.writev(handle, (i.to_bytes(8, "little"), block))
            os.close(handle)

    with ThreadPoolExecutor(4) as threads:
        list(threads.map(folder, range((files + 999) // 1000)))


SNAPSHOTS = 21


def snapshot_times(base, short):
    """What a snapshot with nothing dirty costs, of a small cluster and of one that is 1,000 times as
    large (short: ten times as large), taken in turn: medians."""
    sizes = {"small": (20, 8 * MIB), "large": (200, 80 * MIB) if short else (200_000, 8192 * MIB)}
    systems, seconds, seen = {}, {}, {}
    folder = Path(tempfile.mkdtemp(prefix="strongroom-bench.", dir=base))
    try:
        for label, (files, size) in sizes.items():
            (folder / label).mkdir()
            fs = systems[label] = Strongroom(folder / label)
            fs.start()
            begin = time.monotonic()
            fill(fs.root, files, size // files)
            fs.remount()
            seconds[label] = time.monotonic() - begin
        for _ in range(SNAPSHOTS):
            for label, fs in systems.items():
                took, written = fs.snapshot()
                row = seen.setdefault(label, dict(socketMs=[], commandMs=[], bytesWritten=[]))
                row["socketMs"].append(took)
                row["bytesWritten"].append(written)
                row["commandMs"].append(fs.snapshot_command_ms())
    finally:
        for fs in systems.values():
            fs.stop()
        shutil.rmtree(folder, ignore_errors=True)
    out = {label: {name: statistics.median(values) for name, values in row.items()} for label, row in seen.items()}
    for label, (files, size) in sizes.items():
        row = out[label]
        print(f"snapshot, nothing dirty      {files:7} files, {size // MIB:5} MiB: {row['socketMs']:6.2f} ms by the socket, "
              f"{row['commandMs']:6.2f} ms as a command, {row['bytesWritten'] / 1024:.0f} KiB written "
              f"(filled in {seconds[label]:.0f} s)")
    ratio = {name: out["large"][name] / out["small"][name] for name in out["small"]}
    print(f"                             ratio {ratio['socketMs']:.2f} by the socket, {ratio['commandMs']:.2f} as a "
          f"command, {ratio['bytesWritten']:.2f} of bytes", flush=True)
    return dict(out, ratio=ratio)


def main():
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--short", action="store_true")
    parser.add_argument("--rounds", type=int)
    parser.add_argument("--only", default="")
    parser.add_argument("--json")
    parser.add_argument("--dir", default="/var/tmp")
    arguments = parser.parse_args()
    rounds = arguments.rounds or (1 if arguments.short else 3)
    lines = [line for line in LINES if not arguments.only or line in arguments.only.split(",")]
    bench = Bench(arguments.short)
    results = {line: {} for line in lines}
    memory = {}
    systems = [Plain, Gocryptfs, Strongroom]
    for line in lines:
        for number in range(rounds):
            order = systems[number % 3:] + systems[:number % 3]
            for system in order:
                base = Path(tempfile.mkdtemp(prefix="strongroom-bench.", dir=arguments.dir))
                os.chmod(base, 0o755)
                fs = system(base)
                fs.start()
                try:
                    value = getattr(bench, line)(fs)
                    memory[line] = max(memory.get(line, 0), fs.memory_kib())
                finally:
                    fs.stop()
                    shutil.rmtree(base, ignore_errors=True)
                results[line].setdefault(system.name, []).append(value)
        median = {name: statistics.median(values) for name, values in results[line].items()}
        unit = UNITS.get(line, "ops/s")
        print(f"{line:28} disk {median['disk']:10.1f}  gocryptfs {median['gocryptfs']:10.1f}  "
              f"strongroom {median['strongroom']:10.1f} {unit:10} "
              f"x{median['strongroom'] / median['gocryptfs']:.2f} of gocryptfs, "
              f"x{median['strongroom'] / median['disk']:.2f} of the disk, "
              f"peak {memory[line] / 1024:.0f} MiB", flush=True)
    if bench.tails_ms:
        tails = {name: statistics.median(values) for name, values in bench.tails_ms.items()}
        print("pgbench, 99.9th percentile   " + "  ".join(f"{name} {ms:.1f} ms" for name, ms in tails.items()))
    wanted = not arguments.only or "snapshot" in arguments.only.split(",")
    snapshots = snapshot_times(arguments.dir, arguments.short) if wanted else {}
    if arguments.json:
        Path(arguments.json).write_text(json.dumps(dict(results=results, peakKiB=memory, pgbenchTailMs=bench.tails_ms,
                                                        snapshots=snapshots), indent=1))


main()
