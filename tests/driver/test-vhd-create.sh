#!/bin/bash
# New VHD images: QEMU and libvhdi read them as what they should be, with exact sizes, and fields that others need.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"
. "$srcdir/driver/vhd.sh"

require qemu-img --version

# judged FILE TYPE SIZE: what the others say.
judged()
{
	local virtual
	virtual=$(qemu-img info -f vpc --output=json "$1" | sed -n 's/.*"virtual-size": \([0-9]*\),.*/\1/p')
	same "$1: size by qemu-img" "$3" "$virtual"
	command -v vhdiinfo >/dev/null || return 0
	vhdiinfo "$1" >"$tmp/vhdi" 2>&1 || fail "vhdiinfo: $(cat "$tmp/vhdi")"
	grep -q "Disk type.*: $2" "$tmp/vhdi" || fail "vhdiinfo: $(cat "$tmp/vhdi")"
	grep -q "($3 bytes)" "$tmp/vhdi" || fail "vhdiinfo, size: $(cat "$tmp/vhdi")"
	grep -q "$(fact "vhd:$1" uuid)" "$tmp/vhdi" || fail "vhdiinfo, identifier: $(cat "$tmp/vhdi")"
}

# odd sizes: one sector, one more than a block, 127 GiB, and the format's end
for size in 512 2097664 1048576 136365211648 2190433320960; do
	create "vhd:$tmp/d.vhd" "$size"
	judged "$tmp/d.vhd" Dynamic "$size"
	"$img" "vhd:$tmp/d.vhd" write $((size - 512)) 512 5 flush read $((size - 512)) 512 5
	qio "$tmp/d.vhd" "read -P 5 $((size - 512)) 512"
	same "both footers" "$(head -c 512 "$tmp/d.vhd" | sha256sum)" "$(tail -c 512 "$tmp/d.vhd" | sha256sum)"
	rm "$tmp/d.vhd"
done
create vhd,type=fixed:"$tmp/f.vhd" 64M
judged "$tmp/f.vhd" Fixed 67108864
same "a fixed image's length" $((67108864 + 512)) "$(stat -c %s "$tmp/f.vhd")"
same "a fixed image's creator" "win " "$(fact "vhd:$tmp/f.vhd" creator)"
qio "$tmp/f.vhd" "write -P 3 1M 1M"
"$img" "vhd:$tmp/f.vhd" read 1048576 1048576 3 read 2097152 1048576 0

# What vhd-util check asks of footers and headers.
create "vhd:$tmp/a.vhd" 100M
same "features" 2 "$(get "$tmp/a.vhd" 8 4)"
same "version" 65536 "$(get "$tmp/a.vhd" 12 4)"
same "data offset" 512 "$(get "$tmp/a.vhd" 16 8)"
now=$(($(date +%s) - 946684800))
made=$(get "$tmp/a.vhd" 24 4)
[ "$made" -le "$now" ] && [ "$made" -gt $((now - 600)) ] || fail "timestamp $made, now $now"
same "creator" "tap" "$(fact "vhd:$tmp/a.vhd" creator)"
same "geometry" 1003/12/17 "$(fact "vhd:$tmp/a.vhd" geometry)"
same "BAT entries" 50 "$(get "$tmp/a.vhd" $((512 + 28)) 4)"
table=$(get "$tmp/a.vhd" $((512 + 16)) 8)
same "batmap" tdbatmap "$(tail -c +$((table + 512 + 1)) "$tmp/a.vhd" | head -c 8)"
checks "$tmp/a.vhd"

# Blocks that are not of 2 MiB: tapdisk's library could not read a batmap of them.
for block in 512 4K 64K 512K 4M 16M; do
	create "vhd,block-size=$block:$tmp/b.vhd" 30M
	same "creator with blocks of $block" "win " "$(fact "vhd:$tmp/b.vhd" creator)"
	"$img" "vhd:$tmp/b.vhd" write 5000192 1000448 6 write 31456768 512 7 write 0 65536 8 flush
	"$img" "vhd:$tmp/b.vhd" read 5000192 1000448 6 read 31456768 512 7 read 0 65536 8 read 65536 4934656 0 \
		discard 0 16777216 read 0 16777216 0 read 31456768 512 7
	checks "$tmp/b.vhd"
	qemu-img info -f vpc "$tmp/b.vhd" >/dev/null
	[ "$block" = 512 ] || qio "$tmp/b.vhd" "read -P 7 31456768 512" "read -P 0 0 64k"
	rm "$tmp/b.vhd"
done

says "no multiple of 512" "${rdimg[@]}" create "vhd:$tmp/x.vhd" 1000
says "at most 2040 GiB" "${rdimg[@]}" create "vhd:$tmp/x.vhd" 2041G
says "block-size is a power of two" "${rdimg[@]}" create "vhd,block-size=3M:$tmp/x.vhd" 10M
says "too small for a disk of this size" "${rdimg[@]}" create "vhd,block-size=512:$tmp/x.vhd" 100G
says "type is" "${rdimg[@]}" create "vhd,type=wrong:$tmp/x.vhd" 10M
says "needs a parent" "${rdimg[@]}" create "vhd,type=differencing:$tmp/x.vhd" 10M
says "creator=tap goes" "${rdimg[@]}" create "vhd,creator=tap,block-size=4K:$tmp/x.vhd" 10M
[ ! -e "$tmp/x.vhd" ] || fail "an image that was refused is there"
"$top_builddir/tools/ringdisk-img" --driver-dir="$drivers" create "vhd,type=fixed:$tmp/odd.vhd" 1000448 >"$tmp/odd" 2>&1
grep -q "Azure" "$tmp/odd" || fail "no warning about a size that Azure will not take"
