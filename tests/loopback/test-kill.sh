#!/bin/bash
# The daemon is killed (SIGKILL) again and again while a guest writes to a qcow2 image: nothing that was answered
# is missing, and QEMU finds nothing worse than leaks. KILL_ROUNDS=300 is the long version.
. "${srcdir:-.}/functions.sh"
require qemu-img --version

. "$srcdir/loopback/kill.sh"

kill_rounds()
{
	local dir=$tmp/$1
	mkdir "$dir"
	qemu-img create -q -f qcow2 ${2:+-o "$2"} "$dir/a.qcow2" 16M
	killed "$dir" "qcow2:$dir/a.qcow2" "qemu-img check -q '$dir/a.qcow2'"
	qemu-img check -q -r leaks "$dir/a.qcow2" || fail "$2: the image is damaged"
	rm -r "$dir"
}

kill_rounds a ""
kill_rounds b cluster_size=4k,refcount_bits=1
kill_rounds c extended_l2=on
kill_rounds d compat=0.10
