# shellcheck shell=dash
# readonly - a disk given read-only can be read, is refused for writing, and its image stays as it was.

dom0_side() {
	local img before
	truncate -s 16M "$RIG/fs.img"
	mkfs.ext4 -q "$RIG/fs.img" || fail "mkfs.ext4 in dom0"
	img=$(image readonly 16M "$RIG/fs.img")
	rm "$RIG/fs.img"
	before=$(checksum "$img")
	guest_start g "" "$(disk xvda "$img" r)"
	guest_end g 120
	[ "$(checksum "$img")" = "$before" ] || fail "the image of a read-only disk has changed"
}

guest_side() {
	await 30 disk_there xvda
	same "/sys/block/xvda/ro" 1 "$(cat /sys/block/xvda/ro)"
	must_not dd if=/dev/zero of=/dev/xvda bs=4k count=1 oflag=direct
	must mount -t ext4 -o ro /dev/xvda /mnt
	must_not touch /mnt/file
	must ls /mnt/lost+found
	must umount /mnt
}
