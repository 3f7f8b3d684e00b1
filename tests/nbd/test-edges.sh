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

# It sleeps when there is nothing to do: of a second it has run for less than a tenth. One that never sleeps gets more
# even of a busy machine.
sleeps()
{
	local before
	before=$(busy)
	sleep 1
	[ $(($(busy) - before)) -lt 100000 ]
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

# ---- a paused disk: who may come now waits as those do who were there
"$bench" --connect="$tmp/hyp" --no-progress -j read --offset=0 --size=8M -q 8 -t 600 5/xvda \
	"delay,write-ms=500:raw:$tmp/b.img" >"$tmp/bench" 2>&1 &
guest=$!
cleanup stop "$guest" KILL
wait_for 20 connected 5/xvda
ctl 0 pause 5/xvda
ctl 0 export 5/xvda
python3 - "$tmp/nbd/5-xvda" <<'END' >"$tmp/writer" 2>&1 &
import sys
from nbdclient import *
c = Client(sys.argv[1])
c.write(12 << 20, b"x" * 4096)
c.flush()
print("done")
END
writer=$!
cleanup stop "$writer" KILL
waits_or_runs()
{
	[ "$(nbd_field 5/xvda waiting)$(nbd_field 5/xvda running)" != 00 ]
}
wait_for 20 waits_or_runs
same "running while paused" 0 "$(nbd_field 5/xvda running)"
ctl 0 unpause 5/xvda "raw:$tmp/c.img"
wait "$writer" || fail "the writer: $(cat "$tmp/writer")"
same "bytes in the image that was there" "" "$(tr -d '\0' <"$tmp/b.img")"
same "bytes in the new one" 4096 "$(tr -d '\0' <"$tmp/c.img" | wc -c)"
# What xentop reads of it: never more is done than was asked for.
python3 - "$tmp"/td3-*/vbd-5-51712 <<'END' || fail "the shared counters"
import struct, sys
submitted, completed = struct.unpack("<QQ", open(sys.argv[1], "rb").read()[48:64])
assert submitted >= completed == 1, (submitted, completed)
END
kill -TERM "$guest"
wait "$guest" || true

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

# ---- limits: whose client has gone is forgotten; and of many who wait each has its turn
ctl 0 export "raw,iops=1:$tmp/d.img" --path limited
python3 - "$tmp/nbd/limited" <<'END'
import sys
from nbdclient import *
c = Client(sys.argv[1])
for i in range(8):
    c.send(READ, 0, 512)
c.answer()
END
wait_for 20 has_clients nbd/1 0
sleep 1
wait_for 20 sleeps
ctl 0 unexport nbd/1

for i in {0..66}; do
	"$ringdisk" -s "$sock" export "raw,iops=1:$tmp/d.img" --read-only --path "many$i" >/dev/null
done
python3 - "$tmp/nbd/many" <<'END' >"$tmp/many" 2>&1 || fail "$(cat "$tmp/many")"
import sys
from nbdclient import *
clients = [Client(sys.argv[1] + str(i), timeout=20) for i in range(67)]
for c in reversed(clients):
    for i in range(30):
        c.send(READ, 0, 512)
for i in range(3):
    for c in clients[:2]:
        c.answer()
        c.recv(512)
END
ctl 0 stats

# ---- the image that takes long
while [ $((SECONDS - began)) -lt 11 ]; do
	sleep 0.2
done
wait_for 20 sleeps
kill -0 "$late" || fail "the client has not waited for its image: $(cat "$tmp/late")"
touch "$tmp/go"
wait "$late" || fail "$(cat "$tmp/late")"

stop "$daemon"
if grep -E "ERROR: |WARNING: Thread|runtime error" "$tmp/daemon.log"; then
	fail "the daemon's log"
fi
