# shellcheck shell=dash
# destroy - a domain destroyed while its requests are in flight goes away completely; its image serves another.

dom0_side() {
	local img
	img=$(image destroy 64M)
	guest_start g "arg=endless" "$(disk xvda "$img")"
	guest_wait g 120 running
	wait_for 30 "writes in the image" being_written "$img"
	xl destroy g || fail "xl destroy"
	wait_for 60 "the end of the destroyed domain" only_dom0
	wait_for 30 "its disks to leave the store" no_vbds
	guest_start g "arg=check" "$(disk xvda "$img")"
	guest_end g 120
	check_image "$img"
}

guest_side() {
	await 30 disk_there xvda
	if [ "$ARG" = endless ]; then
		say running
		fio --name=w --filename=/dev/xvda --direct=1 --ioengine=libaio --thread --rw=randwrite \
			--bs=4k --iodepth=32 --size=64m --time_based --runtime=600
		not_ok "fio has ended"
	fi
	must fio --name=v --filename=/dev/xvda --direct=1 --ioengine=libaio --thread --rw=randwrite \
		--bs=16k --iodepth=16 --size=16m --verify=crc32c --verify_fatal=1
}
