# shellcheck shell=dash
# discard - blocks that the guest gives up, by fstrim or blkdiscard, are freed in the image.

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
	note "blocks after fstrim: $(blocks "$img")"
	[ "$(blocks "$img")" -le $((empty + 4 * 2048)) ] ||
		fail "fstrim left $(blocks "$img") blocks of $full, expected about $empty"
	guest_go g
	guest_end g 120
	note "blocks after blkdiscard: $(blocks "$img")"
	# A format's tables stay.
	[ "$(format_of "$img")" = raw ] || most=1024
	[ "$(blocks "$img")" -le $most ] || fail "blkdiscard of all left $(blocks "$img") blocks"
	check_image "$img"
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
	# Discarded blocks of a file read as zeroes.
	must cmp -n 1048576 /dev/xvda /dev/zero
}
