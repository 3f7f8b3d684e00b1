#!/bin/bash
# A daemon under random changes of states, nodes, domains and store connections, with I/O in flight: it
# lives, gives everything back, and serves the next disk. STORM_CHANGES=100000 is the long version.
. "${srcdir:-.}/functions.sh"

changes=${STORM_CHANGES:-3000}
seed=${STORM_SEED:-$RANDOM}
truncate -s 16M "$tmp/disk.img"
"$ringdiskd" --foreground --hyp=loopback --loopback-socket="$tmp/hyp" --control-socket="$tmp/ctl" \
	--driver-dir="$drivers" --log-level=err --pid-file="$tmp/pid" >"$tmp/log" 2>&1 &
daemon=$!
cleanup stop "$daemon" KILL
wait_for 10 test -S "$tmp/ctl"

threads()
{
	find "/proc/$daemon/task" -mindepth 1 -maxdepth 1 | wc -l
}

files()
{
	find "/proc/$daemon/fd" -mindepth 1 -maxdepth 1 | wc -l
}

at_most()
{
	[ "$("$1")" -le "$2" ]
}

# The pools keep what threads they have grown for a while: a first storm grows them.
storm()
{
	timeout 600 "$top_builddir/tests/loopback/storm" "$tmp/hyp" "$tmp/disk.img" "$@" || {
		tail -5 "$tmp/log"
		fail "storm $*"
	}
}

storm $((changes / 10)) "$seed"
before=$(files)
storm "$changes" $((seed + 1))
kill -0 "$daemon" || fail "the daemon died: $(tail -5 "$tmp/log")"
wait_for 30 at_most files "$before"
# main, rd-loopback, rd-watch, rd-xenbus, rd-admin, two control threads, and the workers
wait_for 60 at_most threads $((7 + $(nproc) + 4))
same disks "no disks" "$("$ringdisk" list --socket "$tmp/ctl")"
# Guests caused all of that: the log may not have grown with it.
[ "$(wc -c <"$tmp/log")" -lt 200000 ] || fail "the log has $(wc -c <"$tmp/log") bytes"
stop "$daemon"
! grep -E 'Sanitizer|runtime error' "$tmp/log"
