#!/bin/bash
# Backing files of qcow2 images: of each format, shorter and longer than the overlay, on top of each other a
# hundred times, and those that are refused.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"
require qemu-img --version
require qemu-io --version
cd "$tmp"

# same_as_qemu FILE
same_as_qemu()
{
	qemu-img convert -f qcow2 -O raw "$1" expected.raw
	"$img" -r "qcow2:$1" save got.raw
	cmp expected.raw got.raw || fail "$1 ($what): read otherwise than by qemu-img"
}

# on BASE FORMAT [OPTIONS]: overlays of several sizes, empty and written.
on()
{
	local size

	for size in 1M 3M 5M+512; do
		what="$size on $1, $2 ${3:-}"
		rm -f over.qcow2
		qemu-img create -q -f qcow2 -u -b "$1" -F "$2" ${3:+-o "$3"} over.qcow2 $((${size/M/*1048576}))
		same_as_qemu over.qcow2
		qemu-io -c 'write -P 33 100k 5k' -c 'write -P 34 256k 64k' -c 'write -z 700k 100k' over.qcow2 >/dev/null
		same_as_qemu over.qcow2
	done
}

# Data in the first 2 MiB of 3, and at the very end.
data=(-c 'write -P 5 0 300k' -c 'write -P 6 512k 1536k' -c 'write -P 7 3145216 512')
truncate -s 3M base.raw
qemu-io -f raw "${data[@]}" base.raw >/dev/null
qemu-img convert -f raw -O qcow2 base.raw base.qcow2
qemu-img convert -c -f raw -O qcow2 -o cluster_size=4k base.raw packed.qcow2
qemu-img convert -f raw -O vpc -o force_size=on base.raw base.vhd
on base.raw raw
on base.raw raw extended_l2=on
on base.raw raw cluster_size=512
on base.qcow2 qcow2
on base.qcow2 qcow2 extended_l2=on
on packed.qcow2 qcow2 compat=0.10
on base.vhd vpc
on "$tmp/base.raw" raw

# --- what map tells: the file of the base, and zeroes behind its end

qemu-img create -q -f qcow2 -u -b base.raw -F raw flat.qcow2 5M
same "extents of a raw backing file" "data 3145728
hole 2097152" "$("$img" -r qcow2:flat.qcow2 map r 0 5242880)"
same "calls for a megabyte of it" "mapped 1 read 1" "$("$img" -r qcow2:flat.qcow2 calls 1048576 1048576)"
qemu-img create -q -f qcow2 -u -b base.qcow2 -F qcow2 second.qcow2 5M
same "calls for a megabyte of qcow2" "mapped 1 read 1" "$("$img" -r qcow2:second.qcow2 calls 1048576 524288)"

# --- a chain of 100, each with something of its own

cp base.qcow2 c0.qcow2
for ((i = 1; i < 100; i++)); do
	qemu-img create -q -f qcow2 -u -b "c$((i - 1)).qcow2" -F qcow2 "c$i.qcow2" 3M
	qemu-io -c "write -P $i $((i * 24))k 64k" "c$i.qcow2" >/dev/null
done
what="chain of 100"
same_as_qemu c99.qcow2
for ((i = 100; i < 135; i++)); do
	qemu-img create -q -f qcow2 -u -b "c$((i - 1)).qcow2" -F qcow2 "c$i.qcow2" 3M
done
says "more than" "$img" -r qcow2:c134.qcow2 info

# --- what is refused, and what the operator says

qemu-img create -q -f qcow2 -u -b base.raw -F raw nameless.qcow2 3M
printf '\x12\x34\x56\x78' | dd of=nameless.qcow2 bs=1 seek=112 conv=notrunc status=none
says "backing-format=" "$img" -r qcow2:nameless.qcow2 info
"$img" -r qcow2,backing-format=raw:nameless.qcow2 read 0 307200 5
"$img" -r qcow2,backing=none:nameless.qcow2 read 0 3145728 0
says "backing can be none" "$img" -r qcow2,backing=some:nameless.qcow2 info
qemu-img create -q -f qcow2 -u -b missing.raw -F raw missing.qcow2 3M
says "missing.raw" "$img" -r qcow2:missing.qcow2 info
mkdir below
qemu-img create -q -f qcow2 -u -b ../base.raw -F raw below/up.qcow2 3M
says "../base.raw" "$img" -r qcow2:below/up.qcow2 info
qemu-img create -q -f qcow2 -u -b json:x -F raw json.qcow2 3M
says "json:x" "$img" -r qcow2:json.qcow2 info

# --- reading does not change any of them, and many threads may

cksum base.* c*.qcow2 >before
qemu-img convert -f qcow2 -O raw c99.qcow2 race.raw
"$img" -r qcow2:c99.qcow2 race 4 200 race.raw
cksum base.* c*.qcow2 | cmp - before || fail "reading has changed an image"
