# shellcheck shell=dash
# bench - not a test: the fio jobs of tests/xen/bench, on a disk whose image is in memory.
#
# One line "BENCH job iops" per job goes into bench.txt of the run. BENCH_REQUESTS is the number of requests of
# a 4 KiB job; a 256 KiB job takes an eighth of it.

dom0_side() {
	local img
	img=$(image bench 64M)
	# No holes: reading one is not reading.
	dd if=/dev/urandom of="$img" bs=1M count=64 conv=notrunc 2>/dev/null || fail "cannot fill the image"
	guest_start g "arg=${BENCH_REQUESTS:-6000}" "$(disk xvda "$img")"
	guest_end g 280
	tr -d '\r' <"$(console g)" | sed -n 's/^RIG \(BENCH .*\)/\1/p' >"$RIG/out/bench.txt"
	[ "$(wc -l <"$RIG/out/bench.txt")" -eq 6 ] || fail "not every job has given a figure"
}

# job NAME RW KIB DEPTH REQUESTS. Fields 8 and 49 are the IOPS of reads and of writes.
job() {
	local iops
	iops=$(fio --name=t --filename=/dev/xvda --rw="$2" --bs="$3k" --iodepth="$4" --size=60m --io_size="$(($3 * $5))k" \
		--ioengine=libaio --direct=1 --norandommap --randseed=1 --thread --gtod_reduce=1 \
		--output-format=terse --terse-version=3 |
		awk -F';' '{ print $8 + $49 }')
	[ "${iops%.*}" -gt 0 ] || not_ok "fio gave no figure for $1"
	say "BENCH $1 $iops"
}

guest_side() {
	await 30 disk_there xvda
	job randread-qd1 randread 4 1 "$ARG"
	job randread-qd32 randread 4 32 "$ARG"
	job randwrite-qd1 randwrite 4 1 "$ARG"
	job randwrite-qd32 randwrite 4 32 "$ARG"
	job read-256k read 256 8 $((ARG / 8))
	job write-256k write 256 8 $((ARG / 8))
}
