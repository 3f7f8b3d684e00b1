# shellcheck shell=dash
# bench - not a test: the fio jobs of tests/xen/bench, on a disk whose image is in memory.
#
# One line "BENCH job iops" per job goes into bench.txt of the run. BENCH_REQUESTS is the number of requests of
# a 4 KiB job; a 256 KiB job takes an eighth of it. BENCH_FORMAT: raw, qcow2, vhd (all full), qcow2-fresh,
# vhd-fresh (empty: there each request is the first write to a cluster of 64 KiB, or into a block).

# filled FORMAT: no holes, because reading one is not reading.
filled() {
	local img
	img=$(image bench 64M)
	dd if=/dev/urandom of="$img" bs=1M count=64 conv=notrunc 2>/dev/null || fail "cannot fill the image"
	case $1 in
	qcow2) qemu-img convert -q -f raw -O qcow2 "$img" "$IMAGES/bench.qcow2" ;;
	vhd) qemu-img convert -q -f raw -O vpc -o subformat=dynamic,force_size=on "$img" "$IMAGES/bench.vhd" ;;
	*) return ;;
	esac || fail "cannot make the image"
	rm "$img"
}

empty() {
	case $1 in
	qcow2) qemu-img create -q -f qcow2 "$IMAGES/bench.qcow2" 256M ;;
	vhd) qemu-img create -q -f vpc -o subformat=dynamic,force_size=on "$IMAGES/bench.vhd" 256M ;;
	esac || fail "cannot make the image"
}

dom0_side() {
	local format=${BENCH_FORMAT:-raw} jobs=6
	case $format in
	*-fresh)
		jobs=2
		empty "${format%-fresh}"
		;;
	*) filled "$format" ;;
	esac
	guest_start g "arg=${BENCH_REQUESTS:-6000}:$jobs" "$(disk xvda "$(echo "$IMAGES"/bench.*)")"
	guest_wait g 280 finished
	case $RIG_BACKEND in
	ringdisk | null) ringdisk stats >"$RIG/out/stats.txt" ;;
	esac
	guest_go g
	guest_end g 60
	tr -d '\r' <"$(console g)" | sed -n 's/^RIG \(BENCH .*\)/\1/p' >"$RIG/out/bench.txt"
	[ "$(wc -l <"$RIG/out/bench.txt")" -eq "$jobs" ] || fail "not every job has given a figure"
}

# job NAME RW KIB DEPTH REQUESTS [FIO_OPTION]... Fields 8 and 49 are the IOPS of reads and of writes.
job() {
	local iops name=$1 rw=$2 kib=$3 depth=$4 requests=$5
	shift 5
	iops=$(fio --name=t --filename=/dev/xvda --rw="$rw" --bs="${kib}k" --iodepth="$depth" --size=60m \
		--io_size="$((kib * requests))k" "$@" --ioengine=libaio --direct=1 --norandommap --randseed=1 --thread --gtod_reduce=1 \
		--output-format=terse --terse-version=3 |
		awk -F';' '{ print $8 + $49 }')
	[ "${iops%.*}" -gt 0 ] || not_ok "fio gave no figure for $name"
	say "BENCH $name $iops"
}

first_writes() {
	job first-qd1 write:60k 4 1 2000 --size=127m
	job first-qd32 write:60k 4 32 2000 --offset=128m --size=127m
}

full_image() {
	local requests=${ARG%:*}
	job randread-qd1 randread 4 1 "$requests"
	job randread-qd32 randread 4 32 "$requests"
	job randwrite-qd1 randwrite 4 1 "$requests"
	job randwrite-qd32 randwrite 4 32 "$requests"
	job read-256k read 256 8 $((requests / 8))
	job write-256k write 256 8 $((requests / 8))
}

guest_side() {
	await 30 disk_there xvda
	case ${ARG#*:} in
	2) first_writes ;;
	*) full_image ;;
	esac
	sync_with_dom0 finished
}
