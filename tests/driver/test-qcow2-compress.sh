#!/bin/bash
# Compressed images that we write: QEMU reads them and finds nothing to complain about, also when compressed
# clusters take the place of others, and they are smaller than the data.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"
require qemu-img --version
require qemu-io --version
cd "$tmp"

convert=("$top_builddir/tools/ringdisk-img" convert -q "--driver-dir=$drivers" "--redo-dir=$tmp/redo")

# What compresses well, what does not, and nothing; the end is no whole cluster.
seq 1 600000 >text
head -c 2000000 /dev/urandom >noise
truncate -s $((20 * 1048576 + 512)) a.raw b.raw
dd if=text of=a.raw bs=64k seek=16 conv=notrunc status=none
dd if=noise of=a.raw bs=64k seek=160 conv=notrunc status=none
printf 'the end' | dd of=a.raw bs=1 seek=$((20 * 1048576)) conv=notrunc status=none
dd if=noise of=b.raw bs=64k seek=3 conv=notrunc status=none
dd if=text of=b.raw bs=64k seek=170 conv=notrunc status=none

# right RAW: the image is as it, for QEMU and for us.
right()
{
	qemu-img check -q -f qcow2 a.qcow2 || fail "$what: qemu-img check: $(qemu-img check -f qcow2 a.qcow2 2>&1)"
	qemu-img compare -q -f raw -F qcow2 "$1" a.qcow2 || fail "$what: QEMU reads something else"
	"$img" -r qcow2:a.qcow2 save got.raw
	cmp "$1" got.raw || fail "$what: we read something else"
}

for options in version=3 version=2 compression=zstd cluster-size=4K cluster-size=2M extended-l2=on refcount-bits=64; do
	what=$options
	rm -f a.qcow2
	"${convert[@]}" -c -o "$options" raw:a.raw qcow2:a.qcow2
	right a.raw
	# With clusters of 2 MiB the tables alone have 10 MiB.
	limit=5500000
	[ "$options" != cluster-size=2M ] || limit=15000000
	[ "$(stat -c %s a.qcow2)" -lt "$limit" ] || fail "$what: $(stat -c %s a.qcow2) bytes: not compressed"

	# Over itself, over another's clusters, and over plain ones.
	what="$options, again"
	"${convert[@]}" -c -n raw:a.raw qcow2:a.qcow2
	right a.raw
	what="$options, another"
	"${convert[@]}" -c -n raw:b.raw qcow2:a.qcow2
	right b.raw
	what="$options, over plain ones"
	"${convert[@]}" -n raw:a.raw qcow2:a.qcow2
	right a.raw
	"${convert[@]}" -c -n raw:b.raw qcow2:a.qcow2
	right b.raw

	# Snapshots keep what they have.
	what="$options, with a snapshot"
	qemu-img snapshot -c one a.qcow2
	"${convert[@]}" -c -n raw:a.raw qcow2:a.qcow2
	right a.raw
	qemu-img snapshot -a one a.qcow2
	right b.raw
done

# The last piece in a cluster goes: what is compressed in the moment in which that is punched is somewhere else.
what="written while its neighbour is punched"
qemu-img create -q -f qcow2 p.qcow2 64M
"$img" qcow2:p.qcow2 pack 0 65536 1 flush write 0 65536 2 punchpack 65536 65536 3 flush read 0 65536 2 read 65536 65536 3 ||
	fail "$what"
qemu-img check -q p.qcow2 || fail "$what: not sound"
qemu-io -f qcow2 -c "read -P 2 0 64k" -c "read -P 3 64k 64k" p.qcow2 >qemu-io || fail "$what: $(cat qemu-io)"
! grep -q "Pattern verification failed" qemu-io || fail "$what: $(cat qemu-io)"
