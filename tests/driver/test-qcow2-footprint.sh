#!/bin/bash
# A guest that writes, discards and flushes over and over: the file of a qcow2 image does not get longer by it, and what
# is not used is given back to the file system. FOOTPRINT_ROUNDS=1000000 is the long version.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"
. "$srcdir/driver/qcow2.sh"
require qemu-img --version

rounds=${FOOTPRINT_ROUNDS:-3000}

# wear OPTIONS MOST: the file has at most so many bytes afterwards, and takes little space.
wear()
{
	what=$1
	make "$1" 8M
	"$random" -n 1 -r 1 -k 1 -t 1 -m f -p "$rounds" "qcow2:$tmp/a.qcow2" "$tmp/model" || fail "$what"
	agrees
	[ "$(stat -c %s "$tmp/a.qcow2")" -le "$2" ] || fail "$what: the file has $(stat -c %s "$tmp/a.qcow2") bytes"
	[ "$(du -k "$tmp/a.qcow2" | cut -f1)" -le 1024 ] || fail "$what: it takes $(du -k "$tmp/a.qcow2")"
}

wear "" 4000000
wear cluster_size=4k 4000000
wear cluster_size=512 4000000
wear cluster_size=32k,extended_l2=on 4000000
