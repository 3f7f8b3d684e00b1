# shellcheck shell=dash
# kept - what a guest does not write stays as it was, of clusters and blocks that it writes in part, too.
#
# The guest has a disk in each format that the case is run with.

dom0_side() {
	local f img images='' disks='' n=0
	for f in $(echo "$RIG_FORMAT" | tr + ' '); do
		n=$((n + 1))
		img=$(RIG_FORMAT=$f image "kept$n" 16M)
		images="$images $img"
		content_of "$f" 16777216 "$RIG/expected$n" || fail "cannot make a file of what the image holds"
		disks="$disks $(disk "$(dev_name $n)" "$img")"
	done
	# shellcheck disable=SC2086 # words
	guest_start g "arg=$n" $disks
	guest_end g 250
	n=0
	for img in $images; do
		# fio does the same in dom0 on a raw file: neither its patterns nor its random numbers change. tmpfs
		# has no direct I/O.
		n=$((n + 1))
		writes "$RIG/expected$n" --direct=0 || fail "fio in dom0"
		cmp "$RIG/expected$n" "$(raw_of "$img")" || fail "$img is not as the writes should have left it"
		rm "$RIG/expected$n"
	done
}

dev_name() {
	echo "xvd$(echo abcdefghijkl | cut -c "$1")"
}

# writes FILE OPTION: one block in each 64 KiB; then single sectors; then whatever begins and ends anywhere.
writes() {
	set -- --filename="$1" "$2" --ioengine=libaio --thread --size=16m --randseed=7 --stonewall
	fio --name=stride "$@" --rw=write:60k --bs=4k --iodepth=32 --io_size=1m --buffer_pattern='"stride"' \
		--name=sector "$@" --rw=randwrite --bs=512 --iodepth=8 --io_size=128k --buffer_pattern='"sector"' \
		--name=range "$@" --rw=randwrite --bsrange=512-128k --iodepth=16 --io_size=4m --buffer_pattern='"range"'
}

guest_side() {
	local i
	for i in $(seq "$ARG"); do
		await 30 disk_there "$(dev_name "$i")"
		must writes "/dev/$(dev_name "$i")" --direct=1
	done
}
