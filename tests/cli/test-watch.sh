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

# On a terminal tables; else one header, and a line for each disk and interval.
if script --version >/dev/null 2>&1; then
	script -qec "timeout 3 '$ringdisk' -s '$sock' stats --watch 0.3" "$tmp/typescript" </dev/null >/dev/null || true
	[ "$(grep -c '^DISK ' "$tmp/typescript")" -ge 2 ] || fail "no tables on a terminal"
	grep -Eq '^5/xvda +0 +0 B +- ' "$tmp/typescript" || fail "no rates on a terminal"
fi
"$ringdisk" -s "$sock" stats --watch 0.1 >"$tmp/watch" &
watcher=$!
cleanup stop "$watcher"
several_lines()
{
	[ "$(grep -c ' 5/xvda ' "$tmp/watch")" -ge 3 ]
}
wait_for 10 several_lines
same "header" "TIME DISK READS READ_BYTES READ_P50 READ_P99 WRITES WRITE_BYTES WRITE_P50 WRITE_P99 FLUSHES ERRORS" \
	"$(sed -n 1p "$tmp/watch")"
same "headers" 1 "$(grep -c '^TIME' "$tmp/watch")"
awk 'NR > 1 && (NF != 12 || $1 !~ /^[0-9]+\.[0-9][0-9][0-9]$/ || $2 !~ /\//) { print; bad = 1 } END { exit bad }' "$tmp/watch" ||
	fail "lines that are none"
# It ends with the daemon.
ctl 0 shutdown
status=0
wait "$watcher" || status=$?
same "status at the daemon's end" 3 "$status"
