# shellcheck shell=dash
# bench - not a test: the fio jobs of tests/xen/bench, on disks whose images are in memory.
#
# A guest has one disk in each format that the case is run with, and does each job on one after the other: so they
# are compared in the same boot. One line "FORMAT job iops" for each goes into bench.txt of the run. BENCH_REQUESTS
# is the number of requests of a 4 KiB job; a 256 KiB job takes an eighth of it. An empty image gets first writes
# only, each to another cluster of 64 KiB; "null", which is no image but the floor, whatever the others get.

FULL="randread-qd1 randread-qd32 randwrite-qd1 randwrite-qd32 read-256k write-256k"
FIRST="first-qd1 first-qd32"

# sets_of FORMAT: names of the sets of jobs that it gets.
sets_of() {
	case $1 in
	null) echo "$FORMATS" | tr + '\n' | grep -vx null | while read -r f; do sets_of "$f"; done | sort -u ;;
	*-*) echo FULL ;;
	*) echo FIRST ;;
	esac
}

# jobs_of FORMAT
jobs_of() {
	local s
	for s in $(sets_of "$1"); do
		eval "echo \$$s"
	done
}

dom0_side() {
	local f n=0 disks='' expected=0
	FORMATS=$RIG_FORMAT
	for f in $(echo "$FORMATS" | tr + ' '); do
		n=$((n + 1))
		disks="$disks $(bench_disk "xvd$(echo abcdefgh | cut -c $n)" "$f" $n)"
		expected=$((expected + $(jobs_of "$f" | wc -w)))
	done
	# shellcheck disable=SC2086 # words
	guest_start g "arg=${BENCH_REQUESTS:-6000}:$FORMATS" $disks
	guest_wait g 1500 finished
	case $RIG_BACKEND in
	ringdisk | null) ringdisk stats >"$RIG/out/stats.txt" ;;
	esac
	guest_go g
	guest_end g 60
	tr -d '\r' <"$(console g)" | sed -n 's/^RIG BENCH //p' >"$RIG/out/bench.txt"
	[ "$(wc -l <"$RIG/out/bench.txt")" -eq "$expected" ] || fail "not every job has given a figure"
}

# bench_disk DEV FORMAT NUMBER: xl's specification of a new disk. Full images have no holes, because reading one is
# not reading.
bench_disk() {
	local size=64M
	case $2 in
	null)
		only_backend ringdisk
		echo "format=raw,vdev=$1,access=w,backendtype=qdisk,target=ringdisk:null:$((256 * 1048576))"
		return
		;;
	*-*) ;;
	*) size=256M ;;
	esac
	disk "$1" "$(RIG_FORMAT=$2 image "bench$3" "$size")"
}

# job FORMAT DEV NAME RW KIB DEPTH REQUESTS [FIO_OPTION]... Fields 8 and 49 are the IOPS of reads and of writes.
job() {
	local iops format=$1 dev=$2 name=$3 rw=$4 kib=$5 depth=$6 requests=$7
	shift 7
	iops=$(fio --name=t --filename="/dev/$dev" --rw="$rw" --bs="${kib}k" --iodepth="$depth" --size=60m \
		--io_size="$((kib * requests))k" "$@" --ioengine=libaio --direct=1 --norandommap --randseed=1 --thread --gtod_reduce=1 \
		--output-format=terse --terse-version=3 |
		awk -F';' '{ print $8 + $49 }')
	[ "${iops%.*}" -gt 0 ] || not_ok "fio gave no figure for $name"
	say "BENCH $format $name $iops"
}

# run_job NAME FORMAT DEV
run_job() {
	local requests=${ARG%%:*}
	case $1 in
	randread-qd*) job "$2" "$3" "$1" randread 4 "${1#*-qd}" "$requests" ;;
	randwrite-qd*) job "$2" "$3" "$1" randwrite 4 "${1#*-qd}" "$requests" ;;
	*-256k) job "$2" "$3" "$1" "${1%-*}" 256 8 $((requests / 8)) ;;
	first-qd1) job "$2" "$3" "$1" write:60k 4 1 2000 --size=127m ;;
	first-qd32) job "$2" "$3" "$1" write:60k 4 32 2000 --offset=128m --size=127m ;;
	esac
}

guest_side() {
	local j f n
	FORMATS=${ARG#*:}
	for j in $FULL $FIRST; do
		n=0
		for f in $(echo "$FORMATS" | tr + ' '); do
			n=$((n + 1))
			dev=xvd$(echo abcdefgh | cut -c $n)
			await 30 disk_there "$dev"
			! jobs_of "$f" | grep -qw -- "$j" || run_job "$j" "$f" "$dev"
		done
	done
	sync_with_dom0 finished
}
