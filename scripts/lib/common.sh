# Shared by the scripts: messages, installing what is missing. Sourced, not run.

# The oldest Rust that builds this (Cargo.toml, rust-version).
rust_minimum=1.89.0

say() { printf '\n== %s\n' "$*"; }
die() { printf 'error: %s\n' "$*" >&2; exit 1; }

as_root() {
    if [ "$(id -u)" = 0 ]; then "$@"
    elif command -v sudo >/dev/null 2>&1; then sudo "$@"
    else die "installing packages needs root: run as root, or install: $*"
    fi
}

# install_packages PACKAGE...: those that are missing, by apt.
install_packages() {
    local missing=() package
    for package in "$@"; do
        dpkg-query -W -f='${Status}' "$package" 2>/dev/null | grep -q 'install ok installed' \
            || missing+=("$package")
    done
    [ ${#missing[@]} -eq 0 ] && return 0
    command -v apt-get >/dev/null 2>&1 \
        || die "this script installs by apt-get, which is not here; install yourself: ${missing[*]}"
    say "installing ${missing[*]}"
    as_root apt-get update -qq
    # Services are not to start by themselves: the scripts run their own, in folders of their own.
    printf '#!/bin/sh\nexit 101\n' > /tmp/strongroom-policy.$$
    local policy=/usr/sbin/policy-rc.d had=
    [ -e "$policy" ] && had=1
    [ -n "$had" ] || as_root install -m 755 "/tmp/strongroom-policy.$$" "$policy"
    local status=0
    as_root env DEBIAN_FRONTEND=noninteractive \
        apt-get install -y -qq --no-install-recommends "${missing[@]}" >/dev/null || status=$?
    [ -n "$had" ] || as_root rm -f "$policy"
    rm -f "/tmp/strongroom-policy.$$"
    [ $status -eq 0 ] || die "apt-get could not install ${missing[*]}"
}

version_at_least() { # HAVE WANT
    [ "$(printf '%s\n%s\n' "$2" "$1" | sort -V | head -n 1)" = "$2" ]
}

# The Rust that is there if new enough, else rustup's stable where it can be reached.
need_rust() {
    [ -x "$HOME/.cargo/bin/cargo" ] && PATH="$HOME/.cargo/bin:$PATH"
    local have=
    command -v rustc >/dev/null 2>&1 && have=$(rustc --version | cut -d' ' -f2)
    if [ -n "$have" ] && version_at_least "${have%%-*}" "$rust_minimum"; then return 0; fi
    if ! command -v rustup >/dev/null 2>&1; then
        install_packages curl ca-certificates
        say "installing Rust by rustup (found: ${have:-none}, needed: $rust_minimum)"
        { curl --proto '=https' --tlsv1.2 -sSf https://sh.rustup.rs 2>/dev/null \
            || curl --proto '=https' --tlsv1.2 -sSf https://static.rust-lang.org/rustup/rustup-init.sh 2>/dev/null; } \
            | sh -s -- -y --profile minimal -c clippy -c rustfmt >/dev/null 2>&1 \
            || die "Rust $rust_minimum or newer is needed and rustup cannot be reached: install it, then run this again"
        PATH="$HOME/.cargo/bin:$PATH"
    else
        rustup toolchain install stable --profile minimal -c clippy -c rustfmt >/dev/null 2>&1 \
            || die "Rust $rust_minimum or newer is needed (found: ${have:-none}) and rustup could not install it"
        export RUSTUP_TOOLCHAIN=stable
    fi
}

# Whether every user may enter this directory, as far as permissions say.
everybody_reaches() {
    local at=$1
    while [ "$at" != / ]; do
        case $(stat -c %A "$at") in *[xt]) at=$(dirname "$at") ;; *) return 1 ;; esac
    done
}

# A missing /dev/fuse is a failure that says so, never a skipped test.
need_fuse() {
    [ -e /dev/fuse ] || as_root modprobe fuse 2>/dev/null || true
    [ -e /dev/fuse ] || die "/dev/fuse is missing: load the fuse module (in a container: --device /dev/fuse --cap-add SYS_ADMIN)"
    # Where the kernel lists connections, so that one that hangs can be ended; no systemd, nobody mounts it.
    local connections=/sys/fs/fuse/connections
    [ ! -d $connections ] || mountpoint -q $connections || as_root mount -t fusectl fusectl $connections || true
    # fusermount3 reads it to unmount; a root that was never booted has none.
    [ -e /etc/mtab ] || as_root ln -s ../proc/self/mounts /etc/mtab
}

# need_program PACKAGE...: the program at $STRONGROOM_BIN, or built for release, where it can mount; built,
# these packages are installed as well.
need_program() {
    if [ -z "${STRONGROOM_BIN:-}" ]; then
        install_packages gcc libc6-dev fuse3 "$@"
        need_rust
        cargo build --release --quiet
        export STRONGROOM_BIN=${CARGO_TARGET_DIR:-$PWD/target}/release/strongroom
    fi
    need_fuse
}

# The Python of the independent reader (tests/reader), beside what cargo builds.
reader_python() { printf '%s\n' "${CARGO_TARGET_DIR:-$PWD/target}/reader/bin/python"; }

# Makes that Python with the pinned packages; made again where the pins have changed.
install_reader() {
    local pins=tests/reader/requirements.txt python folder
    python=$(reader_python)
    folder=${python%/bin/python}
    cmp -s "$pins" "$folder/requirements.txt" && return 0
    say "installing the packages of tests/reader"
    rm -rf "$folder"
    python3 -m venv "$folder" || die "python3 cannot make a virtual environment: install python3-venv"
    "$python" -m pip install -q --disable-pip-version-check --require-hashes --only-binary :all: -r "$pins" \
        || die "pip could not install what $pins names"
    cp "$pins" "$folder/requirements.txt"
}
