# shellcheck shell=dash
# four-by-four - a guest with four processors drives four disks at the same time.

dom0_side() {
	local d img images='' list=''
	for d in a b c d; do
		img=$(image "$d" 32M)
		images="$images $img"
		list="$list $(disk "xvd$d" "$img")"
	done
	# shellcheck disable=SC2086 # one word a disk
	guest_start g "vcpus=4 memory=640" $list
	guest_end g 280
	for img in $images; do
		check_image "$img"
	done
}

guest_side() {
	local d
	same "processors" 4 "$(grep -c ^processor /proc/cpuinfo)"
	for d in a b c d; do
		await 30 disk_there "xvd$d"
	done
	# One job a disk, each at its own size and depth, all at once.
	must fio --direct=1 --ioengine=libaio --thread --verify=crc32c --verify_fatal=1 --rw=randwrite \
		--name=a --filename=/dev/xvda --bs=4k --iodepth=32 --size=8m \
		--name=b --filename=/dev/xvdb --bs=512-64k --iodepth=8 --size=8m \
		--name=c --filename=/dev/xvdc --bs=256k --iodepth=8 --size=32m \
		--name=d --filename=/dev/xvdd --bs=4k --iodepth=1 --size=4m
	# And four processors on one disk, each in its own quarter.
	must fio --direct=1 --ioengine=libaio --thread --verify=crc32c --verify_fatal=1 --rw=randwrite \
		--name=q --numjobs=4 --filename=/dev/xvda --bs=4k --iodepth=16 --size=2m --offset_increment=8m
}
