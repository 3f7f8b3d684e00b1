# shellcheck shell=dash
# discard - blocks that the guest gives up, by fstrim or blkdiscard, are freed in the image.

# at_most IMAGE BLOCKS
at_most() {
	[ "$(blocks "$1")" -le "$2" ]
}

dom0_side() {
	local img empty full most=256
	img=$(image discard 128M)
	guest_start g "" "$(disk xvda "$img")"
	guest_wait g 120 mkfs
	empty=$(blocks "$img")
	guest_go g
	guest_wait g 120 filled
	full=$(blocks "$img")
	note "blocks: $empty without, $full with 48 MiB of files"
	[ "$full" -ge $((empty + 48 * 2048)) ] || fail "48 MiB took only $((full - empty)) blocks"
	guest_go g
	guest_wait g 120 trimmed
	# A format frees what is durable: the guest asks for no flush, so that is when it has been idle for a moment.
	wait_for 30 "fstrim's space: of $full blocks about $empty should be left" at_most "$img" $((empty + 4 * 2048))
	note "blocks after fstrim: $(blocks "$img")"
	guest_go g
	guest_end g 120
	check_image "$img"
	note "blocks after blkdiscard: $(blocks "$img")"
	# A format's tables stay; of a VHD that must hide its parent's data the blocks' bitmaps, too.
	[ "$(format_of "$img")" = raw ] || most=1024
	[ "$(blocks "$img")" -le $most ] || fail "blkdiscard of all left $(blocks "$img") blocks"
	# Discarded blocks read as zeroes; but for a VHD with a parent, whose blocks just do not show the parent's.
	[ "$RIG_FORMAT" = vhd-chain ] || cmp -n 1048576 "$(raw_of "$img")" /dev/zero || fail "discarded blocks are not zeroes"
}

guest_side() {
	await 30 disk_there xvda
	# Nothing of it later in the background: blocks are counted.
	must mkfs.ext4 -q -E lazy_itable_init=0,lazy_journal_init=0 /dev/xvda
	must mount -t ext4 /dev/xvda /mnt
	sync
	sync_with_dom0 mkfs
	must dd if=/dev/urandom of=/mnt/file bs=1M count=48
	sync
	sync_with_dom0 filled
	must rm /mnt/file
	sync
	must fstrim /mnt
	sync_with_dom0 trimmed
	must umount /mnt
	must e2fsck -fn /dev/xvda
	must blkdiscard /dev/xvda
}
