#!/bin/bash
# A file system that is really full under a guest that writes: the disk waits, whichever step met it, goes on when there
# is room and the operator says so, and nothing is lost by it.
if [ -z "${NO_SPACE_MOUNTS:-}" ] && unshare -m true 2>/dev/null; then
	NO_SPACE_MOUNTS=1 exec unshare -m "$BASH" "$0"
fi
. "${srcdir:-.}/functions.sh"
. "$srcdir/cli/functions.sh"

[ -n "${NO_SPACE_MOUNTS:-}" ] || skip "no mount namespace of our own"
mkdir "$tmp/small"
mount -t tmpfs -o size=4m none "$tmp/small" 2>/dev/null || skip "nothing can be mounted"
cleanup umount "$tmp/small"
rounds=12

parked()
{
	[ "$(grep -c '"event":"wait"' "$tmp/events")" -gt "$1" ]
}

# Pieces of different sizes, so that what comes back ends at one step or another.
fill_up()
{
	local i
	for ((i = 0; i < rounds; i++)); do
		dd if=/dev/zero of="$tmp/small/ballast.$i" bs=4096 count=$((1 + i * 7 % 12)) status=none
	done
}

# full DISK IMAGE OPTION...: the image, made with these options, becomes full over and over.
full()
{
	local disk=$1 image=$2 i seen
	shift 2
	mount -o remount,size=4m "$tmp/small"
	"$rimg" create -q --driver-dir="$drivers" "$@" "$image" 64M
	fill_up
	follow_events "$tmp/events"
	"$bench" --connect="$tmp/hyp" --no-progress --strict -q 8 -b 16k -c 1500 -j verify:flush=20 "$disk" "$image" \
		>"$tmp/bench" 2>&1 &
	guest=$!
	cleanup stop "$guest" INT
	for ((i = 0; i < rounds; i++)); do
		seen=$i
		wait_for 60 parked "$seen"
		kill -0 "$guest" || fail "$image: the guest did not wait: $(cat "$tmp/bench")"
		ctl 0 list "$disk"
		says out "no space: writes wait"
		rm "$tmp/small/ballast.$i"
		ctl 0 unpause "$disk"
	done
	wait_for 60 parked "$rounds"
	# In vain: it waits again.
	ctl 0 unpause "$disk"
	wait_for 60 parked $((rounds + 1))
	mount -o remount,size=100m "$tmp/small"
	ctl 0 unpause "$disk"
	wait "$guest" || fail "$image: $(cat "$tmp/bench")"
	stop "$reader"
	# Said once each time, however many requests found no space.
	[ "$(grep -c '"event":"wait"' "$tmp/events")" -eq $((rounds + 2)) ] || fail "$image: $(cat "$tmp/events")"
	"$rimg" check --driver-dir="$drivers" "$image" >"$tmp/check" 2>&1 || fail "$image: $(cat "$tmp/check")"
}

start_daemon --redo-dir="$tmp/redo"
full 5/xvda "qcow2:$tmp/small/a.qcow2" -o cluster-size=4096
if command -v qemu-img >/dev/null; then
	qemu-img check -q "$tmp/small/a.qcow2" || fail "qemu-img check: status $?"
fi
rm "$tmp/small/a.qcow2"
full 6/xvda "vhd:$tmp/small/b.vhd" -o block-size=16384

# A guest that never flushes: its tables are in memory. Another image would be without what was answered.
rm "$tmp/small"/*
mount -o remount,size=4m "$tmp/small"
"$rimg" create -q --driver-dir="$drivers" "qcow2:$tmp/small/c.qcow2" 64M
"$rimg" create -q --driver-dir="$drivers" "qcow2:$tmp/other" 64M
"$bench" --connect="$tmp/hyp" --no-progress -q 4 -b 256k -c 100 -j write 7/xvda "qcow2:$tmp/small/c.qcow2" \
	>"$tmp/bench" 2>&1 &
guest=$!
cleanup stop "$guest" INT
waits()
{
	"$ringdisk" -s "$sock" list 7/xvda >"$tmp/list" && grep "7/xvda: no space" "$tmp/list"
}
wait_for 60 waits
ctl 1 swap 7/xvda "qcow2:$tmp/other"
says err "make room"
ctl 2 set 7/xvda cache=unsafe
says err "make room"
ctl 1 pause 7/xvda
says err "it is paused, but not all that was answered is in the image"
ctl 1 unpause 7/xvda "qcow2:$tmp/other"
says err "make room"
ctl 1 swap 7/xvda "qcow2:$tmp/other"
says err "make room"
mount -o remount,size=100m "$tmp/small"
ctl 0 unpause 7/xvda
wait "$guest" || fail "after room was made: $(cat "$tmp/bench")"
