#!/bin/bash
# The verbs against the real daemon with a guest that writes and verifies all the time: the disk is paused,
# moved to another image and set going again, and no byte is wrong; disks are attached and detached by hand.
. "${srcdir:-.}/functions.sh"
. "$srcdir/cli/functions.sh"

truncate -s 16M "$tmp/a.img"
truncate -s 1M "$tmp/b.img"
start_daemon

ctl 0 list
same "nothing is served yet" "no disks" "$(cat "$tmp/out")"
ctl 0 version
says out "on loopback"
ctl 1 attach 5 xvda "raw:$tmp/a.img"
says err "there is no domain 5"

# So many requests, not so many seconds: on a busy machine the guest is as slow as we are.
slow=delay,read-ms=1,write-ms=1
"$bench" --connect="$tmp/hyp" --no-progress -j verify -c 6000 5/xvda "$slow:raw:$tmp/a.img" >"$tmp/bench" 2>&1 &
guest=$!
cleanup stop "$guest"

# How many requests the disk has done.
count()
{
	"$ringdisk" -s "$sock" stats 5/xvda --json | python3 -c "import json, sys
disk = json.load(sys.stdin)['disks'][0]
print(disk['read']['done'] + disk['write']['done'])"
}
moves()
{
	[ "$(count)" -gt "$1" ]
}
wait_for 20 moves 100
ctl 0 list 5/xvda
grep -Eq '^5/xvda +connected +rw +16 MiB +1x[0-9]+ ' "$tmp/out" || fail "the list is wrong"

ctl 0 pause 5/xvda --timeout 30
before=$(count)
# Nothing moves now: each request is in the histogram once, and the quantiles are in order.
ctl 0 stats --histogram --json 5/xvda
python3 - "$tmp/out" <<'END' || fail "times are wrong"
import json, sys
disk = json.load(open(sys.argv[1]))["disks"][0]
for op in (disk["read"], disk["write"]):
    assert op["done"] == sum(count for end, count in op["histogram"]) == sum(op["latency"]), op
    ends = [end for end, count in op["histogram"]]
    assert ends == sorted(set(ends)) and op["max"] == ends[-1]
    assert op["p50"] <= op["p90"] <= op["p99"] <= op["p999"] <= op["max"]
    # The driver sleeps for a millisecond each time.
    assert op["p50"] > 1000000 and op["ns"] / op["done"] > 1000000, op
assert disk["flush"]["histogram"] == [] or disk["flush"]["p50"]
END
ctl 0 stats -H 5/xvda
says out "5/xvda write:"
says out " ms .. "
cp "$tmp/a.img" "$tmp/c.img"
ctl 0 list 5/xvda
grep -Eq '^5/xvda +paused .* 0  .*a.img$' "$tmp/out" || fail "it is not paused"
ctl 1 unpause 5/xvda "$slow:raw:$tmp/missing.img"
says err "missing.img: No such file or directory"
ctl 0 list 5/xvda
says out paused
same "requests while it was paused" "$before" "$(count)"
ctl 0 unpause 5/xvda "$slow:raw:$tmp/c.img" --timeout 30
wait_for 20 moves "$before"
ctl 0 list 5/xvda
says out "raw:$tmp/c.img"
ctl 0 set 5/xvda sync=on
ctl 0 list --settings 5/xvda
grep -Eq '^5/xvda +sync +on +set ' "$tmp/out" || fail "the setting's origin is wrong"

ctl 2 resize 5/xvda +4M --timeout 30
says err "images of this kind (delay) cannot be resized"
ctl 0 flush 5/xvda

# A second disk, which nobody uses.
ctl 0 attach 5 xvdb "raw:$tmp/b.img" --read-only
ctl 0 list 5/xvdb
grep -Eq '^5/xvdb +idle +ro ' "$tmp/out" || fail "5/xvdb is not there"
ctl 1 attach 5 xvdb "raw:$tmp/b.img"
says err "5/xvdb is there already"
ctl 1 attach 5 xvdc "raw:$tmp/missing.img"
says err "cannot attach 5/xvdc: raw: $tmp/missing.img: No such file or directory"
ctl 1 attach 5 xvdc "raw:$tmp/b.img" --kind other
says err "backend directory other is not served"
ctl 1 attach 5 xvdc "what:$tmp/b.img"
says err "raw"
ctl 2 resize 5/xvdb +1M
says err "the disk is read-only"
ctl 0 detach 5/xvdb
ctl 4 list 5/xvdb
says err "disks served here: 5/xvda"

wait "$guest" || {
	cat "$tmp/bench"
	fail "the guest has seen wrong data"
}
wait_for 20 grep -q verify "$tmp/bench"

# A disk that a guest works with grows, and the guest's requests are all right. The limit makes it slow.
"$bench" --connect="$tmp/hyp" --no-progress -j verify -c 30000 6/xvda "raw,iops=1000:$tmp/b.img" \
	>"$tmp/bench" 2>&1 &
guest=$!
cleanup stop "$guest"
wait_for 20 connected 6/xvda
ctl 0 list --settings 6/xvda
grep -Eq '^6/xvda +iops +1000 +params ' "$tmp/out" || fail "the limit's origin is wrong"
ctl 0 resize 6/xvda +1M --timeout 30
same "resize" "6/xvda has 2097152 bytes (2 MiB)" "$(cat "$tmp/out")"
same "the image" 2097152 "$(stat -c %s "$tmp/b.img")"
ctl 0 flush 6/xvda
ctl 0 set 6/xvda iops=0
wait "$guest" || {
	cat "$tmp/bench"
	fail "the guest of 6/xvda has seen wrong data"
}

ctl 0 shutdown
status=0
wait "$daemon" || status=$?
same "the daemon's exit status" 0 "$status"
[ ! -e "$sock" ] || fail "the socket is still there"
