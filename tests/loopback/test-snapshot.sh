#!/bin/bash
# ringdisk snapshot and swap while a guest writes and verifies: overlays of every format on every format, and failures
# at each step, after which the disk goes on on the image that it had.
. "${srcdir:-.}/functions.sh"
. "$srcdir/cli/functions.sh"

mkdir "$tmp/elsewhere"
start_daemon --redo-dir="$tmp/redo"

# image DISK: what list says of it.
image()
{
	"$ringdisk" -s "$sock" list --json "$1" | python3 -c 'import json, sys
disk = json.load(sys.stdin)["disks"][0]
print(disk["state"], disk["params"])'
}

# guest DISK PARAMS: one that writes and verifies until it is told to stop.
guest()
{
	"$bench" --connect="$tmp/hyp" --no-progress --strict -t 600 -q 8 -b 16k -j verify:flush=20 "$1" "$2" \
		>"$tmp/bench" 2>&1 &
	guest=$!
	cleanup stop "$guest" INT
	wait_for 20 connected "$1"
}

# The guest ends, and has seen no error.
end_guest()
{
	kill -INT "$guest"
	wait "$guest" || true
	! grep -Eqi 'error|wrong|differ|fail|mismatch' "$tmp/bench" || fail "the guest: $(cat "$tmp/bench")"
	grep -q '^verify' "$tmp/bench" || fail "the guest did nothing: $(cat "$tmp/bench")"
}

checks()
{
	"$rimg" check --driver-dir="$drivers" "$1" >"$tmp/check" 2>&1 || fail "check $1: $(cat "$tmp/check")"
}

# Raw below vhd below vhd below qcow2, and the guest sees nothing of it.
truncate -s 16M "$tmp/a.img"
guest 5/xvda "raw:$tmp/a.img"
works 5/xvda
n=0
for overlay in vhd vhd qcow2,cluster-size=4K,cache-size=1M; do
	n=$((n + 1))
	ctl 0 snapshot 5/xvda --overlay "$overlay:$tmp/a$n.over"
	says out "5/xvda is now on ${overlay/,cluster-size=4K/}:$tmp/a$n.over"
	same "image" "connected ${overlay/,cluster-size=4K/}:$tmp/a$n.over" "$(image 5/xvda)"
	works 5/xvda
	sum[n]=$(cksum "$tmp/a.img" | cut -d' ' -f1)
done
same "the image below is not written to" "${sum[1]}" "${sum[3]}"

# What fails leaves no file, and the guest goes on.
still()
{
	same "image after a failure" "connected qcow2,cache-size=1M:$tmp/a3.over" "$(image 5/xvda)"
	works 5/xvda
}
ctl 1 snapshot 5/xvda --overlay "qcow2:$tmp/a1.over"
says err "is there already"
still
ctl 1 snapshot 5/xvda --overlay "raw:$tmp/new"
says err "cannot snapshot 5/xvda"
says err "goes on on the image that it had"
still
ctl 1 snapshot 5/xvda --overlay "vhd:$tmp/new"
says err "a parent is of format vhd or raw, not qcow2"
still
ctl 1 snapshot 5/xvda --overlay "qcow2,cluster-size=7:$tmp/new"
still
ctl 1 snapshot 5/xvda --overlay "qcow2,nonsense=1:$tmp/new"
says err "nonsense"
still
ctl 1 snapshot 5/xvda --overlay "qcow2:$tmp/missing/new"
says err "No such file"
still
ctl 1 snapshot 5/xvda --overlay "qcow2:$tmp/elsewhere/new"
says err "backing-dirs"
still
ctl 1 snapshot 5/xvda --overlay "qcow2:new"
says err "begins with /"
still
ctl 1 snapshot 5/xvda --overlay "nosuch:$tmp/new"
says err "there is no driver"
ctl 2 snapshot 5/xvda
says err "needs --overlay"
ctl 4 snapshot 6/xvda --overlay "qcow2:$tmp/new"
[ ! -e "$tmp/new" ] && [ ! -e "$tmp/elsewhere/new" ] || fail "a failure has left a file"

# Paused it stays paused.
ctl 0 pause 5/xvda
ctl 0 snapshot 5/xvda -o "qcow2:$tmp/a4.over"
same "paused" "paused qcow2:$tmp/a4.over" "$(image 5/xvda)"
ctl 0 unpause 5/xvda
works 5/xvda
end_guest
for i in 1 2; do
	checks "vhd:$tmp/a$i.over"
done
for i in 3 4; do
	checks "qcow2:$tmp/a$i.over"
done
if command -v qemu-img >/dev/null; then
	qemu-img info --output=json "$tmp/a4.over" | python3 -c 'import json, sys
info = json.load(sys.stdin)
assert (info["backing-filename"], info["backing-filename-format"]) == ("a3.over", "qcow2"), info'
fi

# A disk that nobody uses, one that may not be written, and one that is no file.
start_domain
ctl 0 attach 7 xvda "raw:$tmp/a.img"
ctl 0 snapshot 7/xvda -o "qcow2:$tmp/b.over"
same "idle" "idle qcow2:$tmp/b.over" "$(image 7/xvda)"
ctl 1 snapshot 7/xvda -o "qcow2,cluster-size=3:$tmp/c.over"
same "still" "idle qcow2:$tmp/b.over" "$(image 7/xvda)"
[ ! -e "$tmp/c.over" ] || fail "a failure has left a file"
ctl 0 detach 7/xvda
ctl 0 attach 7 xvda "raw:$tmp/a.img" --read-only
ctl 1 snapshot 7/xvda -o "qcow2:$tmp/c.over"
says err "read-only"
ctl 0 detach 7/xvda
ctl 0 attach 7 xvda "delay,read-ms=1:raw:$tmp/a.img"
ctl 1 snapshot 7/xvda -o "qcow2:$tmp/c.over"
says err "is no file"
ctl 0 detach 7/xvda
ctl 0 attach 7 xvda "raw,sector-size=4096:$tmp/a.img"
ctl 1 snapshot 7/xvda -o "qcow2:$tmp/c.over"
says err "sector-size=4096"
ctl 0 detach 7/xvda

# swap: a copy that was made meanwhile, and one that is not there.
truncate -s 16M "$tmp/s.img"
"$bench" --connect="$tmp/hyp" --no-progress -t 600 -j randread 8/xvda "raw:$tmp/s.img" >"$tmp/bench" 2>&1 &
guest=$!
cleanup stop "$guest" INT
wait_for 20 connected 8/xvda
works 8/xvda
cp "$tmp/s.img" "$tmp/s2.img"
truncate -s 32M "$tmp/s2.img"
follow_events "$tmp/events"
ctl 0 swap 8/xvda "raw:$tmp/s2.img"
same "swapped" "connected raw:$tmp/s2.img" "$(image 8/xvda)"
works 8/xvda
ctl 1 swap 8/xvda "raw:$tmp/missing.img"
says err "No such file"
ctl 1 swap 8/xvda "raw:$tmp/s.img"
says err "resize one of them"
same "not swapped" "connected raw:$tmp/s2.img" "$(image 8/xvda)"
works 8/xvda
ctl 0 list 8/xvda
says out "32 MiB"

# What is set while a swap takes its time is still set when it is done.
stands()
{
	local before
	before=$(requests 8/xvda)
	sleep 0.2
	[ "$(requests 8/xvda)" = "$before" ]
}
ctl 0 swap 8/xvda "delay,hang=close,release=$tmp/go:raw:$tmp/s2.img"
works 8/xvda
"$ringdisk" -s "$sock" swap 8/xvda "raw,bps=500M:$tmp/s2.img" >"$tmp/swap" 2>&1 &
swap=$!
cleanup stop "$swap"
wait_for 20 stands
ctl 0 set 8/xvda iops=54321
touch "$tmp/go"
wait "$swap" || fail "swap: $(cat "$tmp/swap")"
setting 8/xvda iops 54321 set
setting 8/xvda bps "(500M|524288000)" params
works 8/xvda
kill -INT "$guest"
wait "$guest" || true
! grep -Eqi 'error' "$tmp/bench" || fail "the guest: $(cat "$tmp/bench")"
