# shellcheck shell=dash
# reboot - the guest makes a file system, reboots, and finds its files as it left them.

dom0_side() {
	local img
	img=$(image reboot 64M)
	guest_start g "" "$(disk xvda "$img")"
	guest_wait g 120 "rebooting"
	guest_wait_again g 120 "second boot"
	guest_end g 120
	e2fsck -fn "$(raw_of "$img")" || fail "e2fsck in dom0 finds errors in the image"
}

# Between the two lives of the guest no domain of that name may be there for a moment.
guest_wait_again() {
	wait_for "$2" "the guest to say $3" guest_says "$1" "$3"
}

guest_side() {
	await 30 disk_there xvda
	if ! mount -t ext4 /dev/xvda /mnt 2>/dev/null; then
		must mkfs.ext4 -q /dev/xvda
		must mount -t ext4 /dev/xvda /mnt
		must cp -a /bin /mnt/
		(cd /mnt && find bin -type f -exec sha256sum {} + >sums)
		must umount /mnt
		say rebooting
		reboot -f
		sleep 60
	fi
	say "second boot"
	must test -s /mnt/sums
	cd /mnt || not_ok "cd /mnt"
	must sha256sum -c sums
	cd /
	must umount /mnt
	must e2fsck -fn /dev/xvda
}
