#!/bin/bash
# ringdisk events against the real daemon: a disk's life, a wait for space, slow requests; and a reader that does not
# read, which harms nobody and is told what it lost.
. "${srcdir:-.}/functions.sh"
. "$srcdir/cli/functions.sh"

truncate -s 4M "$tmp/a.img" "$tmp/b.img"
start_daemon

follow_events "$tmp/events"
"$ringdisk" -s "$sock" events --count 1 6/xvda >"$tmp/other" &
other=$!
cleanup stop "$other"

# One that takes nothing.
python3 - "$sock" "$tmp/stopped" "$tmp/go" "$tmp/lost" <<'END' &
import json, os, socket, sys, time
s = socket.socket(socket.AF_UNIX)
s.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, 4096)
s.connect(sys.argv[1])
f = s.makefile("r", encoding="utf-8")
s.sendall(b'{"jsonrpc":"2.0","id":1,"method":"events"}\n')
assert json.loads(f.readline())["result"] == {"disk": None}
open(sys.argv[2], "w").close()
while not os.path.exists(sys.argv[3]):
    time.sleep(0.05)
numbers, lost = [], 0
while True:
    params = json.loads(f.readline())["params"]
    if params["event"] == "lost":
        lost += params["count"]
    else:
        numbers.append(params["number"])
        if params["event"] == "connect" and params["disk"] == "9/xvda":
            break
assert numbers == sorted(set(numbers))
assert lost > 0 and lost + len(numbers) == numbers[-1] - numbers[0] + 1, (lost, len(numbers), numbers[0], numbers[-1])
print(lost, file=open(sys.argv[4], "w"))
END
slow=$!
cleanup stop "$slow"
wait_for 20 test -e "$tmp/stopped"

"$bench" --connect="$tmp/hyp" --no-progress -j read -c 3 5/xvda "delay,read-ms=30,slow=20:raw:$tmp/a.img" \
	>"$tmp/bench" 2>&1 || fail "$(cat "$tmp/bench")"
gone()
{
	grep -q '"event":"detach".*"disk":"5/xvda"' "$tmp/events"
}
wait_for 20 gone
python3 - "$tmp/events" "$tmp/a.img" <<'END' || fail "events of 5/xvda are wrong"
import json, sys
lines = [line for line in map(json.loads, open(sys.argv[1])) if line["disk"] == "5/xvda"]
events = [line["event"] for line in lines]
assert [e for e in events if e != "slow"] == ["attach", "connect", "disconnect", "detach"], events
slow = [line for line in lines if line["event"] == "slow"]
assert len(slow) >= 1 and slow[0]["ns"] >= 20000000 and "read of 4096 bytes" in slow[0]["text"], slow
assert lines[0]["text"].endswith(":raw:" + sys.argv[2])
END

# A wait for space, told to the one who follows that disk.
"$bench" --connect="$tmp/hyp" --no-progress -j write -c 3 6/xvda \
	"error,op=write,errno=ENOSPC,nth=2,count=1:raw:$tmp/a.img" >"$tmp/bench" 2>&1 &
guest=$!
cleanup stop "$guest"
waits()
{
	grep -q '"event":"wait".*"disk":"6/xvda"' "$tmp/events"
}
wait_for 20 waits
grep -q '6/xvda.*ringdisk unpause 6/xvda' "$tmp/events" || fail "it is not told what to do"
ctl 0 unpause 6/xvda
wait "$guest" || fail "$(cat "$tmp/bench")"
wait "$other" || fail "events --count 1"
grep -Eq '^20[-0-9]+T[:0-9.]+Z 6/xvda attach: error,op=write' "$tmp/other" || fail "6/xvda: $(cat "$tmp/other")"

# More than is kept for the reader that sleeps.
"$bench" --connect="$tmp/hyp" --no-progress -j read:time=600 7/xvda "raw,iops=1:$tmp/b.img" >"$tmp/bench" 2>&1 &
guest=$!
cleanup stop "$guest" KILL
wait_for 20 connected 7/xvda
python3 - "$sock" <<'END'
import json, socket, sys
s = socket.socket(socket.AF_UNIX)
s.connect(sys.argv[1])
f = s.makefile("rw", encoding="utf-8")
for i in range(1000):
    for method in "pause", "unpause":
        print(json.dumps({"jsonrpc": "2.0", "id": i, "method": method, "params": {"disk": "7/xvda"}}), file=f, flush=True)
        assert "result" in json.loads(f.readline())
END
touch "$tmp/go"
"$bench" --connect="$tmp/hyp" --no-progress -j read -c 3 9/xvda "raw:$tmp/a.img" >"$tmp/bench9" 2>&1 ||
	fail "$(cat "$tmp/bench9")"
wait "$slow" || fail "the reader that slept"
[ "$(cat "$tmp/lost")" -ge 1 ]
stop "$guest" KILL
stop "$reader"
