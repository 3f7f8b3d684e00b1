#!/bin/bash
# New images: each option is what qemu-img says of it afterwards, and a size that cannot be is refused.
. "${srcdir:-.}/functions.sh"
. "$srcdir/qcow2/functions.sh"
require qemu-img --version
require qemu-io --version

tool=$(readlink -f "$top_builddir" 2>/dev/null || echo "$top_builddir")/tools/ringdisk-img

# make OPTIONS SIZE WORDS...: an image a.qcow2; each of the words stands in what qemu-img says of it.
make_image()
{
	local options=$1 size=$2 arg=() o
	shift 2
	for o in $options; do
		arg+=(-o "$o")
	done
	rm -f a.qcow2
	"$tool" create -q --driver-dir="$RD_DRIVERS" "${arg[@]}" "qcow2:$tmp/a.qcow2" "$size" >out 2>&1 ||
		fail "$options $size: $(cat out)"
	sound a.qcow2 "$options $size"
	qemu-img info a.qcow2 >info
	for o; do
		grep -qF "$o" info || fail "$options $size: not \"$o\" but: $(cat info)"
	done
	poke "qcow2:$tmp/a.qcow2" check write 0 512 7 read 0 512 7 || fail "$options: $(cat out)"
	sound a.qcow2 "$options, written"
}

# refuse OPTIONS SIZE TEXT: no image, no file.
refuse()
{
	local arg=() o
	for o in $1; do
		arg+=(-o "$o")
	done
	rm -f a.qcow2
	expect_fail "$tool" create -q --driver-dir="$RD_DRIVERS" "${arg[@]}" "qcow2:$tmp/a.qcow2" "$2" >out 2>&1
	grep -qF -- "$3" out || fail "$1 $2: not \"$3\" but: $(cat out)"
	[ ! -e a.qcow2 ] || fail "$1 $2: something is left"
}

make_image "" 10M "10485760 bytes" "cluster_size: 65536" "compat: 1.1" "refcount bits: 16"
make_image version=2 10M "compat: 0.10"
for bits in 9 10 12 14 18 21; do
	make_image "cluster-size=$((1 << bits))" 10M "cluster_size: $((1 << bits))"
done
make_image cluster-size=2M 100M "cluster_size: 2097152"
for bits in 1 2 4 8 32 64; do
	make_image "refcount-bits=$bits" 10M "refcount bits: $bits"
	make_image "refcount-bits=$bits cluster-size=512" 3M "refcount bits: $bits"
done
make_image lazy-refcounts=on 10M "lazy refcounts: true"
make_image extended-l2=on 10M "extended l2: true"
make_image compression=zstd 10M "compression type: zstd"
make_image "" 512 "(512 bytes)"
make_image "" 16T "(17592186044416 bytes)"
make_image cluster-size=2M 4096T "(4503599627370496 bytes)"
for kind in metadata falloc full; do
	for more in "" version=2 extended-l2=on cluster-size=512 refcount-bits=1; do
		make_image "preallocation=$kind $more" 3M "(3145728 bytes)"
		qemu-img map --output=json a.qcow2 | grep -q '"data": false' && [ "$more" != extended-l2=on ] &&
			fail "$kind $more: $(qemu-img map --output=json a.qcow2)"
	done
done
make_image preallocation=full 3M
[ "$(stat -c %b a.qcow2)" -ge 6144 ] || fail "full, but $(stat -c %b a.qcow2) sectors"

refuse "version=2 refcount-bits=8" 1M "refcounts of 16 bits only"
refuse "version=2 lazy-refcounts=on" 1M "no lazy-refcounts"
refuse "version=2 compression=zstd" 1M "deflate only"
refuse "extended-l2=on cluster-size=4K" 1M "16K or more"
refuse version=4 1M "2 or 3"
refuse cluster-size=65537 1M "a power of two"
refuse cluster-size=4M 1M "512 to 2M"
refuse refcount-bits=128 1M "1 to 64"
refuse preallocation=some 1M "metadata"
refuse cluster-size=512 1T "larger L1 table"
