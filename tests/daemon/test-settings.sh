#!/bin/bash
# Where a setting comes from: configuration file, params and `ringdisk set`, each shown with its origin.
. "${srcdir:-.}/functions.sh"

cat >"$tmp/conf" <<CONF
[daemon]
hyp = loopback
log-level = err
[defaults]
max-queues = 2
sync = on
[disk "raw*:$tmp/a.img"]
sync = off
enospc = report
[disk "7/xvdb"]
poll = off
CONF
truncate -s 1M "$tmp/a.img" "$tmp/b.img"
"$ringdiskd" -f --config="$tmp/conf" --loopback-socket="$tmp/hyp" --control-socket="$tmp/ctl" \
	--driver-dir="$drivers" 2>"$tmp/err" &
daemon=$!
cleanup stop "$daemon" KILL
wait_for 20 test -S "$tmp/ctl"
mkfifo "$tmp/stdin"
"$top_builddir/tests/loopback/domain" "$tmp/hyp" 7 <"$tmp/stdin" >"$tmp/domain" &
exec 9>"$tmp/stdin"
wait_for 20 grep -q ready "$tmp/domain"

ctl()
{
	timeout 60 "$ringdisk" "$@" --socket "$tmp/ctl"
}

# setting DISK KEY VALUE ORIGIN
setting()
{
	ctl list --settings "$1" >"$tmp/list"
	grep -Eq "^$1 +$2 +$3 +$4( |$)" "$tmp/list" || {
		cat "$tmp/list" >&2
		fail "$1: $2 is not $3 from $4"
	}
}

ctl attach 7 xvda "raw,cache=unsafe:$tmp/a.img"
ctl attach 7 xvdb "raw:$tmp/b.img"
setting 7/xvda max-queues 2 config
setting 7/xvda sync off disk
setting 7/xvda enospc report disk
setting 7/xvda cache unsafe params
setting 7/xvda aio inline default
setting 7/xvdb sync on config
setting 7/xvdb poll off disk
setting 7/xvdb enospc pause default
ctl set 7/xvdb sync=off
setting 7/xvdb sync off set
expect_fail ctl set 7/xvdb sync=perhaps
setting 7/xvdb sync off set
# An option that is neither a setting nor the driver's is refused, and nothing is left of the attempt.
expect_fail ctl attach 7 xvdc "raw,cash=none:$tmp/b.img"
ctl list >"$tmp/list"
! grep -q xvdc "$tmp/list" || fail "a refused disk is listed"
exec 9>&-
stop "$daemon"
