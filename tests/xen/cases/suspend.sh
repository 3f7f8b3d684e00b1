# shellcheck shell=dash
# suspend - a guest saved to a file and restored from it, while it writes, goes on and finds all its blocks.

dom0_side() {
	local img
	img=$(image suspend 64M)
	guest_start g "memory=384" "$(disk xvda "$img")"
	guest_wait g 120 running
	wait_for 30 "writes in the image" being_written "$img"
	xl save g "$IMAGES/saved" || fail "xl save"
	wait_for 60 "the end of the saved domain" no_domain g
	xl restore "$IMAGES/saved" || fail "xl restore"
	rm "$IMAGES/saved"
	guest_end g 200
	check_image "$img"
}

guest_side() {
	await 30 disk_there xvda
	say running
	# Long enough to be in the middle when dom0 saves; the check of all blocks comes after.
	must fio --name=v --filename=/dev/xvda --direct=1 --ioengine=libaio --thread --rw=randwrite \
		--bs=4k --iodepth=8 --size=48m --verify=crc32c --verify_fatal=1 --do_verify=1
}
