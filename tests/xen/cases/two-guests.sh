# shellcheck shell=dash
# two-guests - two guests work at once, each on its own disk, and neither sees the other's blocks.

dom0_side() {
	local a b
	a=$(image a 64M)
	b=$(image b 64M)
	guest_start g1 "arg=1" "$(disk xvda "$a")"
	guest_start g2 "arg=2" "$(disk xvda "$b")"
	guest_wait g1 150 "ready"
	guest_wait g2 150 "ready"
	guest_go g1
	guest_go g2
	guest_end g1 200
	guest_end g2 200
	only_seed "$(raw_of "$a")" 1
	only_seed "$(raw_of "$b")" 2
}

# only_seed IMAGE N: each block of the last pass starts with the guest's own name.
only_seed() {
	local found
	found=$(tail -c 1048576 "$1" | tr -d '\0' | sort | uniq -c)
	[ "$found" = "$(printf '%7s guest %s' 131072 "$2")" ] || fail "image of guest $2 ends with: $found"
}

guest_side() {
	await 30 disk_there xvda
	sync_with_dom0 ready
	must fio --name=v --filename=/dev/xvda --direct=1 --ioengine=libaio --thread --rw=randwrite \
		--bs=4k --iodepth=32 --size=8m --verify=crc32c --verify_fatal=1
	must fio --name=v --filename=/dev/xvda --direct=1 --ioengine=libaio --thread --rw=randwrite \
		--bs=64k --iodepth=8 --size=32m --verify=crc32c --verify_fatal=1
	must last_megabyte
}

last_megabyte() {
	yes "guest $ARG" | head -c 1048576 | dd of=/dev/xvda bs=1M seek=63 iflag=fullblock oflag=direct
}
