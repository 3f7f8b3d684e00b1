# shellcheck shell=dash
# resize - an image that grows under a running guest: the guest sees the new size and can use it.
#
# A raw image may be grown by anybody; one of a format is by ringdisk.

dom0_side() {
	local img
	only_backend ringdisk
	img=$(image resize 16M)
	guest_start g "" "$(disk xvda "$img")"
	guest_wait g 120 ready
	case $img in
	*.img) truncate -s 40M "$img" ;;
	*) ringdisk resize "$(xl domid g)/xvda" 40M ;;
	esac || fail "cannot grow the image"
	guest_go g
	guest_end g 120
	[ "$(tail -c 1048576 "$(raw_of "$img")" | head -c 4)" = grew ] || fail "what the guest wrote at the new end is not in the image"
}

guest_side() {
	await 30 disk_there xvda
	same "sectors before" 32768 "$(cat /sys/block/xvda/size)"
	must mkfs.ext4 -q /dev/xvda
	must mount -t ext4 /dev/xvda /mnt
	sync_with_dom0 ready
	# Its backend may look only when there is something to do.
	await 60 grown
	must umount /mnt
	yes grew | head -c 1048576 | dd of=/dev/xvda bs=1M seek=39 iflag=fullblock oflag=direct 2>/dev/null ||
		not_ok "cannot write at the new end"
	must e2fsck -fn /dev/xvda
}

grown() {
	date >/mnt/now
	sync
	[ "$(cat /sys/block/xvda/size)" = 81920 ]
}
