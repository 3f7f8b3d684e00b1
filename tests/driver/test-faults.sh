#!/bin/bash
# System calls that fail at every step of metadata, of qcow2 and VHD: snapshots, repair, resize, discard, compressed
# clusters, allocation, bitmaps, batmap, footers, parents (driver/faults.c has the scenarios); and while several
# threads write. Errors are told, the images have leaks at most, and when it works again so does the disk.
# FAULTS_STEP=0 lets each call fail; else some of the later ones are left out.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"
. "$srcdir/driver/vhd.sh"
. "$srcdir/driver/qcow2.sh"
require qemu-img --version

export RD_DRIVERS=$drivers
TMPDIR=$tmp "$top_builddir/tests/driver/faults" -n "${FAULTS_STEP:-2}" >"$tmp/out" 2>&1 || fail "$(cat "$tmp/out")"
cat "$tmp/out"
[ "$(wc -l <"$tmp/out")" -gt 15 ] || fail "not all scenarios were run"

seed=${SEED:-$RANDOM}
echo "seed $seed"

# threads FAULT WHAT: four of them on a disk whose model is $tmp/model.
threads()
{
	"$random" -s "$seed" -n 2 -k 30 -t 4 -r 9 -m wwwwwrfzd -F "$1" "$2" "$tmp/model" >"$tmp/calls" 2>"$tmp/err" ||
		fail "$2, $1: $(tail -3 "$tmp/err")"
	status=0
	"${rdimg[@]}" check "$2" >"$tmp/check" 2>&1 || status=$?
	# leaks are allowed
	[ $status = 0 ] || [ $status = 3 ] || fail "$2, $1: check: status $status: $(cat "$tmp/check")"
}

for fault in write:EIO write:ENOSPC read:EIO space:EIO size:ENOSPC sync:EIO; do
	for nth in $((1 + RANDOM % 9)) $((10 + RANDOM % 100)); do
		for count in 0 10; do
			make cluster_size=4096 3M
			threads "$fault:$nth:$count" "qcow2:$tmp/a.qcow2"
			rm -f "$tmp/a.vhd" "$tmp/model"
			create "vhd,block-size=32K:$tmp/a.vhd" 3M
			truncate -s 3M "$tmp/model"
			threads "$fault:$nth:$count" "vhd:$tmp/a.vhd"
		done
	done
done
