#!/usr/bin/env bash
# Usage: scripts/applications.sh [--only NAME,...] [--short] [--keep] [--dir DIR]
# Real applications on a mounted cluster, each in a directory of its own and judged by its own check:
# PostgreSQL, SQLite, git, rsync, tar, and, unless --short, MariaDB, PostgreSQL's regression suite, the build of a
# project with its tests, debootstrap. What each left is looked at again after a kill -9 of the daemon, in a
# snapshot mounted read-only where its check only reads, and in a clone. Needs root. --short: smaller loads.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib/common.sh
need_program python3 postgresql git rsync tar acl attr
case " $* " in
    *" --short "*) ;;
    *) install_packages mariadb-server debootstrap gcc make libc6-dev dpkg-dev ;;
esac
exec python3 scripts/lib/applications.py "$@"
