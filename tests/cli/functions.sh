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

# start_daemon OPTION...: the real daemon on its loopback hypervisor, whose socket is $tmp/hyp; sets daemon.
start_daemon()
{
	"$ringdiskd" --foreground --hyp=loopback --loopback-socket="$tmp/hyp" --control-socket="$sock" \
		--driver-dir="$drivers" "$@" >"$tmp/daemon.log" 2>&1 &
	daemon=$!
	cleanup stop "$daemon"
	wait_for 20 test -S "$sock"
}

# follow_events FILE: from now on all events of the daemon come to FILE, an object a line; sets reader. Some are of
# nbd/0, by which it is known that the reader is there.
follow_events()
{
	"$ringdisk" -s "$sock" events --json >"$1" &
	reader=$!
	cleanup stop "$reader"
	truncate -s 1M "$tmp/heard.img"
	wait_for 20 is_heard "$1"
}

is_heard()
{
	ctl 0 export "raw:$tmp/heard.img" --path heard
	ctl 0 unexport nbd/0
	[ -s "$1" ]
}

# start_domain: domain 7 on that hypervisor, without a disk, until descriptor 9 is closed; sets domain.
start_domain()
{
	mkfifo "$tmp/domain.stdin"
	"$top_builddir/tests/loopback/domain" "$tmp/hyp" 7 <"$tmp/domain.stdin" >"$tmp/domain" &
	domain=$!
	exec 9>"$tmp/domain.stdin"
	cleanup stop "$domain"
	wait_for 20 grep -q ready "$tmp/domain"
}

# connected DISK
connected()
{
	"$ringdisk" -s "$sock" list "$1" >"$tmp/list" && grep -q connected "$tmp/list"
}

# requests DISK: how many reads and writes it has done.
requests()
{
	"$ringdisk" -s "$sock" stats --json "$1" | python3 -c 'import json, sys
disk = json.load(sys.stdin)["disks"][0]
print(disk["read"]["done"] + disk["write"]["done"])'
}

more_requests()
{
	[ "$(requests "$1")" -gt "$2" ]
}

# works DISK: its guest goes on.
works()
{
	wait_for 20 more_requests "$1" $(($(requests "$1") + 200))
}

# setting DISK KEY VALUE ORIGIN
setting()
{
	ctl 0 list --settings "$1"
	grep -Eq "^$1 +$2 +$3 +$4( |$)" "$tmp/out" || fail "$1: $2 is not $3 from $4: $(cat "$tmp/out")"
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
