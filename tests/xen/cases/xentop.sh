# shellcheck shell=dash
# xentop - what Xen's own tools read of a disk, the way that libxenstat has from Xen 4.19 on, and XAPI: the kernel's list of
# backends, the node kthread-pid, and the file of counters that it leads to, with the figures of what the guest has done.
#
# The xentop of Xen 4.17 knows no such disks; it asks QEMU about those in backend/qdisk, which has nothing to say of ours.

BLOCKS=300

dom0_side() {
	local img domid pid dir vbd
	only_backend ringdisk
	img=$(image top 16M)
	guest_start g "" "$(disk xvda "$img")"
	guest_wait g 120 ready
	domid=$(xl domid g)
	# Both kinds have it; libxenstat looks for the second.
	[ "$(xenstore-read "/local/domain/0/backend/qdisk/$domid/51712/kthread-pid")" = "$(cat $PIDFILE)" ] ||
		fail "kthread-pid of the qdisk"
	ringdisk attach "$domid" xvdb "raw:$(image more 16M)" || fail "ringdisk attach"
	guest_wait g 60 "two disks"
	[ -e "/sys/bus/xen-backend/devices/vbd3-$domid-51728" ] || fail "the kernel lists no backend vbd3-$domid-51728"
	pid=$(xenstore-read "/local/domain/0/backend/vbd3/$domid/51728/kthread-pid") || fail "no kthread-pid"
	[ "$pid" = "$(cat $PIDFILE)" ] || fail "kthread-pid is $pid, the daemon's is $(cat $PIDFILE)"
	dir=/dev/shm/td3-$pid
	vbd=$dir/vbd-$domid-51728
	[ "$(stat -c '%U %a' "$vbd")" = "nobody 644" ] || fail "$vbd: $(stat -c '%U %a' "$vbd")"
	before=$(figures "$vbd")
	guest_go g
	guest_wait g 60 written
	after=$(figures "$vbd")
	note "$before -> $after"
	# version, out of requests; reads: submitted, completed, sectors, us; writes: the same; errors, flags
	# shellcheck disable=SC2086 # words
	check_figures $before $after

	xentop -b -f -x -i 1 | tee "$RIG/top"
	grep -E '^ +g ' "$RIG/top" || fail "xentop does not show the guest"
	ringdisk detach "$domid/xvdb" || fail "ringdisk detach"
	wait_for 60 "the end of the counters" test ! -e "$vbd"
	guest_go g
	guest_end g 60
}

figures() {
	od -An -v -w96 -N 96 -t u8 "$1"
}

# Twelve figures before, twelve after.
check_figures() {
	[ "$1" = 1 ] && [ "${13}" = 1 ] || fail "the version is $1"
	[ $((${19} - $7)) -eq $BLOCKS ] && [ $((${20} - $8)) -eq $BLOCKS ] ||
		fail "$((${19} - $7)) writes submitted, $((${20} - $8)) completed, not $BLOCKS"
	[ $((${21} - $9)) -eq $((BLOCKS * 8)) ] || fail "$((${21} - $9)) sectors written"
	[ $((${22} - ${10})) -gt 0 ] || fail "the writes took no time"
	[ "${23}" = 0 ] && [ "${24}" = 0 ] || fail "errors or flags: ${23}, ${24}"
}

guest_side() {
	await 30 disk_there xvda
	say ready
	await 60 disk_there xvdb
	sync_with_dom0 "two disks"
	must dd if=/dev/zero of=/dev/xvdb bs=4096 count=$BLOCKS oflag=direct
	sync_with_dom0 written
}
