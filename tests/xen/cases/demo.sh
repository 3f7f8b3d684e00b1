# shellcheck shell=dash
# demo - for tools/demo --xen: what its guest does, line by line as it comes, and the daemon's view of it.

dom0_side() {
	local img
	img=$(image demo 96M)
	guest_start g "" "$(disk xvda "$img")"
	follow_console g
	guest_wait g 200 "the file system is made and filled"
	show_dom0 ringdisk list
	show_dom0 ringdisk stats
	guest_go g
	guest_wait g 120 "rebooting"
	# Between its two lives no domain of that name may be there for a moment.
	wait_for 200 "the guest to boot again" guest_says g "second boot, the same disk"
	guest_end g 120
	show_dom0 e2fsck -fn "$img" || fail "e2fsck in dom0 finds errors in the image"
}

# tests/xen/run prints what is written to the results. It ends with the case.
follow_console() {
	tail -n +1 -F --pid=$$ "$(console "$1")" 2>/dev/null |
		sed -u 's/\r//g; s/^RIG /-- /; s/^/#   guest: /' >>"$RIG/out/results" &
}

show_dom0() {
	{
		echo "$ $*"
		"$@" 2>&1
	} >"$RIG/shown"
	local rc=$?
	sed 's/^/#   dom0: /' "$RIG/shown" >>"$RIG/out/results"
	return $rc
}

shown() {
	echo "\$ $*"
	must "$@"
}

guest_side() {
	await 30 disk_there xvda
	if ! mount -t ext4 /dev/xvda /mnt 2>/dev/null; then
		say "first boot, Linux $(uname -r); the disk is empty"
		dmesg | sed -n 's/^.*\(blkfront: xvda: .*\)/\1/p'
		shown mkfs.ext4 -q /dev/xvda
		shown mount -t ext4 /dev/xvda /mnt
		shown cp -a /bin /lib/modules /mnt/
		(cd /mnt && find bin modules -type f -exec sha256sum {} + >sums)
		shown sync
		df -h /mnt
		sync_with_dom0 "the file system is made and filled"
		shown umount /mnt
		shown e2fsck -fn /dev/xvda
		say "rebooting"
		reboot -f
		sleep 60
	fi
	say "second boot, the same disk"
	must test -s /mnt/sums
	cd /mnt || not_ok "cd /mnt"
	shown sha256sum -c sums
	echo "$(wc -l <sums) files are as they were"
	cd /
	shown umount /mnt
	shown e2fsck -fn /dev/xvda
}
