#!/bin/bash
# A qcow2 image of 16 TiB opens without reading its tables and stays inside of its budget of memory; a sequential
# megabyte of a contiguous image is one system call; threads that read at random find what a raw copy has.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"
require qemu-img --version
require qemu-io --version
cd "$tmp"

# --- one megabyte, one call, also across the border of two L2 tables (at 512 MiB)

qemu-img create -q -f qcow2 -o preallocation=metadata flat.qcow2 520M
qemu-io -c 'write -P 7 509M 8M' flat.qcow2 >/dev/null
same "calls for a megabyte" "mapped 1 read 1" "$("$img" -r qcow2:flat.qcow2 calls 534773760 1048576)"
same "calls for a contiguous 64 MiB" "mapped 1 read 1" "$("$img" -r qcow2:flat.qcow2 calls 4096 67108864)"
"$img" -r qcow2:flat.qcow2 read 533725184 8388608 7

qemu-img create -q -f qcow2 grown.qcow2 64M
for i in 0 1 2 3 4 5 6 7; do
	qemu-io -c "write -P 8 ${i}M 1M" grown.qcow2 >/dev/null
done
same "calls for a grown image" "mapped 1 read 1" "$("$img" -r qcow2:grown.qcow2 calls 1048576 1048576)"
same "calls for zeroes" "mapped 0 read 0" "$("$img" -r qcow2:grown.qcow2 calls 33554432 1048576)"

# --- compressed clusters are decompressed once for all that is read of them

qemu-img convert -c -f qcow2 -O qcow2 grown.qcow2 packed.qcow2
same "calls for a compressed cluster" "mapped 0 read 0" "$("$img" -r qcow2:packed.qcow2 calls 65536 4096)"

# --- 16 TiB

qemu-img create -q -f qcow2 huge.qcow2 16T
io=()
for ((i = 0; i < 256; i++)); do
	io+=(-c "write -q -P 3 $((i * 64))G 4k")
done
qemu-io "${io[@]}" huge.qcow2
reads=()
for ((i = 0; i < 256; i++)); do
	reads+=(read $((i * 64 * 1024 * 1024 * 1024)) 4096 3 read $((i * 64 * 1024 * 1024 * 1024 + 65536)) 4096 0)
done
if [ -z "${SANITIZE:-}" ]; then
	# 256 KiB of L1, and 64 KiB of slices.
	same "image too large for its budget" "" "$(
		ulimit -v 100000
		"$img" -r qcow2,cache-size=64K:huge.qcow2 "${reads[@]}" 2>&1
	)"
fi
"$img" -r qcow2:huge.qcow2 "${reads[@]}"

# --- at random, in parallel

n=2000
[ -z "${SANITIZE:-}" ] || n=400
for options in extended_l2=off,cluster_size=64k extended_l2=on cluster_size=512 compression_type=zstd; do
	rm -f race.qcow2 pack.qcow2
	qemu-img create -q -f qcow2 -o "$options" race.qcow2 16M
	io=()
	for ((i = 0; i < 60; i++)); do
		io+=(-c "write -P $((i + 1)) $((i * 37 % 61 * 256 + i % 7))k $((4 + i * 5))k" -c "write -z $((i * 211 % 16000))k 8k")
	done
	qemu-io "${io[@]}" race.qcow2 >/dev/null
	qemu-img convert -f qcow2 -O raw race.qcow2 race.raw
	qemu-img convert -c -f qcow2 -O qcow2 -o "$options" race.qcow2 pack.qcow2
	"$img" -r qcow2,cache-size=64K:race.qcow2 race 6 "$n" race.raw
	"$img" -r qcow2,cache-size=64K:pack.qcow2 race 6 "$((n / 2))" race.raw
done
