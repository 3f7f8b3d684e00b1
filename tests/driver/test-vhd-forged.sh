#!/bin/bash
# Footers that a guest has written: at the end of a dynamic image that was left without its own, and at the beginning of
# a fixed one. Nobody becomes another disk by them. And tables of blocks that are all overlaps are repaired at once.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"
. "$srcdir/driver/vhd.sh"

MiB=1048576
create "vhd:$tmp/other.vhd" 4M
"$img" "vhd:$tmp/other.vhd" write 0 4096 9 flush
create "vhd,type=fixed:$tmp/fixed.vhd" 4M

# last NAME FOOTER-FILE: a dynamic image of 4M without a footer, in whose last sector the guest has put that footer.
last()
{
	create "vhd:$1" 4M
	"$img" "vhd:$1" write 0 $((4 * MiB)) 5 flush
	truncate -s $(($(stat -c %s "$1") - 512)) "$1"
	dd if="$2" of="$1" bs=512 count=1 seek=$(($(stat -c %s "$1") / 512 - 1)) conv=notrunc status=none
}

tail -c 512 "$tmp/fixed.vhd" >"$tmp/footer.fixed"
head -c 512 "$tmp/other.vhd" >"$tmp/footer.dynamic"
last "$tmp/a.vhd" "$tmp/footer.fixed"
says "footer=end or footer=beginning" "$img" -r "vhd:$tmp/a.vhd" info
"$img" "vhd,footer=beginning:$tmp/a.vhd" read 0 $((4 * MiB - 512)) 5 write 0 512 6 flush read 0 512 6
# Now it has one of its own.
"$img" -r "vhd:$tmp/a.vhd" read 0 512 6 read 512 $((4 * MiB - 1024)) 5
last "$tmp/b.vhd" "$tmp/footer.dynamic"
"$img" -r "vhd:$tmp/b.vhd" read 0 $((4 * MiB - 512)) 5
# Even one that knows the image's unique id, and says that the header is in the guest's data.
create "vhd:$tmp/c.vhd" 4M
"$img" "vhd:$tmp/c.vhd" write 0 $((4 * MiB)) 5 flush
truncate -s $(($(stat -c %s "$tmp/c.vhd") - 512)) "$tmp/c.vhd"
head -c 512 "$tmp/c.vhd" >"$tmp/footer.same"
put "$tmp/footer.same" 16 "$(printf '%016x' $MiB)"
seal "$tmp/footer.same" 0 512 64
dd if="$tmp/footer.same" of="$tmp/c.vhd" bs=512 seek=$(($(stat -c %s "$tmp/c.vhd") / 512 - 1)) conv=notrunc status=none
"$img" -r "vhd:$tmp/c.vhd" read 0 $((4 * MiB - 512)) 5

# A guest of a fixed disk writes a dynamic image onto it, as it may.
cp "$tmp/fixed.vhd" "$tmp/d.vhd"
dd if="$tmp/other.vhd" of="$tmp/d.vhd" bs=512 count=2000 conv=notrunc status=none
same "type" fixed "$(fact "vhd:$tmp/d.vhd" type)"
# One that would reach over its end only harms itself.
size=$(($(stat -c %s "$tmp/b.vhd") - 512))
create "vhd,type=fixed:$tmp/f.vhd" $size
dd if="$tmp/b.vhd" of="$tmp/f.vhd" bs=512 count=$((size / 512)) conv=notrunc status=none
says "footer=end or footer=beginning" "$img" "vhd:$tmp/f.vhd" info
same "type" fixed "$(fact "vhd,footer=end:$tmp/f.vhd" type)"
same "type" dynamic "$(fact "vhd,footer=beginning:$tmp/f.vhd" type)"
says "footer is auto" "$img" "vhd,footer=middle:$tmp/f.vhd" info

# 2040 GiB, every entry the same, and every second one overlapping its neighbour: seconds, not hours.
create "vhd:$tmp/e.vhd" 2040G
table=$(get "$tmp/e.vhd" $((512 + 16)) 8) entries=$(get "$tmp/e.vhd" $((512 + 28)) 4)
truncate -s 6G "$tmp/e.vhd"
python3 - "$tmp/e.vhd" "$table" "$entries" <<'END'
import struct, sys
with open(sys.argv[1], 'r+b') as f:
    table, n = int(sys.argv[2]), int(sys.argv[3])
    f.seek(table)
    f.write(b''.join(struct.pack('>I', 16384 + (i // 2) * 5 if i % 2 else 16384) for i in range(n)))
END
status=0
start=$(date +%s)
timeout 100 "${rdimg[@]}" check --repair=all "vhd:$tmp/e.vhd" >"$tmp/out" 2>"$tmp/err" || status=$?
[ "$status" != 124 ] || fail "repairing takes more than $(($(date +%s) - start)) seconds"
status=0
"${rdimg[@]}" check --repair=all "vhd:$tmp/e.vhd" >"$tmp/out" 2>"$tmp/err" || status=$?
same "check of what was repaired" 0 "$status"
[ "$(fact "vhd:$tmp/e.vhd" allocated-blocks)" -gt 500 ] || fail "blocks that could be kept were given up"

# swift ARG...: img does it in 5 seconds, or the 30 that a sanitizer has; the rest is in $tmp/out.
swift()
{
	local status=0 most=5
	[ -z "${SANITIZE:-}" ] || most=30
	timeout $most "$img" "$@" >"$tmp/out" 2>&1 || status=$?
	[ $status != 124 ] || fail "img $*: takes more than $most seconds"
	same "img $*" 0 $status
}

# A block behind a hole of a TiB, which has room for very many small ones. Nobody reads the hole: what lies in the midst of
# it is found, and given back.
create "vhd,block-size=512:$tmp/g.vhd" 64K
"$img" "vhd:$tmp/g.vhd" write 0 1024 7 flush
table=$(get "$tmp/g.vhd" $((512 + 16)) 8)
head -c 512 "$tmp/g.vhd" >"$tmp/footer"
far=$((1 << 40))
for at in $((far / 2)) $far; do
	dd if="$tmp/g.vhd" of="$tmp/g.vhd" bs=512 skip="$(get "$tmp/g.vhd" $((table + 4)) 4)" count=2 seek=$((at / 512)) \
		conv=notrunc status=none
done
put "$tmp/g.vhd" $((table + 4)) "$(printf %08x $((far / 512)))"
dd if="$tmp/footer" of="$tmp/g.vhd" bs=512 seek=$((far / 512 + 2)) conv=notrunc status=none
swift -r "vhd:$tmp/g.vhd" check no
grep -q "^errors 0 leaks [1-9] " "$tmp/out" || fail "behind a hole: $(cat "$tmp/out")"
swift "vhd:$tmp/g.vhd" check leaks
swift -r "vhd:$tmp/g.vhd" check no read 0 1024 7
grep -q "^errors 0 leaks 0 " "$tmp/out" || fail "behind a hole, after the repair: $(cat "$tmp/out")"
