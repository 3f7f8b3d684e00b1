#!/bin/bash
# Power loss at every moment with qcow2: the image opens, has leaks at most (by our check, and by
# qemu-img's for some states), and each sector what was flushed or anything newer.
. "${srcdir:-.}/functions.sh"
. "$srcdir/crash/functions.sh"
# The commands in quotes are for crash, args comes from functions.sh.
# shellcheck disable=SC2016,SC2154

command -v qemu-img >/dev/null || skip "no qemu-img"

if [ -n "$long" ]; then
	for cluster in 1024 4096; do
		qcow2 $cluster
		judged --random=100 --external=1 "${args[@]}"
		judged --random=100 --external=1 --fill "${args[@]}"
		qcow2_compressed $cluster
		judged --random=100 --external=1 "${args[@]}"
		qcow2_overlay $cluster
		judged --random=100 --external=1 "${args[@]}"
	done
	for options in compat=0.10 refcount_bits=1 refcount_bits=64 lazy_refcounts=on; do
		qcow2 512 $options
		judged --depth=2 --random=50 --external=1 "${args[@]}"
		judged --depth=2 --random=50 --external=1 --fill "${args[@]}"
	done
	qcow2 16384 extended_l2=on
	judged --depth=2 --random=20 --external=1 "${args[@]}"
	judged --depth=2 --random=20 --external=1 --fill "${args[@]}"
else
	qcow2 1024
	judged --part=50 --random=3 --external=200 "${args[@]}"
	judged --depth=2 --random=3 --external=200 --fill "${args[@]}"
	qcow2_compressed 1024
	judged --depth=2 --random=3 --external=200 "${args[@]}"
	qcow2_overlay 1024
	judged --depth=2 --random=3 --external=200 "${args[@]}"
fi

# What QEMU reads is looked at: here it is told that the image is a raw one.
qcow2 1024
found --depth=1 --external=1 "${args[@]}" --reader=raw

# A flush that is left out is found. (The first two are those of opening, around the header.)
qcow2 1024
found --drop-flush=0 --depth=2 "${args[@]}"
for flush in 3 4; do
	found --drop-flush=$flush --depth=2 --fill "${args[@]}"
done
