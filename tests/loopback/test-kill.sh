#!/bin/bash
# The daemon is killed (SIGKILL) again and again while a guest writes to a qcow2 image: nothing that was answered
# is missing, and QEMU finds nothing worse than leaks. KILL_ROUNDS=300 is the long version.
. "${srcdir:-.}/functions.sh"
require qemu-img --version

rounds=${KILL_ROUNDS:-8}
seed=${KILL_SEED:-$RANDOM}

kill_rounds()
{
	local dir=$tmp/$1 status=0
	mkdir "$dir" "$dir/redo"
	qemu-img create -q -f qcow2 ${2:+-o "$2"} "$dir/a.qcow2" 16M
	"$top_builddir/tests/loopback/killer" "$rounds" "$seed" "$dir" "qcow2:$dir/a.qcow2" \
		"qemu-img check -q '$dir/a.qcow2' >'$dir/check' 2>&1" \
		"$ringdiskd" --foreground --hyp=loopback --loopback-socket="$dir/hyp" \
		--control-socket="$dir/ctl" --redo-dir="$dir/redo" --driver-dir="$drivers" \
		--log-level=warn --pid-file="$dir/pid" >"$dir/out" 2>&1 || status=$?
	[ $status = 0 ] || {
		cat "$dir/out" "$dir/check"
		tail -5 "$dir/log"
		fail "$2"
	}
	qemu-img check -q -r leaks "$dir/a.qcow2" || fail "$2: the image is damaged"
	same "redo logs after a clean close" "" "$(ls "$dir/redo")"
	cat "$dir/out"
	rm -r "$dir"
}

kill_rounds a ""
kill_rounds b cluster_size=4k,refcount_bits=1
kill_rounds c extended_l2=on
kill_rounds d compat=0.10
