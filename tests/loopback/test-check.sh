#!/bin/bash
# ringdisk check and set cache= while a guest writes and verifies; then save and load of what was attached by hand.
. "${srcdir:-.}/functions.sh"
. "$srcdir/cli/functions.sh"

start_daemon --redo-dir="$tmp/redo"
"$rimg" create --driver-dir="$drivers" "qcow2:$tmp/a.qcow2" 16M >/dev/null
truncate -s 1M "$tmp/b.img" "$tmp/c.img"

"$bench" --connect="$tmp/hyp" --no-progress --strict -t 600 -q 8 -b 16k -j verify:flush=20 5/xvda \
	"qcow2:$tmp/a.qcow2" >"$tmp/bench" 2>&1 &
guest=$!
cleanup stop "$guest" INT
wait_for 20 connected 5/xvda
for cache in unsafe writeback; do
	works 5/xvda
	ctl 0 check 5/xvda
	says out "5/xvda: no errors"
	grep -Eq '5/xvda: [0-9]+ of 256 clusters' "$tmp/out" || fail "check: $(cat "$tmp/out")"
	works 5/xvda
	ctl 0 set 5/xvda "cache=$cache"
	says out "cache=$cache, at once"
	setting 5/xvda cache "$cache" set
	works 5/xvda
done
ctl 0 check 5/xvda --json
python3 -c 'import json, sys
result = json.load(sys.stdin)
assert result["errors"] == 0 and 0 < result["allocated"] <= result["clusters"] == 256, result' <"$tmp/out"
ctl 2 set 5/xvda cache=sometimes
setting 5/xvda cache writeback set
ctl 0 pause 5/xvda
ctl 0 check 5/xvda
ctl 0 list 5/xvda
says out paused
ctl 0 unpause 5/xvda
works 5/xvda
# Of what it does not open for, it says so, and goes on as it was.
mv "$tmp/a.qcow2" "$tmp/away"
ctl 2 set 5/xvda cache=unsafe
says err "No such file"
mv "$tmp/away" "$tmp/a.qcow2"
setting 5/xvda cache writeback set
ctl 0 list 5/xvda
says out paused
ctl 0 unpause 5/xvda "qcow2:$tmp/a.qcow2"
works 5/xvda
kill -INT "$guest"
wait "$guest" || true
! grep -Eqi 'error|wrong|differ|fail|mismatch' "$tmp/bench" || fail "the guest: $(cat "$tmp/bench")"

# What was answered to a guest that never flushes is in the file of a paused disk: it goes on on a copy.
for format in qcow2 vhd; do
	"$rimg" create --driver-dir="$drivers" "$format:$tmp/fresh" 256M >/dev/null
	"$bench" --connect="$tmp/hyp" --no-progress -t 600 -q 8 -b 16k -j verify 6/xvda "$format:$tmp/fresh" \
		>"$tmp/bench" 2>&1 &
	guest=$!
	cleanup stop "$guest" INT
	wait_for 20 connected 6/xvda
	works 6/xvda
	ctl 0 pause 6/xvda
	cp --sparse=always "$tmp/fresh" "$tmp/copy"
	ctl 0 unpause 6/xvda "$format:$tmp/copy"
	works 6/xvda
	kill -INT "$guest"
	wait "$guest" || true
	! grep -Eqi 'error|wrong|differ|fail|mismatch' "$tmp/bench" || fail "$format, the guest: $(cat "$tmp/bench")"
	rm "$tmp/fresh" "$tmp/copy"
done

# By hand, and back.
start_domain
ctl 0 attach 7 xvda "raw:$tmp/b.img"
ctl 0 attach 7 xvdb "raw:$tmp/c.img" --read-only
ctl 0 attach 7 xvdc "qcow2:$tmp/a.qcow2"
ctl 0 set 7/xvdb iops=77 bps=3M
ctl 1 check 7/xvda
says err "have nothing to check"
# What was refused is no error of the disk.
ctl 7 unpause 7/xvda
ctl 2 resize 7/xvdb 4K
says err "read-only"
ctl 0 list
! grep -q "^7/.*: " "$tmp/out" || fail "a refusal is shown as an error: $(cat "$tmp/out")"
ctl 0 check 7/xvdc
says out "no errors"
ctl 0 save "$tmp/saved.json"
same "save" "3 disks in $tmp/saved.json" "$(cat "$tmp/out")"
ctl 0 save
python3 -m json.tool <"$tmp/out" >/dev/null || fail "not JSON: $(cat "$tmp/out")"
ctl 0 detach 7/xvdb
ctl 0 detach 7/xvda
rm "$tmp/b.img"
ctl 1 load "$tmp/saved.json"
says out "7/xvda skipped, or not all of it done"
says err "cannot attach 7/xvda"
says out "7/xvdb attached"
says out "7/xvdc skipped: it is there already"
setting 7/xvdb iops 77 set
setting 7/xvdb bps "(3M|3145728)" set
ctl 0 list 7/xvdb
grep -Eq '^7/xvdb +idle +ro ' "$tmp/out" || fail "not read-only: $(cat "$tmp/out")"
echo '{"disks": 1}' >"$tmp/other.json"
ctl 1 load "$tmp/other.json"
says err "this is not what 'ringdisk save' writes"
ctl 1 load "$tmp/missing.json"

# What stands behind a detach on the disk's strand finds no disk: it makes no snapshot, resizes nothing, and exports
# nothing that would outlive it.
truncate -s 1M "$tmp/d.img"
ctl 0 attach 7 xvdd "delay,open-ms=50:raw:$tmp/d.img"
python3 - "$sock" <<'END' || fail "behind a detach"
import json, socket, sys, threading
def connect():
    s = socket.socket(socket.AF_UNIX)
    s.settimeout(100)
    s.connect(sys.argv[1])
    return s, s.makefile("r", encoding="utf-8")
def send(s, method, **params):
    s.sendall(json.dumps({"jsonrpc": "2.0", "id": method, "method": method, "params": params}).encode() + b"\n")
def detach():
    s, f = connect()
    send(s, "detach", disk="7/xvdd")
    assert "result" in json.loads(f.readline())
s, f = connect()
sent, running, exported, gone = 0, 0, 0, False
thread = threading.Thread(target=detach)
# Always many in the queue, for they take their time, so that some stand behind what ends the disk.
while running or not gone:
    while running < 14 and not gone:
        send(s, "export" if sent % 2 else "resize", disk="7/xvdd")
        sent += 1
        running += 1
    answer = json.loads(f.readline())
    running -= 1
    if answer["id"] == "export" and "result" in answer:
        exported += 1
        if exported == 1:
            thread.start()
    gone = gone or answer.get("error", {}).get("data", {}).get("what") == "no-such-disk"
thread.join()
assert exported == 1, f"exported {exported} times"
END
[ ! -e "$tmp/nbd/7-xvdd" ] || fail "the socket of a disk that has gone"
