#!/bin/bash
# qcow2 disks that get longer and shorter: the L1 table moves, what comes into the disk is zeroes, what leaves it gives
# its space back. Judged by QEMU.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"
. "$srcdir/driver/qcow2-model.sh"

k=1024
m=$((1024 * k))

ours()
{
	"$img" "qcow2:$disk" "$@" || fail "$what: $*"
}

blocks()
{
	stat -c %b "$disk"
}

size_is()
{
	[ "$(qemu-img info --output=json "$disk" | sed -n 's/.*"virtual-size": \([0-9]*\).*/\1/p' | head -1)" = "$1" ] ||
		fail "$what: the size is not $1"
}

# to SIZE: resize both.
to()
{
	truncate -s "$1" "$model"
	ours resize "$1"
	size_is "$1"
	alike "$what: to $1"
}

for version in v2 v3 extended; do
	case $version in
	v2) create=(-o "compat=0.10,cluster_size=4k") ;;
	v3) create=(-o "compat=1.1,cluster_size=512") ;;
	*) create=(-o "compat=1.1,cluster_size=16k,extended_l2=on") ;;
	esac
	what=$version

	# longer, in steps that move the L1 table, with data that is written in one go with it
	fresh 3M 0 "${create[@]}"
	both "write -P 0x22 1M 2M"
	ours write $((2 * m)) 4096 9 resize $((40 * m)) write $((39 * m)) $m 7 read $((3 * m)) $((36 * m)) 0 \
		resize $((300 * m)) write $((299 * m + 512)) 512 8 flush
	truncate -s 300M "$model"
	model_io "write -P 9 2M 4k" "write -P 7 39M 1M" "write -P 8 $((299 * m + 512)) 512"
	size_is $((300 * m))
	alike "$what: longer"

	# shorter, not at a cluster's edge, and longer again: zeroes
	before=$(blocks)
	to $((2 * m + 512))
	[ "$(blocks)" -lt "$before" ] || fail "$what: no space is given back"
	to $((5 * m))

	# a backing file that is longer than the disk does not show through
	what="$version, backing"
	fresh 1000k 9M "${create[@]}"
	to $((8 * m))
	ours read $((1000 * k)) $((7 * m)) 0 write $((4 * m + 512)) 512 5
	model_io "write -P 5 $((4 * m + 512)) 512"
	alike "$what: written"
	to $((12 * m))
	to $((700 * k))
	to $((2 * m))

	# what QEMU has left behind the end does not show either
	what="$version, by QEMU"
	fresh 3M 0 "${create[@]}"
	both "write -P 0x22 0 3M"
	qemu-img resize -q --shrink -f qcow2 "$disk" $((m + 1024)) >/dev/null
	truncate -s $((m + 1024)) "$model"
	to $((3 * m))
done

# Snapshots have their own length, which version 2 does not record.
what=snapshots
fresh 3M 0 -o compat=1.1
both "write -P 0x22 0 3M"
cp "$model" "$tmp/before.raw"
qemu-img snapshot -c before "$disk"
to $m
to $((600 * m))
qemu-img snapshot -a before "$disk"
cp "$tmp/before.raw" "$model"
alike "$what: applied"
fresh 3M 0 -o compat=0.10
qemu-img snapshot -c before "$disk"
ours -resize $((5 * m)) >"$tmp/refused"
grep -q "not supported" "$tmp/refused" || fail "version 2 with snapshots: $(cat "$tmp/refused")"
size_is $((3 * m))

# More than an L1 table can describe.
what="too large"
fresh 3M 0 -o cluster_size=512
ours -resize $((1 << 50)) >"$tmp/refused"
grep -q "File too large" "$tmp/refused" || fail "$what: $(cat "$tmp/refused")"
alike "$what"

# The header was written, but that is not known: it is taken back. If it cannot be, nothing is written any more that the
# next open would not find; what was written before is there.
for size in $m $((9000 * m)); do
	what="header in doubt, $size"
	fresh 4M 0 -o cluster_size=4k
	ours write 0 4096 1 failheader 1 -resize "$size" write $((3 * m)) 4096 4 >"$tmp/refused"
	size_is $((4 * m))
	"$img" "qcow2:$disk" read 0 4096 1 read $((3 * m)) 4096 4 || fail "$what: not there"
	what="header not restored, $size"
	fresh 4M 0 -o cluster_size=4k
	ours write 0 4096 1 failheader 2 -resize "$size" -write $((m / 2)) 4096 4 flush >"$tmp/refused" 2>&1
	"$img" -r "qcow2:$disk" read 0 4096 1 read $((m / 2)) 4096 0 >"$tmp/refused" 2>&1 || fail "$what: $(cat "$tmp/refused")"
done
