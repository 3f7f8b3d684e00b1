# shellcheck shell=dash
# vhd - guests on VHD: dynamic, fixed, and the last of a chain of three.
#
# As in qcow2: the guest finds the files that were there, writes more, and finds those. Judges are qemu-img (which
# knows no chains), e2fsck, and our own check.

DISKS="dynamic:xvdb fixed:xvdc child:xvdd"

# by_qemu SUBFORMAT NAME: from the same raw image.
by_qemu() {
	qemu-img convert -q -f raw -O vpc -o "force_size=on,subformat=$1" base.img "$2.vhd"
}

make_images() {
	ringdisk-img create vhd:fresh.vhd 64M &&
		by_qemu dynamic dynamic &&
		by_qemu fixed fixed &&
		by_qemu dynamic parent &&
		ringdisk-img create -b parent.vhd -F vhd vhd:middle.vhd &&
		ringdisk-img create -b middle.vhd -F vhd vhd:child.vhd
}

dom0_side() {
	local disks='' d before
	only_backend ringdisk
	cd "$IMAGES" || fail "no $IMAGES"
	populate "$(image base 48M)"
	make_images || fail "cannot make the images"
	before=$(cat parent.vhd middle.vhd | sha256sum)
	for d in fresh:xvda $DISKS; do
		disks="$disks $(disk "${d#*:}" "$IMAGES/${d%:*}.vhd")"
	done
	# shellcheck disable=SC2086 # words
	guest_start g "" $disks
	guest_end g 280
	wait_for 30 "the end of the disks" no_vbds
	for d in fresh $(echo "$DISKS" | sed 's/:[a-z]*//g'); do
		ringdisk-img check "vhd:$d.vhd" || fail "ringdisk-img check finds errors in $d.vhd"
	done
	for d in dynamic fixed; do
		qemu-img convert -q -f vpc -O raw "$d.vhd" look.img || fail "cannot read $d.vhd"
		e2fsck -fn look.img || fail "e2fsck finds errors in $d.vhd"
	done
	ringdisk-img convert --force vhd:child.vhd raw:look.img || fail "cannot read child.vhd"
	e2fsck -fn look.img || fail "e2fsck finds errors in child.vhd"
	[ "$before" = "$(cat parent.vhd middle.vhd | sha256sum)" ] || fail "a parent was written to"
}

guest_side() {
	await 30 disk_there xvdd
	verify xvda randwrite 512 1 256k
	verify xvda randwrite 4k 32 8m
	verify xvda write 256k 8 32m
	verify xvda randwrite 512-128k 32 16m
	for d in $DISKS; do
		more_files "${d#*:}"
	done
}
