#!/bin/bash
# raw on block devices: sizes, sectors of 4096, discard, and devices that are in use.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"

require_root
require losetup --version
[ -e /dev/loop-control ] || skip "no loop devices"

# loop FILE ARG...: a loop device on it, as $loop.
loop()
{
	loop=$(losetup "${@:2}" -f --show "$1" 2>"$tmp/err") || skip "losetup: $(cat "$tmp/err")"
	cleanup losetup -d "$loop"
}

truncate -s 16M "$tmp/disk"
loop "$tmp/disk"
for direct in "" -d; do
	"$img" $direct "raw:$loop" write 4096 65536 7 read 4096 65536 7 zero 8192 512 read 8192 512 0 \
		read 8704 512 7 flush write 16776704 512 9 read 16776704 512 9 \
		-read 16776704 1024 9 -resize 33554432 info >"$tmp/out"
	grep -q "^size 16777216 logical 512" "$tmp/out" || fail "$(cat "$tmp/out")"
done
sync "$tmp/disk"
if [ "$(cat "/sys/block/${loop#/dev/}/queue/discard_max_bytes")" != 0 ]; then
	before=$(stat -c %b "$tmp/disk")
	"$img" "raw:$loop" discard 0 8388608 flush
	[ "$(stat -c %b "$tmp/disk")" -lt "$before" ] || fail "discard gave nothing back"
fi

# Two writers: the second is refused, and a reader too.
hold "raw:$loop"
says "the device is in use" "$img" "raw:$loop" info
says "is locked" "$img" -r "raw:$loop" info
"$img" -p "raw:$loop" info >/dev/null || fail "a probe of a device in use"
release

# A device that has a file system mounted.
if mkfs.ext4 -q "$loop" 2>/dev/null && mkdir "$tmp/mnt" && mount "$loop" "$tmp/mnt" 2>/dev/null; then
	cleanup umount "$tmp/mnt"
	says "the device is in use (mounted, or part of another device)" "$img" "raw:$loop" info
fi

# The kernel's word on read-only devices.
truncate -s 1M "$tmp/ro"
loop "$tmp/ro" -r
says "the device is read-only" "$img" "raw:$loop" info
"$img" -r "raw:$loop" read 0 4096 0 -write 0 512 1 >"$tmp/out"
same "read-only" "write: Read-only file system" "$(cat "$tmp/out")"

truncate -s 1M "$tmp/big"
loop "$tmp/big" -b 4096
"$img" "raw:$loop" info write 4096 4096 3 -write 512 512 4 read 4096 4096 3 >"$tmp/out"
same "4096-byte sectors" "size 1048576 logical 4096 physical 4096" "$(head -1 "$tmp/out" | cut -d' ' -f 1-6)"
grep -q "write: Invalid argument" "$tmp/out" || fail "half a sector was written"
says "sector-size=512 cannot be" "$img" "raw,sector-size=512:$loop" info
