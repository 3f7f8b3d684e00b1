# shellcheck shell=dash
# qcow2 - guests on qcow2: fresh, preallocated, compressed, small clusters, overlays on raw and on qcow2.
#
# Each disk has a file system with files before the guest starts (but the fresh ones, which fio verifies). The guest
# finds them, writes more, and finds those; then qemu-img and e2fsck look at the images.

DISKS="full:xvdb compressed:xvdc subclusters:xvdd on-raw:xvde on-qcow2:xvdf"

# Everything that qemu-img makes in its own way, from the same raw image.
make_images() {
	local q="qemu-img convert -q -f raw -O qcow2"
	qemu-img create -q -f qcow2 fresh.qcow2 64M &&
		qemu-img create -q -f qcow2 -o cluster_size=4k,refcount_bits=1 small.qcow2 32M &&
		$q -o preallocation=falloc base.img full.qcow2 &&
		$q -c base.img compressed.qcow2 &&
		$q -o extended_l2=on base.img subclusters.qcow2 &&
		$q base.img base.qcow2 &&
		qemu-img create -q -f qcow2 -b base.img -F raw on-raw.qcow2 &&
		qemu-img create -q -f qcow2 -b base.qcow2 -F qcow2 on-qcow2.qcow2
}

dom0_side() {
	local disks='' d before
	cd "$IMAGES" || fail "no $IMAGES"
	populate "$(image base 48M)"
	make_images || fail "qemu-img cannot make the images"
	before=$(checksum base.img)
	for d in fresh:xvda small:xvdg $DISKS; do
		disks="$disks $(disk "${d#*:}" "$IMAGES/${d%:*}.qcow2")"
	done
	# shellcheck disable=SC2086 # words
	guest_start g "" $disks
	guest_end g 280
	wait_for 30 "the end of the disks" no_vbds
	for d in fresh small $(echo "$DISKS" | sed 's/:[a-z]*//g'); do
		qemu-img check -q "$d.qcow2" || fail "qemu-img check finds errors or leaks in $d.qcow2"
	done
	for d in $DISKS; do
		qemu-img convert -q -f qcow2 -O raw "${d%:*}.qcow2" look.img || fail "cannot read ${d%:*}.qcow2"
		e2fsck -fn look.img || fail "e2fsck finds errors in ${d%:*}.qcow2"
	done
	[ "$before" = "$(checksum base.img)" ] || fail "the backing file was written to"
}

guest_side() {
	await 30 disk_there xvdg
	verify xvda randwrite 512 1 256k
	verify xvda randwrite 4k 32 8m
	verify xvda write 256k 8 32m
	verify xvda randwrite 512-128k 32 16m
	verify xvdg randwrite 4k 32 8m
	verify xvdg randwrite 512-64k 16 16m
	for d in $DISKS; do
		more_files "${d#*:}"
	done
}
