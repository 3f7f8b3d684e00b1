# shellcheck shell=dash
# fio-verify - every block that was written reads back as it was, at several sizes and queue depths.

dom0_side() {
	local img
	img=$(image fio 64M)
	guest_start g "" "$(disk xvda "$img")"
	guest_end g 250
	check_image "$img"
}

guest_side() {
	await 30 disk_there xvda
	verify xvda randwrite 512 1 512k
	verify xvda randwrite 4k 32 8m
	verify xvda randwrite 4k 64 8m
	verify xvda write 44k 4 16m
	verify xvda write 64k 16 16m
	verify xvda randwrite 256k 8 32m
	verify xvda write 1m 4 64m
	verify xvda randrw 4k 8 4m
	verify xvda randwrite 512-128k 32 16m
}
