# shellcheck shell=dash
# files - a file system on the disk: made, filled, checked, mounted again, all files still as they were.

dom0_side() {
	local img
	img=$(image files 160M)
	guest_start g "" "$(disk xvda "$img")"
	guest_end g 200
	# An independent look at what has really arrived in the image.
	e2fsck -fn "$(raw_of "$img")" || fail "e2fsck in dom0 finds errors in the image"
}

sums() {
	(cd "$1" && find . -type f -exec sha256sum {} + | sort -k 2)
}

guest_side() {
	await 30 disk_there xvda
	must mkfs.ext4 -q /dev/xvda
	must mount -t ext4 /dev/xvda /mnt
	must cp -a /bin /lib/modules /cases /mnt/
	must mkdir /mnt/many
	for i in $(seq 300); do
		echo "$i" >"/mnt/many/$i"
	done
	sync
	sums /mnt >/tmp/before
	must umount /mnt
	must e2fsck -fn /dev/xvda
	echo 3 >/proc/sys/vm/drop_caches
	must mount -t ext4 /dev/xvda /mnt
	sums /mnt >/tmp/after
	must cmp /tmp/before /tmp/after
	[ "$(wc -l </tmp/before)" -gt 300 ] || not_ok "too few files were compared"
	must umount /mnt
}
