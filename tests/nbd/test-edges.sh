#!/bin/bash
# Clients at the edges of a disk's life: it is paused when it is exported, it goes while slow requests run, its image
# takes long to open, its limits hold back many. None of that loses the image, starves anybody, or keeps a processor busy.
. "${srcdir:-.}/functions.sh"
. "$srcdir/cli/functions.sh"
. "$srcdir/nbd/functions.sh"

truncate -s 16M "$tmp/a.img" "$tmp/b.img" "$tmp/c.img" "$tmp/d.img"
start_daemon --shm-stats="$tmp"

export PYTHONPATH="$srcdir/nbd" PYTHONDONTWRITEBYTECODE=1

# Microseconds that the server's thread has run.
busy()
{
	local task
	for task in /proc/"$daemon"/task/*; do
		[ "$(cat "$task/comm")" != rd-nbd ] || awk '{ print int($1 / 1000) }' "$task/schedstat"
	done
}

# It sleeps when there is nothing to do.
is_idle()
{
	local before
	before=$(busy)
	sleep 1
	[ $(($(busy) - before)) -lt 20000 ] || fail "$1: the server's thread ran for $(($(busy) - before)) us of a second"
}

# ---- an image that takes long to open: it is looked at below, when the time for negotiating is over
ctl 0 export "delay,hang=open,nth=1,when=$tmp/hang,release=$tmp/go:raw:$tmp/a.img" --path slow
touch "$tmp/hang"
python3 - "$tmp/nbd/slow" <<'END' >"$tmp/late" 2>&1 &
import sys
from nbdclient import *
c = Client(sys.argv[1])
print(len(c.read(0, 4096)))
END
late=$!
cleanup stop "$late" KILL
began=$SECONDS

# ---- unexported while a call hangs and others stand behind it
ctl 0 export "delay,hang=read,nth=1,release=$tmp/back:raw:$tmp/d.img" --path going
python3 - "$tmp/nbd/going" "$tmp/paused" <<'END' >"$tmp/reader" 2>&1 &
import os, sys, time
from nbdclient import *
c = Client(sys.argv[1])
while not os.path.exists(sys.argv[2]):
    time.sleep(0.02)
for i in range(32):
    c.send(READ, i * 4096, 4096)
try:
    c.recv(1)
    print("answered")
except ConnectionError:
    print("closed")
END
reader=$!
cleanup stop "$reader" KILL
# field DISK KEY VALUE
field()
{
	[ "$(nbd_field "$1" "$2")" = "$3" ]
}
wait_for 20 has_clients nbd/1 1
ctl 0 pause nbd/1
touch "$tmp/paused"
wait_for 20 field nbd/1 waiting 32
ctl 0 unpause nbd/1
wait_for 20 field nbd/1 running 32
"$ringdisk" -s "$sock" unexport nbd/1 >"$tmp/unexport" 2>&1 &
unexport=$!
wait_for 20 test ! -e "$tmp/nbd/going"
touch "$tmp/back"
wait "$unexport" || fail "$(cat "$tmp/unexport")"
wait "$reader" || fail "the reader: $(cat "$tmp/reader")"
same "the reader's connection" closed "$(cat "$tmp/reader")"
"$rimg" resize --driver-dir "$drivers" "raw:$tmp/d.img" +1M >"$tmp/out" 2>&1 || fail "the image is not free: $(cat "$tmp/out")"

# ---- the image that takes long
while [ $((SECONDS - began)) -lt 11 ]; do
	sleep 0.2
done
kill -0 "$late" || fail "the client has not waited for its image: $(cat "$tmp/late")"
touch "$tmp/go"
wait "$late" || fail "$(cat "$tmp/late")"

stop "$daemon"
if grep -E "ERROR: |WARNING: Thread|runtime error" "$tmp/daemon.log"; then
	fail "the daemon's log"
fi
