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

# The real daemon on its loopback hypervisor, whose socket is $tmp/hyp.
start_daemon()
{
	"$ringdiskd" --foreground --hyp=loopback --loopback-socket="$tmp/hyp" --control-socket="$sock" \
		--driver-dir="$drivers" >"$tmp/daemon.log" 2>&1 &
	daemon=$!
	cleanup stop "$daemon"
	wait_for 20 test -S "$sock"
}

# exits STATUS COMMAND ARG...: it ends with that exit status; its output is in $tmp/out and $tmp/err.
exits()
{
	local expected=$1 status=0
	shift
	"$@" >"$tmp/out" 2>"$tmp/err" || status=$?
	[ "$status" = "$expected" ] || {
		cat "$tmp/out" "$tmp/err" >&2
		fail "$*: exit status $status, expected $expected"
	}
}

# ctl STATUS ARG...: run ringdisk, expect that exit status.
ctl()
{
	exits "$1" timeout 60 "$ringdisk" "${@:2}" --socket "$sock"
}

# says FILE TEXT: it must be there, as it stands.
says()
{
	grep -qF -e "$2" "$tmp/$1" || {
		cat "$tmp/$1" >&2
		fail "not in $1: $2"
	}
}
