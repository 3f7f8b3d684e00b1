#!/bin/bash
# What changes on the screen: the line that shows what a slow verb waits for, only on a terminal; and
# stats --watch.
. "${srcdir:-.}/functions.sh"
. "$srcdir/cli/functions.sh"

start_fake_daemon

ctl 5 pause 5/xvdc --timeout 1.5
same "no progress line without a terminal" 1 "$(wc -l <"$tmp/err")"
if script --version >/dev/null 2>&1; then
	script -qec "'$ringdisk' -s '$sock' -t 1.5 pause 5/xvdc" "$tmp/typescript" </dev/null >/dev/null || true
	grep -qF "waiting for 5/xvdc: connected, 0 requests in flight" "$tmp/typescript" ||
		fail "a terminal is not told what is waited for"
fi

"$ringdisk" -s "$sock" stats --watch 0.1 >"$tmp/watch" &
watcher=$!
cleanup stop "$watcher"
several_tables()
{
	[ "$(grep -c '^DISK ' "$tmp/watch")" -ge 3 ]
}
wait_for 10 several_tables
grep -Eq '^5/xvda +0 +0 B +- ' "$tmp/watch" || fail "no rates"
# It ends with the daemon.
ctl 0 shutdown
status=0
wait "$watcher" || status=$?
same "status at the daemon's end" 3 "$status"
