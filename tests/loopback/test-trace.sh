#!/bin/bash
# ringdisk trace: every request of a guest once, in order, with its result; the filters; and off when nobody looks.
. "${srcdir:-.}/functions.sh"
. "$srcdir/cli/functions.sh"

truncate -s 16M "$tmp/a.img"
start_daemon

"$bench" --connect="$tmp/hyp" --no-progress -t 600 -j randread:qd=2 5/xvda "raw,iops=200,burst=50:$tmp/a.img" \
	>"$tmp/bench" 2>&1 &
guest=$!
cleanup stop "$guest" INT
wait_for 20 connected 5/xvda

ctl 0 trace 5/xvda --json --count 100
python3 - "$tmp/out" <<'END' || fail "not what the guest does: $(head -n 3 "$tmp/out")"
import json, sys
lines = [json.loads(line) for line in open(sys.argv[1])]
assert len(lines) == 100
for r in lines:
    assert (r["op"], r["bytes"], r["status"], r["queue"]) == ("read", 4096, "ok", 0), r
    assert 0 <= r["sector"] <= 32768 - 8 and r["sector"] % 8 == 0 and r["ns"] > 0, r
times = [r["time_us"] for r in lines]
# 200 a second, whatever else the machine does.
assert times[-1] - times[0] > 200000, times[-1] - times[0]
assert all(b - a > -50000 for a, b in zip(times, times[1:]))
END
ctl 0 trace 5/xvda -n 3
grep -Eqx '[0-9:]{8}\.[0-9]{6} read +sector +[0-9]+ +4096 bytes +[0-9.]+ [mun]?s  ok, queue 0, id [0-9]+' "$tmp/out" ||
	fail "as text: $(cat "$tmp/out")"
ctl 2 trace 5/xvda --op read,wrote
says err "are no operations"
ctl 4 trace 6/xvda
stop "$guest" INT

# The filters: one read fails, all of them are slow, and nobody writes.
"$bench" --connect="$tmp/hyp" --no-progress -t 600 -j randread 5/xvda \
	"error,iops=20,burst=50,op=read,errno=EIO,nth=40,count=1:delay,read-ms=5:raw:$tmp/a.img" >"$tmp/bench" 2>&1 &
guest=$!
cleanup stop "$guest" INT
wait_for 20 connected 5/xvda
"$ringdisk" -s "$sock" trace 5/xvda --json --op write >"$tmp/writes" 2>"$tmp/err" &
writes=$!
cleanup stop "$writes" INT
ctl 0 trace 5/xvda --json --slower-than 5 -n 2 --op read,flush
ctl 0 trace 5/xvda --json --errors -n 1
grep -q '"status":"EIO"' "$tmp/out" || fail "no error: $(cat "$tmp/out")"
stop "$guest" INT

# It ends with the disk, and has seen no write.
ended()
{
	! kill -0 "$writes"
}
wait_for 20 ended
status=0
wait "$writes" || status=$?
same "status when the disk is gone" 4 "$status"
! grep -q '"op"' "$tmp/writes" || fail "writes: $(cat "$tmp/writes")"
