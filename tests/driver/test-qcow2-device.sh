#!/bin/bash
# A qcow2 image on a block device: what was on the device before never shows, and when the device is full that is
# said, nothing is damaged, and what is discarded makes room again.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"
. "$srcdir/driver/qcow2.sh"
require_root
require qemu-img --version
require losetup --version
[ -e /dev/loop-control ] || skip "no loop devices"

# The image is on the device from its first byte on.
truncate -s 12M "$tmp/disk"
loop=$(losetup -f --show "$tmp/disk" 2>"$tmp/err") || skip "losetup: $(cat "$tmp/err")"
cleanup losetup -d "$loop"
head -c 12M /dev/urandom >"$loop"
what="a device with something on it"
qemu-img create -q -f qcow2 "$loop" 8M
truncate -s 8M "$tmp/model"
"$random" -n 6 -k 60 -t 3 -o -r 2 -m wwwrzdf "qcow2:$loop" "$tmp/model" || fail "$what"
clean "$loop"
qemu-img compare -q -f qcow2 -F raw "$loop" "$tmp/model" || fail "$what: QEMU reads something else"

what="a device that is too small"
qemu-img create -q -f qcow2 "$loop" 64M
same "$what" "write: No space left on device" "$("$img" "qcow2:$loop" write 0 4194304 1 \
	-write 8388608 16777216 3 read 0 4194304 1 discard 0 4194304 flush write 4194304 1048576 4 \
	flush discard 8388608 16777216 flush write 8388608 8388608 5 read 8388608 8388608 5)"
clean "$loop"
"$img" -r "qcow2:$loop" read 0 4194304 0 read 4194304 1048576 4 read 8388608 8388608 5

what="a copy onto a device with something on it"
head -c 12M /dev/urandom >"$loop"
truncate -s 12M "$tmp/source"
head -c 1M /dev/urandom | dd of="$tmp/source" bs=1M seek=3 conv=notrunc status=none
"$rimg" convert -q --force --driver-dir="$drivers" "raw:$tmp/source" "raw:$loop" >"$tmp/out" 2>&1 || fail "$what: $(cat "$tmp/out")"
cmp "$tmp/source" "$loop" || fail "$what: what was there shows through"
