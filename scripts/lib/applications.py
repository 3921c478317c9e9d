"""Real applications on a mounted cluster, each judged by its own check; run by scripts/applications.sh."""
import argparse
import os
import shutil
import signal
import sys
import tempfile
import time
from pathlib import Path

from heavy_applications import HEAVY
from light_applications import LIGHT
from pools import MIB, Pool, answers, fail, until

CLUSTER = "applications"
APPLICATIONS = {kind.NAME: kind for kind in LIGHT + HEAVY}


def judge(kind, pool, options):
    """One application from its start to the look at a clone of what it left."""
    began = time.monotonic()
    root, outside, again = (pool.folder / place / kind.NAME for place in ("head", "outside", "again"))
    for folder in (root, outside, again):
        folder.mkdir(parents=True)
        folder.chmod(0o755)
    application = kind(root, outside, options)
    try:
        application.run()
        if not kind.SYNCS:
            # The kernel never passes syncfs on: a snapshot makes durable what nobody synced.
            pool.sr("snapshot", "create", CLUSTER)
        os.kill(pool.sr("status")["pid"], signal.SIGKILL)
        application.daemon_died()
        pool.sr("cluster", "list")
        until("the mount is back", lambda: answers(pool.folder / "head"))
        application.look_again()
        snapshot = pool.sr("snapshot", "create", CLUSTER)["results"][0]["id"]
        pool.sr("restore", snapshot, pool.folder / "then")
        application.look_at_snapshot(pool.folder / "then" / kind.NAME)
        pool.sr("umount", pool.folder / "then")
        copy = f"copy-{kind.NAME}"
        pool.sr("restore", snapshot, "--to-cluster", copy)
        pool.sr("mount", copy, pool.folder / "clone")
        application.look_at_clone(pool.folder / "clone" / kind.NAME, again)
        pool.sr("umount", pool.folder / "clone")
    finally:
        application.abandon()
    print(f"{kind.NAME}: {kind.TOLD}; {time.monotonic() - began:.1f} s", flush=True)


def main():
    parser = argparse.ArgumentParser(prog="scripts/applications.sh", description=__doc__)
    parser.add_argument("--only", help="names with commas between them")
    parser.add_argument("--short", action="store_true", help="smaller loads, and none that needs much installed")
    parser.add_argument("--keep", action="store_true", help="after a failure, leave all as it is")
    parser.add_argument("--dir", default="/var/tmp")
    options = parser.parse_args()
    options.seed = 1
    names = options.only.split(",") if options.only else [kind.NAME for kind in LIGHT + (() if options.short else HEAVY)]
    if unknown := set(names) - APPLICATIONS.keys():
        parser.error(f"there is no {', '.join(sorted(unknown))}; there are {', '.join(APPLICATIONS)}")
    signal.signal(signal.SIGTERM, lambda *_: fail("ended by a signal"))
    folder = Path(tempfile.mkdtemp(prefix="strongroom-applications.", dir=options.dir))
    folder.chmod(0o755)
    pool, whole = Pool(folder, (4 if options.short else 16) * 1024 * MIB), False
    try:
        pool.sr("cluster", "create", CLUSTER)
        pool.sr("mount", CLUSTER, folder / "head", "-o", "allow_other,dev,suid")
        (folder / "head").chmod(0o755)
        for name in names:
            judge(APPLICATIONS[name], pool, options)
        pool.check()
        whole = True
    finally:
        if not whole and options.keep:
            print(f"kept: {folder}", file=sys.stderr)
        else:
            pool.stop()
            shutil.rmtree(folder, ignore_errors=True)
    print(f"{len(names)} applications found nothing wrong, nor did check")


if __name__ == "__main__":
    main()
