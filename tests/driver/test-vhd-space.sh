#!/bin/bash
# VHD images give space back, use it again, and do not grow without bound.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"
. "$srcdir/driver/vhd.sh"

require qemu-img --version
MiB=1048576
blocks() { stat -c %b "$1"; }

disk=$tmp/a.vhd
create "vhd:$disk" 1G
touch "$tmp/probe" && fallocate -l 1M "$tmp/probe" && fallocate -p -l 1M "$tmp/probe" 2>/dev/null ||
	skip "this file system has no holes"

# Eight blocks, again and again at other places of the disk: the file has room for not many more.
for ((i = 0; i < 20; i++)); do
	at=$((i * 24 * MiB))
	"$img" "vhd:$disk" write $at $((16 * MiB)) $((i + 1)) read $at $((16 * MiB)) $((i + 1)) \
		discard $at $((16 * MiB)) read $at $((16 * MiB)) 0 flush
done
[ "$(stat -c %s "$disk")" -lt $((40 * MiB)) ] || fail "the file has grown to $(stat -c %s "$disk")"
[ "$(blocks "$disk")" -lt 2048 ] || fail "$(blocks "$disk") sectors are taken by nothing"
checks "$disk"

# In one session, too: what was freed is used again after a flush.
args=()
for ((i = 0; i < 30; i++)); do
	args+=(write $((i * 4 * MiB)) $((4 * MiB)) 5 discard $((i * 4 * MiB)) $((4 * MiB)) flush)
done
"$img" "vhd:$disk" "${args[@]}" read 0 $((120 * MiB)) 0
[ "$(stat -c %s "$disk")" -lt $((40 * MiB)) ] || fail "in one session the file has grown to $(stat -c %s "$disk")"

# Parts of blocks: holes in the file, zeroes for the guest; blocks stay.
"$img" "vhd:$disk" write 0 $((4 * MiB)) 6 flush
before=$(blocks "$disk")
"$img" "vhd:$disk" discard 65536 $MiB flush read 0 65536 6 read 65536 $MiB 0 read $((MiB + 65536)) 65536 6
[ "$(blocks "$disk")" -le $((before - 1500)) ] || fail "a part of a block gave nothing back"
same "blocks after a part was discarded" 2 "$(fact "vhd:$disk" allocated-blocks)"
"$img" "vhd:$disk" zero 0 $((4 * MiB)) flush read 0 $((4 * MiB)) 0
same "blocks after all was zeroed" 0 "$(fact "vhd:$disk" allocated-blocks)"
qio "$disk" "read -P 0 0 1G"

# discard=ignore
"$img" "vhd:$disk" write 0 $((4 * MiB)) 6 flush
"$img" "vhd,discard=ignore:$disk" -discard 0 $((4 * MiB)) zero 0 $((2 * MiB)) read 0 $((2 * MiB)) 0 \
	read $((2 * MiB)) $((2 * MiB)) 6 >"$tmp/out"
same "blocks with discard=ignore" 2 "$(fact "vhd:$disk" allocated-blocks)"

# A place between blocks, which somebody else has filled with something: nothing of it shows.
qemu-img create -q -f vpc -o subformat=dynamic,force_size "$tmp/q.vhd" 64M
qio "$tmp/q.vhd" "write -P 1 0 8M"
table=$(get "$tmp/q.vhd" $((512 + 16)) 8)
put "$tmp/q.vhd" $((table + 4)) ffffffff
"$img" "vhd:$tmp/q.vhd" read $((2 * MiB)) $((2 * MiB)) 0 write $((40 * MiB + 4096)) 4096 9 flush
"$img" "vhd:$tmp/q.vhd" read $((40 * MiB)) 4096 0 read $((40 * MiB + 4096)) 4096 9 \
	read $((40 * MiB + 8192)) $((2 * MiB - 8192)) 0 read $((4 * MiB)) $((4 * MiB)) 1
same "the place is used" $((8 * MiB / 2097152)) "$(fact "vhd:$tmp/q.vhd" allocated-blocks)"
qio "$tmp/q.vhd" "read -P 9 41947136 4096" "read -P 0 41951232 2088960" "read -P 1 4M 4M"
[ "$(stat -c %s "$tmp/q.vhd")" -lt $((9 * MiB)) ] || fail "the place between blocks was not used"

# A device that is full: what was discarded before is used for what is written now, also if nobody has flushed.
truncate -s 9M "$tmp/back"
if [ "$(id -u)" = 0 ] && loop=$(losetup -f --show "$tmp/back" 2>/dev/null); then
	cleanup losetup -d "$loop"
	create -f "vhd:$loop" 64M
	"$img" "vhd:$loop" write 0 $((8 * MiB)) 1 -write $((8 * MiB)) 512 4 discard 0 $((4 * MiB)) \
		write $((10 * MiB)) $((2 * MiB)) 5 write $((12 * MiB)) 512 6 -write $((20 * MiB)) 512 7 read 0 $((4 * MiB)) 0 \
		read $((4 * MiB)) $((4 * MiB)) 1 read $((10 * MiB)) $((2 * MiB)) 5 read $((12 * MiB)) 512 6 \
		read $((12 * MiB + 512)) $((2 * MiB - 512)) 0 >"$tmp/out" || fail "a full device: $(cat "$tmp/out")"
	checks "$loop"
fi
