# shellcheck shell=dash
# flush - a flush of the guest reaches the image's file as fdatasync or fsync, and plain writes do not; but a VHD
# makes its footer durable when its file grows.

FLUSHES=5

# Counts flushes: of the loop device for blkback, of the process that serves the disk otherwise.
flushes() {
	case $RIG_BACKEND in
	blkback) awk '{ print $16 }' "/sys/block/$(basename "$(loop_of "$1")")/stat" ;;
	*) grep -cE '(fdatasync|fsync)\(.*= 0' "$RIG/strace.out" ;;
	esac
}

trace_backend() {
	[ "$RIG_BACKEND" != blkback ] || return 0
	: >"$RIG/strace.out"
	strace -f -qq -e trace=fdatasync,fsync -o "$RIG/strace.out" -p "$(backend_pid g)" &
	tracer=$!
	wait_for 60 "strace to attach" traced "$(backend_pid g)"
}

traced() {
	grep -q "^TracerPid:	$tracer\$" "/proc/$1/status"
}

dom0_side() {
	local img before quiet synced own=0
	tracer=
	img=$(image flush 32M)
	guest_start g "" "$(disk xvda "$img")"
	guest_wait g 120 ready
	trace_backend
	before=$(flushes "$img")
	guest_go g
	guest_wait g 120 written
	quiet=$(flushes "$img")
	guest_go g
	guest_wait g 120 flushed
	synced=$(flushes "$img")
	note "flushes: $before, after plain writes $quiet, after $FLUSHES fsync $synced"
	# Ended before the backend is asked to close, so that its close is not slowed.
	[ -z "$tracer" ] || kill "$tracer"
	guest_go g
	guest_end g 120
	check_image "$img"
	case $RIG_FORMAT in vhd | vhd-full | vhd-chain) own=1 ;; esac
	[ $((quiet - before)) -le $own ] || fail "$((quiet - before)) flushes although none was asked for"
	[ $((synced - quiet)) -ge "$FLUSHES" ] || fail "$FLUSHES flushes asked for, $((synced - quiet)) seen"
}

guest_side() {
	local i
	await 30 disk_there xvda
	same "the kind of write cache" "write back" "$(cat /sys/block/xvda/queue/write_cache)"
	sync_with_dom0 ready
	must fio --name=w --filename=/dev/xvda --direct=1 --rw=write --bs=64k --size=2m
	sync_with_dom0 written
	for i in $(seq "$FLUSHES"); do
		must fio --name=w --filename=/dev/xvda --direct=1 --rw=write --bs=4k --number_ios=1 \
			--size=1m --offset="${i}m" --end_fsync=1
	done
	sync_with_dom0 flushed
}
