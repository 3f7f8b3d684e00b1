# shellcheck shell=bash
# For shell tests: source it first.
#
#	. "${srcdir:-.}/functions.sh"
#	require qemu-img --version
#	start_it; cleanup kill "$pid"
#	wait_for 10 test -S "$tmp/control.sock"
#
# What it gives: a private directory $tmp below the build tree, removed at the end; the programs of this
# build as $ringdiskd, $ringdisk, $bench, $rimg and the drivers' directory as $drivers; strict mode.

set -euo pipefail
# Where a failure is told, also from inside a condition whose output nobody wants.
exec {errors}>&2

srcdir=${srcdir:-$(dirname "${BASH_SOURCE[0]}")}
top_srcdir=${top_srcdir:-$srcdir/..}
top_builddir=${top_builddir:-..}
top_srcdir=$(cd "$top_srcdir" && pwd)
top_builddir=$(cd "$top_builddir" && pwd)
srcdir=$top_srcdir/tests

# For the tests that source this.
# shellcheck disable=SC2034
{
	ringdiskd=$top_builddir/core/ringdiskd
	ringdisk=$top_builddir/tools/ringdisk
	bench=$top_builddir/tools/ringdisk-bench
	rimg=$top_builddir/tools/ringdisk-img
	drivers=$top_builddir/drivers/.libs
}

test_name=$(basename "$0" .sh)
# A socket's path has room for 107 bytes, some of them for nbd/NAME: when the build tree is too deep, the directory
# goes elsewhere.
tmp=$top_builddir/tests/tmp
[ ${#tmp} -le 44 ] || tmp=${TMPDIR:-/tmp}
mkdir -p "$tmp"
tmp=$(mktemp -d "$tmp/${test_name:0:24}.XXXXXX")

cleanups=()

# cleanup COMMAND ARG...: run it at the end, whatever happens; last added runs first.
cleanup()
{
	cleanups+=("$(printf '%q ' "$@")")
}

run_cleanups()
{
	local status=$? i

	trap - EXIT INT TERM HUP
	set +e
	for ((i = ${#cleanups[@]} - 1; i >= 0; i--)); do
		eval "${cleanups[i]}"
	done
	rm -rf "$tmp"
	exit "$status"
}
trap run_cleanups EXIT
trap 'exit 129' HUP
trap 'exit 130' INT
trap 'exit 143' TERM

# The tests end as automake wants it: 0 passed, 77 skipped, anything else failed.
skip()
{
	echo "SKIP: $*"
	exit 77
}

fail()
{
	echo "FAIL: $*" >&"$errors"
	exit 1
}

# require COMMAND ARG...: skip unless it succeeds. For what a machine may truly not have.
require()
{
	"$@" >/dev/null 2>&1 || skip "this machine fails: $*"
}

require_root()
{
	[ "$(id -u)" = 0 ] || skip "needs root"
}

# wait_for SECONDS COMMAND ARG...: until it succeeds; a failed test if that takes longer. Sanitizers are
# slow: they get four times the time.
wait_for()
{
	local limit=$1 deadline
	shift
	[ -z "${SANITIZE:-}" ] || limit=$((limit * 4))
	deadline=$((SECONDS + limit))
	until "$@" >/dev/null 2>&1; do
		[ "$SECONDS" -lt "$deadline" ] || fail "not within ${limit}s: $*"
		sleep 0.05
	done
}

# stop PID [SIGNAL]: end a process that this test started, and collect it. Fails if it does not go.
stop()
{
	local pid=$1 signal=${2:-TERM} i

	kill -"$signal" "$pid" 2>/dev/null || true
	for ((i = 0; i < 400; i++)); do
		if ! kill -0 "$pid" 2>/dev/null || [ "$(ps -o state= -p "$pid")" = Z ]; then
			wait "$pid" 2>/dev/null || true
			return 0
		fi
		sleep 0.05
	done
	kill -KILL "$pid" 2>/dev/null
	echo "process $pid did not end on SIG$signal" >&2
	return 1
}

# same WHAT EXPECTED GOT
same()
{
	[ "$2" = "$3" ] || fail "$1: expected '$2', got '$3'"
}

# expect_fail COMMAND ARG...: it must fail, but not crash.
expect_fail()
{
	local status=0

	"$@" || status=$?
	[ "$status" -ne 0 ] || fail "succeeded, but should not: $*"
	[ "$status" -lt 124 ] || fail "ended with $status: $*"
}
