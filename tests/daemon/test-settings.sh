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
# An option that is neither a setting nor the driver's is refused, and nothing is left of the attempt.
ctl 1 attach 7 xvdc "raw,cash=none:$tmp/b.img"
ctl 0 list
! grep -q xvdc "$tmp/out" || fail "a refused disk is listed"
exec 9>&-
stop "$daemon"
