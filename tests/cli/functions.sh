# shellcheck shell=bash
# For the tests of the command ringdisk: source it after ../functions.sh.
# shellcheck disable=SC2154

sock=$tmp/control.sock

# The admin socket in front of disks that are not there (tests/unit/fake-daemon.c).
start_fake_daemon()
{
	mkfifo "$tmp/stdin"
	"$top_builddir/tests/unit/fake-daemon" "$sock" <"$tmp/stdin" >"$tmp/daemon.out" 2>"$tmp/daemon.log" &
	daemon=$!
	exec 9>"$tmp/stdin"
	cleanup stop "$daemon"
	wait_for 10 grep -q ready "$tmp/daemon.out"
}

# ctl STATUS ARG...: run it, expect that exit status; its output is in $tmp/out and $tmp/err.
ctl()
{
	local expected=$1 status=0
	shift
	timeout 60 "$ringdisk" "$@" --socket "$sock" >"$tmp/out" 2>"$tmp/err" || status=$?
	[ "$status" = "$expected" ] || {
		cat "$tmp/out" "$tmp/err" >&2
		fail "ringdisk $*: exit status $status, expected $expected"
	}
}

# says FILE TEXT: it must be there, as it stands.
says()
{
	grep -qF -e "$2" "$tmp/$1" || {
		cat "$tmp/$1" >&2
		fail "not in $1: $2"
	}
}
