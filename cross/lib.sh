# Sourced by the scripts beside it, which have set -eu and cd'ed to the project's folder.
# shellcheck shell=sh disable=SC2034 # the variables are for those who source this

# The compiler and linker for every target, from PyPI, into a folder of the project's own.
ZIGBUILD='cargo-zigbuild==0.24.0'
ZIG='ziglang==0.15.2' # the last with musl's own C code throughout

WORK=$PWD/target/cross # everything downloaded or built on the way; dist/ has the results
TARGETS=$PWD/cross/targets

say() { printf 'cross: %s\n' "$*" >&2; }
die() {
    printf 'cross: %s\n' "$*" >&2
    exit 1
}

# The known triples, one a line.
triples() { awk '$1 !~ /^#/ && NF { print $1 }' "$TARGETS"; }

# field TRIPLE N: the N-th column of its line in cross/targets.
field() { awk -v t="$1" -v n="$2" '$1 == t { print $n }' "$TARGETS"; }

# Ends with the list of known names unless $1 is one of them.
check_triple() {
    [ -n "$(field "$1" 1)" ] && return
    say "no target named '$1'; known: $(triples | tr '\n' ' ')"
    exit 2
}

# need COMMAND PACKAGE: installs Debian's PACKAGE when COMMAND is missing and that is possible.
need() {
    command -v "$1" >/dev/null && return
    apt_install "$2" && command -v "$1" >/dev/null && return
    die "$1 is missing: apt-get install $2"
}

# Installs Debian packages if we may. Quiet: whoever calls it has the words for a failure.
apt_install() {
    [ "$(id -u)" = 0 ] && command -v apt-get >/dev/null || return 1
    say "installing $*"
    apt_quiet install --no-install-recommends "$@" && return
    apt_quiet update && apt_quiet install --no-install-recommends "$@"
}
apt_quiet() { DEBIAN_FRONTEND=noninteractive apt-get -qq -y "$@" >/dev/null 2>&1; }
