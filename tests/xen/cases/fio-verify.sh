# shellcheck shell=dash
# fio-verify - every block that was written reads back as it was, at several sizes and queue depths.

dom0_side() {
	local img
	img=$(image fio 64M)
	guest_start g "" "$(disk xvda "$img")"
	guest_end g 250
}

# verify RW BLOCKSIZE DEPTH SIZE: fio puts a checksum and its offset into each block and checks them after.
verify() {
	say "fio $1 $2 $3"
	must fio --name=v --filename=/dev/xvda --direct=1 --ioengine=libaio --thread --verify=crc32c \
		--verify_fatal=1 --do_verify=1 --rw="$1" --bs="$2" --iodepth="$3" --size="$4" --randseed="$3"
}

guest_side() {
	await 30 disk_there xvda
	verify randwrite 512 1 512k
	verify randwrite 4k 32 8m
	verify randwrite 4k 64 8m
	verify write 44k 4 16m
	verify write 64k 16 16m
	verify randwrite 256k 8 32m
	verify write 1m 4 64m
	verify randrw 4k 8 4m
	verify randwrite 512-128k 32 16m
}
