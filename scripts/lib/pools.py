"""A pool in a folder of its own, for scripts that work on one and look into it."""
import json
import os
import subprocess
import time

BIN = os.environ["STRONGROOM_BIN"]
BLOCK = 4096
MIB = 1 << 20
# Seconds in which everything must be over that has no bound of its own.
PATIENCE = 60


def fail(why):
    raise SystemExit(f"error: {why}")


def until(what, true, seconds=PATIENCE, pause=0.01):
    """Waits until it is true."""
    end = time.monotonic() + seconds
    while not true():
        if time.monotonic() > end:
            fail(f"{what}: not within {seconds} s")
        time.sleep(pause)


def mounts_at(place):
    """How many mounts lie on one another there, from the mount table alone."""
    with open("/proc/self/mounts", encoding="utf-8", errors="surrogateescape") as table:
        return sum(line.split(" ")[1] == str(place) for line in table)


def answers(place):
    """Whether somebody serves the mount there."""
    try:
        os.stat(place)
        os.listdir(place)
    except OSError:
        return False
    return mounts_at(place) > 0


class Pool:
    """A pool in a folder of its own, and the commands that a user would type."""

    def __init__(self, folder, size, image=None):
        """In a directory of its own, or as the file `image`."""
        self.folder = folder
        self.env = dict(os.environ, STRONGROOM_POOL=str(image or folder / "pool"), STRONGROOM_CONFIG=str(folder / "config"))
        if image:
            self.env["STRONGROOM_SOCKET"] = str(folder / "control.sock")
        for place in ("head", "then", "clone"):
            (folder / place).mkdir()
        self.sr("init", "--size", str(size))

    def begin(self, *words):
        """A command that is not waited for."""
        command = [BIN, *map(str, words), "--json"]
        pipe, null = subprocess.PIPE, subprocess.DEVNULL
        return subprocess.Popen(command, stdin=null, stdout=pipe, stderr=pipe, text=True, env=self.env)

    def run(self, *words, seconds=None):
        """A command, and how it ended."""
        return self.ended(self.begin(*words), seconds)

    @staticmethod
    def ended(process, seconds=None):
        out, err = process.communicate(timeout=seconds)
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def sr(self, *words):
        done = self.run(*words)
        if done.returncode != 0:
            fail(f"{' '.join(map(str, words))} ended {done.returncode}: {done.stdout}{done.stderr}")
        return json.loads(done.stdout) if done.stdout.startswith("{") else {}

    def refused(self, status, *words):
        done = self.run(*words)
        if done.returncode != status:
            fail(f"{' '.join(map(str, words))} ended {done.returncode}, not {status}: {done.stdout}{done.stderr}")

    def settle(self):
        """Waits until what deletions left has been freed."""
        end = time.monotonic() + 300
        self.sr("cluster", "list")  # starts the daemon, which `status` does not
        while True:
            status = self.sr("status")
            if not status["background"] and status["pool"]["pendingFreeBytes"] == 0:
                return status["pool"]
            if time.monotonic() > end:
                fail(f"freeing does not end: {status['background']}, {status['pool']}")
            time.sleep(0.02)

    def blocks(self):
        """Blocks that clusters and snapshots have, exactly: all that is allocated but for the catalog's own
        tree. Ends the daemon."""
        self.settle()
        self.sr("shutdown")
        allocated = sum(region["allocated"] for region in self.sr("debug", "region")["results"])
        superblock = next(s for s in self.sr("debug", "superblock")["results"] if s["state"] == "good")
        nodes = len(self.sr("debug", "node")["results"])
        # Each node stands at two addresses.
        return allocated - 2 * nodes * superblock["clear"]["nodeBytes"] // BLOCK

    def check(self, complete=True):
        self.settle()
        self.sr("shutdown")
        found = self.sr("check")
        if not found["clean"] or found["complete"] != complete:
            fail(f"check found: {found['results'][:10]}, complete: {found['complete']}")
        rest = found["blocksUncovered"] if not complete else 0
        if found["blocksAllocated"] != found["blocksReached"] + rest or found["blocksAwaitingFree"]:
            fail(f"{found['blocksAllocated']} blocks are allocated, {found['blocksReached']} reached, "
                 f"{rest} are out of reach, {found['blocksAwaitingFree']} wait to be freed")

    def stop(self):
        self.run("shutdown", "--force")
