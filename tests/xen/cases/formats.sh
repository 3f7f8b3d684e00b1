# shellcheck shell=dash
# formats - an administrator's own lines as they were for QEMU, with nothing of ringdisk in them: qcow2, raw, vhd.
#
# libxl starts a QEMU beside the guest, which finds the disks offered already and has nothing to do. The guest finds
# its files, writes more, uses two disks that are attached while it runs, reboots, and is destroyed.

dom0_side() {
	local d domid
	only_backend ringdisk
	cd "$IMAGES" || fail "no $IMAGES"
	populate "$(image base 48M)"
	qemu-img convert -q -f raw -O qcow2 base.img a.qcow2 &&
		qemu-img convert -q -f raw -O vpc -o force_size=on base.img c.vhd &&
		qemu-img create -q -f qcow2 hot.qcow2 16M || fail "qemu-img cannot make the images"
	guest_start g "" "vdev=xvda,format=qcow2,target=$IMAGES/a.qcow2" \
		"vdev=xvdb,format=raw,backendtype=qdisk,target=$IMAGES/base.img" \
		"vdev=xvdc,format=vhd,target=$IMAGES/c.vhd"
	guest_wait g 200 files
	domid=$(xl domid g)
	all_ours "$domid"
	for d in 1 2; do
		# With its prefix, since QEMU runs and could take a plain path.
		xl block-attach g format=raw vdev=xvdd backendtype=qdisk "target=ringdisk:qcow2:$IMAGES/hot.qcow2" ||
			fail "xl block-attach, round $d"
		guest_wait g 60 "used $d"
		xl block-detach g xvdd || fail "xl block-detach, round $d"
		guest_wait g 60 "gone $d"
	done
	wait_for 120 "the guest to boot again" guest_says g "second boot"
	all_ours "$(xl domid g)"
	xl destroy g || fail "xl destroy"
	wait_for 60 "the end of the destroyed domain" only_dom0
	for d in a.qcow2 base.img c.vhd; do
		e2fsck -fn "$(raw_of "$IMAGES/$d")" || fail "e2fsck finds errors in $d"
	done
	qemu-img check -q hot.qcow2 || fail "qemu-img check finds errors in hot.qcow2"
}

# all_ours DOMID: three disks, connected, and QEMU has none of their images open.
all_ours() {
	local qemu
	xl block-list "$1" | tee "$RIG/list"
	[ "$(grep -c "^[0-9]* *0 *$1 *4 .*/local/domain/0/backend/qdisk/$1/" "$RIG/list")" = 3 ] ||
		fail "xl block-list does not have three connected disks"
	ringdisk list | tee "$RIG/list"
	[ "$(grep -c "^$1/xvd[abc] " "$RIG/list")" = 3 ] || fail "ringdisk list does not have the three"
	qemu=$(xenstore-read "/local/domain/$1/image/device-model-pid") || fail "there is no QEMU"
	! find "/proc/$qemu/fd" -lname "$IMAGES/*" | grep . || fail "QEMU has an image open, too"
}

guest_side() {
	local d i
	await 30 disk_there xvdc
	must mount -t ext4 /dev/xvdb /mnt
	if [ -e /mnt/booted ]; then
		must umount /mnt
		for d in a b c; do
			must mount -t ext4 -o ro "/dev/xvd$d" /mnt
			must sums_agree new.sums
			must sums_agree rest
			must umount /mnt
		done
		say "second boot"
		sleep 600
	fi
	must touch /mnt/booted
	must umount /mnt
	for d in a b c; do
		more_files "xvd$d"
	done
	say files
	for i in 1 2; do
		await 60 disk_there xvdd
		verify xvdd randwrite 4k 16 4m
		say "used $i"
		await 60 disk_gone xvdd
		say "gone $i"
	done
	reboot -f
	sleep 60
}
