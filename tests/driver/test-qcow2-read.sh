#!/bin/bash
# Images that qemu-img makes, in every shape, are read as qemu-img itself reads them: by the driver's readv, and
# by the extents that it maps.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"
require qemu-img --version
require qemu-io --version
cd "$tmp"

# fill FILE BYTES: data in places that do not fit any cluster, holes, zeroes that are stored and zeroes that hide.
fill()
{
	local end=$(($2 / 512 * 512))

	qemu-io -f qcow2 -c 'write -P 1 0 700k' -c 'write -P 2 1M 4k' -c 'write -P 3 1536k 512' \
		-c 'write -P 4 2093056 1M' -c 'write -P 5 5000192 1536' -c 'write -z 1310720 256k' \
		-c 'write -P 6 3145728 64k' -c 'write -z 3149824 8k' -c "write -P 7 $((end - 512)) 512" \
		-c 'write -z -u 2621440 64k' -c 'discard 0 64k' "$1" >/dev/null
}

# same_as_qemu FILE [OPTIONS]
same_as_qemu()
{
	qemu-img convert -f qcow2 -O raw "$1" expected.raw
	"$img" -r "qcow2${2:-}:$1" save got.raw
	cmp expected.raw got.raw || fail "$1: read otherwise than by qemu-img"
	count=$((count + 1))
}

# images NAME OPTIONS BYTES: fresh, filled, compressed.
images()
{
	rm -f ./*.qcow2
	qemu-img create -q -f qcow2 -o "$2" fresh.qcow2 "$3"
	same_as_qemu fresh.qcow2
	cp --sparse=always fresh.qcow2 full.qcow2
	fill full.qcow2 "$3"
	same_as_qemu full.qcow2
	# Compressed and preallocated exclude each other.
	if [[ $2 != *preallocation* ]]; then
		qemu-img convert -c -f qcow2 -O qcow2 -o "$2" full.qcow2 packed.qcow2
		same_as_qemu packed.qcow2
	fi
}

count=0
size=$((7 * 1024 * 1024 + 1536))
for cluster in 512 1k 4k 64k 2M; do
	images "$cluster" "compat=0.10,cluster_size=$cluster" "$size"
	images "$cluster" "compat=1.1,cluster_size=$cluster" "$size"
	images "$cluster" "compression_type=zstd,cluster_size=$cluster" "$size"
done
for bits in 1 2 4 8 32 64; do
	images "$bits" "refcount_bits=$bits" "$size"
done
for cluster in 16k 64k 2M; do
	images "$cluster" "extended_l2=on,cluster_size=$cluster" "$size"
	images "$cluster" "extended_l2=on,compression_type=zstd,cluster_size=$cluster" "$size"
done
images lazy lazy_refcounts=on "$size"
for mode in metadata falloc full; do
	images "$mode" "preallocation=$mode" "$size"
	images "$mode" "preallocation=$mode,extended_l2=on" "$size"
done
[ "$count" -eq $((3 * (15 + 6 + 6 + 1) + 2 * 6)) ] || fail "only $count images compared"

# Internal snapshots: the disk is what was written after the last.
rm -f ./*.qcow2
qemu-img create -q -f qcow2 snap.qcow2 "$size"
fill snap.qcow2 "$size"
qemu-img snapshot -c one snap.qcow2
qemu-io -c 'write -P 9 64k 100k' snap.qcow2 >/dev/null
qemu-img snapshot -c two snap.qcow2
qemu-io -c 'write -P 10 128k 1M' snap.qcow2 >/dev/null
same_as_qemu snap.qcow2
qemu-img snapshot -a one snap.qcow2
same_as_qemu snap.qcow2

# What stands in the file behind a compressed cluster's end is not read: the last host cluster is cut short.
qemu-img create -q -f qcow2 short.qcow2 1M
qemu-io -c 'write -P 9 0 64k' short.qcow2 >/dev/null
truncate -s $(($(stat -c %s short.qcow2) - 30000)) short.qcow2
same_as_qemu short.qcow2
