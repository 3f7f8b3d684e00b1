# shellcheck shell=bash
# lib.sh - what setup, run and bench share: where things are, and how they complain.
#
# Sourced, never run. Every artefact lives in $rig, a directory under the build directory; nothing is
# written anywhere else, except the packages that setup installs.

rig= # set by rig_paths
here=$(cd "$(dirname "${BASH_SOURCE[0]}")" && pwd -P)
srcdir=$(cd "$here/../.." && pwd -P)
prog=tests/xen/$(basename "$0")

say() {
	printf '%s: %s\n' "$prog" "$*" >&2
}

die() {
	say "$*"
	exit 1
}

# What automake's test harness takes as "this machine cannot run it".
skip() {
	say "skipped: $*"
	exit 77
}

# rig_paths BUILDDIR: sets builddir and rig, made if missing.
rig_paths() {
	mkdir -p "$1" || die "cannot make the build directory $1"
	builddir=$(cd "$1" && pwd -P)
	rig=$builddir/xen-rig
	mkdir -p "$rig"
}

default_builddir() {
	printf '%s\n' "${RINGDISK_BUILDDIR:-$srcdir/build}"
}

# The rig needs an amd64 machine, root (apt, a private mount namespace) and 4 GiB for the emulated one.
check_machine() {
	[[ $(uname -m) == x86_64 ]] || skip "needs an x86_64 machine"
	[[ $(id -u) == 0 ]] || skip "needs root, for apt-get and for a mount namespace of its own"
	unshare -m true 2>/dev/null || skip "may not make a mount namespace (unshare -m)"
	local mib
	mib=$(awk '/^MemAvailable:/ { print int($2 / 1024) }' /proc/meminfo)
	[[ $mib -ge 4096 ]] || skip "needs 4 GiB of free memory, has $mib MiB"
}
