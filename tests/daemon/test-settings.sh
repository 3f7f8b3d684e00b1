#!/bin/bash
# Where a setting comes from: configuration file, params and `ringdisk set`, each shown with its origin.
. "${srcdir:-.}/functions.sh"
. "$srcdir/cli/functions.sh"

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
start_daemon --config="$tmp/conf"
start_domain

ctl 0 attach 7 xvda "raw,cache=unsafe:$tmp/a.img"
ctl 0 attach 7 xvdb "raw:$tmp/b.img"
setting 7/xvda max-queues 2 config
setting 7/xvda sync off disk
setting 7/xvda enospc report disk
setting 7/xvda cache unsafe params
setting 7/xvda aio inline default
setting 7/xvdb sync on config
setting 7/xvdb poll off disk
setting 7/xvdb enospc pause default
ctl 0 set 7/xvdb sync=off
setting 7/xvdb sync off set
ctl 2 set 7/xvdb sync=perhaps
setting 7/xvdb sync off set
# Errors, their timeout and polling, live. A number that is none changes nothing.
for pair in on-error=pause on-error=report error-timeout=30 error-timeout=0 poll=off poll=adaptive enospc=report; do
	ctl 0 set 7/xvdb $pair
	same "answer to $pair" "7/xvdb $pair, at once" "$(cat "$tmp/out")"
	setting 7/xvdb "${pair%=*}" "${pair#*=}" set
done
for pair in on-error=perhaps error-timeout=soon error-timeout=-1 poll=on enospc=; do
	ctl 2 set 7/xvdb "$pair"
done
setting 7/xvdb error-timeout 0 set
# Nobody is connected: discard is for who connects.
ctl 0 set 7/xvdb discard=off
same "answer to discard" "7/xvdb discard=off, at the next connect" "$(cat "$tmp/out")"
setting 7/xvdb discard ignore set
ctl 0 set 7/xvdb discard=on
setting 7/xvdb discard unmap set

# What is in force, and where it came from.
from()
{
	ctl 0 config "${@:4}"
	grep -Eq "^$1 +$2 +$3$" "$tmp/out" || fail "config does not say $1 $2 $3: $(cat "$tmp/out")"
}
from daemon control-socket "$sock +command line"
from defaults max-queues "2 +$tmp/conf:[0-9]+"
expect_fail grep -q workers "$tmp/out"
from daemon max-workers "64 +default" --all
ctl 0 log-level ring debug
from daemon log-level "err,ring=debug +live"
ctl 0 log-level ring err
printf '[daemon]\nmax-workers = 77\n' >"$tmp/conf"
kill -HUP "$daemon"
reloaded()
{
	"$ringdisk" -s "$sock" config | grep -c 'after a restart: 77' >/dev/null
}
wait_for 20 reloaded
from daemon max-workers "64 +default; after a restart: 77"
expect_fail grep -q '^defaults' "$tmp/out"

# An option that is neither a setting nor the driver's is refused, and nothing is left of the attempt.
ctl 1 attach 7 xvdc "raw,cash=none:$tmp/b.img"
ctl 0 list
! grep -q xvdc "$tmp/out" || fail "a refused disk is listed"
exec 9>&-
stop "$daemon"
