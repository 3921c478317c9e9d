#!/usr/bin/env bash
# Usage: scripts/races.sh [--seconds N]
# Looks for data races: runs the tests in which many threads share much, among them N seconds (60) of
# the storm (tests/engine/storm), under ThreadSanitizer. That needs a compiler beside the sources of
# its standard library: the toolchain at hand where it has the component rust-src, else the one that
# Debian packages, unpacked beside what cargo builds and not installed. docs/decisions/080 says how.
set -euo pipefail
cd "$(dirname "$0")/.."
. scripts/lib/common.sh

usage="usage: scripts/races.sh [--seconds N]" seconds=60
while [ $# -gt 0 ]; do
    case $1 in
        --seconds) seconds=${2:?$usage}; shift ;;
        *) die "$usage" ;;
    esac
    shift
done
install_packages gcc libc6-dev binutils
need_rust
build=${CARGO_TARGET_DIR:-$PWD/target}/races
host=$(rustc -vV | sed -n 's/^host: //p')
flags="-Zsanitizer=thread"

# depends PACKAGE PREFIX: the package that it depends on whose name begins so.
depends() { apt-cache depends "$1" | awk -v prefix="$2" '/Depends:/ && index($2, prefix) == 1 && !found++ { print $2 }'; }

# Unpacks Debian's compiler, its library's sources, and LLVM's run-time library for it.
unpack_toolchain() {
    local root=$build/toolchain library llvm
    apt-cache show rustc-web >/dev/null 2>&1 || as_root apt-get update -qq
    library=$(depends libstd-rust-web-dev libstd-rust-web-)
    llvm=$(depends "${library:-none}" libllvm)
    [ -n "$llvm" ] || die "there is no rust-src for $(rustc --version), and no package rustc-web"
    if [ ! -e "$root/$library" ]; then
        say "unpacking the compiler of $library"
        rm -rf "$root" && mkdir -p "$root/packages"
        (cd "$root/packages" && apt-get download -qq rustc-web libstd-rust-web-dev "$library" rust-web-src \
            "$llvm" "libclang-rt-${llvm#libllvm}-dev" 2>/dev/null) || die "apt-get could not download $library"
        local package
        for package in "$root"/packages/*.deb; do dpkg -x "$package" "$root"; done
        rm -r "$root/packages"
        touch "$root/$library"
    fi
    export RUSTC=$root/usr/bin/rustc LD_LIBRARY_PATH=$root/usr/lib/$(gcc -print-multiarch)
    local runtime=("$root"/usr/lib/llvm-*/lib/clang/*/lib/linux/"libclang_rt.tsan-${host%%-*}.a") argument
    flags+=" -Zexternal-clangrt"
    # GNU ld does not find the versions of symbols that the run-time library names; gold does.
    for argument in -fuse-ld=gold -Wl,--whole-archive "${runtime[0]}" -Wl,--no-whole-archive \
        -ldl -lm -lrt -lpthread -lresolv -lc; do
        flags+=" -Clink-arg=$argument"
    done
}
[ -d "$(rustc --print sysroot)/lib/rustlib/src/rust/library" ] || unpack_toolchain

export CARGO_TARGET_DIR=$build RUSTC_BOOTSTRAP=1 RUSTFLAGS=$flags STRONGROOM_STORM_SECONDS=$seconds
export TSAN_OPTIONS="exitcode=66 halt_on_error=0 external_symbolizer_path=$(command -v addr2line)"
# tests KIND FILTER...: those tests, none of whose threads may race.
tests() {
    local kind=$1
    shift
    say "$kind: $*"
    # shellcheck disable=SC2086 # a kind is one or two words
    cargo test --quiet --locked -Zbuild-std --target "$host" $kind -- --test-threads 2 "$@"
}
tests "--test engine" storm at_once files_survive
tests --lib pool::head block::space_tests block::readers tree:: volume:: sys::sync
say "no data race was found"
