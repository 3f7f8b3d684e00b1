#!/bin/bash
# VHD images change their size: inside of the BAT, by moving blocks out of its way, and back; data stays.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"
. "$srcdir/driver/vhd.sh"

require qemu-img --version
MiB=1048576

disk=$tmp/a.vhd
create "vhd:$disk" 100M
# The last block reaches behind the disk's end; what stands there never shows.
"$img" "vhd:$disk" resize $((99 * MiB)) write 0 $((4 * MiB)) 7 write $((98 * MiB)) $MiB 9 flush
for size in 100 101 5000 20000 40000; do
	"$img" "vhd:$disk" resize $((size * MiB)) info read 0 $((4 * MiB)) 7 read $((4 * MiB)) $MiB 0 \
		read $((98 * MiB)) $MiB 9 read $((99 * MiB)) $MiB 0 write $((size * MiB - 512)) 512 0 \
		read $((size * MiB - 512)) 512 0 >"$tmp/out"
	grep -q "^size $((size * MiB)) " "$tmp/out" || fail "$size: $(cat "$tmp/out")"
	checks "$disk"
	qio "$disk" "read -P 7 0 4M" "read -P 9 98M 1M" "read -P 0 99M 1M"
	same "size by qemu-img" $((size * MiB)) \
		"$(qemu-img info -f vpc --output=json "$disk" | sed -n 's/.*"virtual-size": \([0-9]*\),.*/\1/p')"
done
[ "$(fact "vhd:$disk" max-blocks)" -ge 20000 ] || fail "the BAT did not grow"
same "the batmap is still there" yes "$(fact "vhd:$disk" batmap)"
"$img" "vhd:$disk" resize $((2040 * 1024 * MiB)) -resize $((2040 * 1024 * MiB + 512)) read 0 $((4 * MiB)) 7 >/dev/null
checks "$disk"

# A discard of the disk's last part, which is a whole block no more when its turn comes: a batmap that says that the
# block is full makes it flush before the block would go.
create "vhd:$tmp/l.vhd" 99M
"$img" "vhd:$tmp/l.vhd" write $((98 * MiB)) $MiB 9
"$img" "vhd:$tmp/l.vhd" overtaken $((100 * MiB)) $((98 * MiB)) $MiB 5
checks "$tmp/l.vhd"

# One without any block: the table grows to where the footer is.
create "vhd:$tmp/e.vhd" 100M
"$img" "vhd:$tmp/e.vhd" resize $((5000 * MiB)) read 0 $((100 * MiB)) 0 write $((4999 * MiB)) $MiB 5 flush
checks "$tmp/e.vhd"
qio "$tmp/e.vhd" "read -P 0 0 100M" "read -P 5 4999M 1M"

# Smaller: the end is gone, and does not come back.
"$img" "vhd:$disk" resize $((3 * MiB)) read 0 $((3 * MiB)) 7 -read $((3 * MiB)) 512 7 resize $((200 * MiB)) \
	read 0 $((3 * MiB)) 7 read $((3 * MiB)) $((197 * MiB)) 0 flush >/dev/null
checks "$disk"
qio "$disk" "read -P 7 0 3M" "read -P 0 3M 197M"

# An image of QEMU: the table has no room to spare, and blocks are packed.
qemu-img create -q -f vpc -o subformat=dynamic,force_size "$tmp/q.vhd" 64M
qio "$tmp/q.vhd" "write -P 1 0 64M"
"$img" "vhd:$tmp/q.vhd" resize $((10000 * MiB)) read 0 $((64 * MiB)) 1 write $((9999 * MiB)) $MiB 2 flush
checks "$tmp/q.vhd"
qio "$tmp/q.vhd" "read -P 1 0 64M" "read -P 2 9999M 1M"
# A resize that failed while it waited for what was on its way to a block: the next one waits for what is now.
qemu-img create -q -f vpc -o subformat=dynamic,force_size "$tmp/d.vhd" 64M
qio "$tmp/d.vhd" "write -P 1 0 4M"
"$img" "vhd:$tmp/d.vhd" write $((50 * MiB)) 4096 2 flush write $((40 * MiB)) 4096 2 redrain $((10000 * MiB)) 7 \
	read 512 $((4 * MiB - 512)) 1 read $((40 * MiB)) 4096 2
checks "$tmp/d.vhd"

# One by geometry does not say it that way any more.
qemu-img create -q -f vpc -o subformat=dynamic "$tmp/chs.vhd" 64M
"$img" "vhd:$tmp/chs.vhd" resize $((77 * MiB)) info | grep -q "^size $((77 * MiB)) " || fail "by geometry"
same "by geometry: qemu-img" $((77 * MiB)) \
	"$(qemu-img info -f vpc --output=json "$tmp/chs.vhd" | sed -n 's/.*"virtual-size": \([0-9]*\),.*/\1/p')"

create "vhd,type=fixed:$tmp/f.vhd" 8M
"$img" "vhd:$tmp/f.vhd" write 0 $((8 * MiB)) 3 resize $((16 * MiB)) read 0 $((8 * MiB)) 3 \
	read $((8 * MiB)) $((8 * MiB)) 0 write $((16 * MiB - 512)) 512 4 flush resize $((12 * MiB)) info >"$tmp/out"
grep -q "^size $((12 * MiB)) " "$tmp/out" || fail "fixed: $(cat "$tmp/out")"
same "a fixed image's length" $((12 * MiB + 512)) "$(stat -c %s "$tmp/f.vhd")"
qio "$tmp/f.vhd" "read -P 3 0 8M" "read -P 0 8M 4M"
