#!/bin/bash
# check finds every contradiction that vhd-util check knows, says which block it is, and repairs what can be.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"
. "$srcdir/driver/vhd.sh"

MiB=1048576
create "vhd:$tmp/good" 16M
"$img" "vhd:$tmp/good" write 0 $((8 * MiB)) 1 flush
table=$(get "$tmp/good" $((512 + 16)) 8)
map=$((table + 512))

# finds ERRORS TEXT: in $c
finds()
{
	"$img" -r "vhd:$c" check no >"$tmp/out" 2>"$tmp/err" || fail "$2: no check: $(cat "$tmp/err")"
	grep -q "^errors $1 " "$tmp/out" || fail "$2: not $1 errors: $(cat "$tmp/out")"
	grep -q "$2" "$tmp/out" || fail "not said: $2: $(cat "$tmp/out")"
}

# mends: a repair leaves a good image, with the blocks that it had but those that BLOCKS names.
mends()
{
	"$img" "vhd,damaged=open:$c" check errors >"$tmp/out" 2>"$tmp/err" || fail "repair: $(cat "$tmp/err")"
	"$img" -r "vhd:$c" check no >"$tmp/out"
	grep -q "^errors 0 " "$tmp/out" || fail "after the repair: $(cat "$tmp/out")"
	"$img" "vhd:$c" write $((12 * MiB)) 4096 9 flush read $((12 * MiB)) 4096 9
	"$img" -r "vhd:$c" check no | grep "^errors 0 " >/dev/null || fail "after a write: $("$img" -r "vhd:$c" check no)"
}

fresh()
{
	c=$tmp/bad
	cp "$tmp/good" "$c"
}
entry() { put "$c" $((table + $1 * 4)) "$2"; }

fresh; put "$c" $(($(stat -c %s "$c") - 512)) 00
finds 1 "footer at the end"; mends; "$img" "vhd:$c" read 0 $((8 * MiB)) 1
fresh; put "$c" 0 00
finds 1 "copy of the footer"; mends; "$img" "vhd:$c" read 0 $((8 * MiB)) 1
fresh; put "$c" 85 01; seal "$c" 0 512 64
finds 1 "differs"; mends
fresh; entry 1 00000002
finds 1 "block 1 (sector 0x2) lies over the header"; mends; "$img" "vhd:$c" read 0 $((2 * MiB)) 1 read $((2 * MiB)) $((2 * MiB)) 0
fresh; entry 1 00ffffff
finds 1 "block 1 (sector 0xffffff) lies behind the end"; mends
fresh; entry 1 "$(printf %08x "$(get "$c" "$table" 4)")"
finds 2 "lies over another block"; mends; "$img" "vhd:$c" read 0 $((2 * MiB)) 1 read $((2 * MiB)) $((2 * MiB)) 0
fresh; truncate -s -1000000 "$c"
finds 2 "is cut off by the end"; mends; "$img" "vhd:$c" read 0 $((6 * MiB)) 1
fresh; put "$c" $((map + 24)) 00000000
finds 0 "batmap's checksum"
# Nothing is lost by it; what repairs leaks mends it, and so does a writer.
grep -q " leaks 1 " "$tmp/out" || fail "checksum of the batmap: $(cat "$tmp/out")"
mends
fresh; put "$c" $((map + 24)) 00000000
"$img" "vhd:$c" check leaks | grep "errors-fixed 0 leaks-fixed 1 " >/dev/null || fail "the batmap is not mended"
checks "$c"
fresh; put "$c" $((map + 24)) 00000000
"$img" "vhd:$c" info >/dev/null
checks "$c"
fresh; put "$c" "$map" 00
finds 1 "batmap's header"
fresh; put "$c" $(($(get "$c" "$table" 4) * 512 + 7)) fe
finds 1 "says that block 0 is full, and it is not"
grep -q "block 0 has data in 1 sectors whose bits are clear" "$tmp/out" || fail "data under a clear bit: $(cat "$tmp/out")"
mends
fresh; entry 0 ffffffff
finds 1 "says that block 0 is full, and it is not there"; mends
fresh; put "$c" 68 "$(printf %032d 0)"; seal_footers "$c"
finds 1 "no unique id"
fresh; put "$c" 8 00000000; put "$c" 300 01; put "$c" 84 02; seal_footers "$c"
finds 0 "features"
grep -q "reserved bytes" "$tmp/out" && grep -q "saved state" "$tmp/out" || fail "remarks: $(cat "$tmp/out")"
# A place in the middle that nothing uses.
fresh; entry 1 ffffffff; entry 0 ffffffff
put "$c" "$map" 00
"$img" -r "vhd:$c" check no >"$tmp/out"
grep -q "leaks 2 " "$tmp/out" || fail "leaks: $(cat "$tmp/out")"
before=$(stat -c %b "$c")
"$img" "vhd:$c" check leaks >"$tmp/out"
grep -q "leaks-fixed 2 " "$tmp/out" || fail "leaks: $(cat "$tmp/out")"
[ "$(stat -c %b "$c")" -lt $((before - 8000)) ] || fail "the leaked blocks are not given back"
# And behind the last block: two whole ones and a part of one, and then the footer. The file becomes shorter, too.
fresh; entry 3 ffffffff; entry 2 ffffffff
put "$c" "$map" 00
end=$(($(stat -c %s "$c") - 512))
truncate -s $((end + 10240)) "$c"
put "$c" $((end + 9000)) 77
dd if="$tmp/good" of="$c" bs=512 count=1 seek=$((end / 512 + 20)) conv=notrunc status=none
"$img" -r "vhd:$c" check no >"$tmp/out"
grep -q "leaks 3 " "$tmp/out" || fail "leaks at the end: $(cat "$tmp/out")"
"${rdimg[@]}" check --repair=leaks "vhd:$c" >"$tmp/out" || [ $? = 2 ] || fail "repair of leaks at the end"
"$img" -r "vhd:$c" check no >"$tmp/out"
grep -q "leaks 0 " "$tmp/out" || fail "leaks at the end, after the repair: $(cat "$tmp/out")"
[ "$(stat -c %s "$c")" -lt $((end - 4 * MiB)) ] || fail "the file is not shorter"
"$img" -r "vhd:$c" read 0 $((4 * MiB)) 1 read $((4 * MiB)) $((12 * MiB)) 0

# A differencing image whose names are garbage; one that is damaged is not written to, nor by a repair's open.
create "vhd:$tmp/diff" --backing good --backing-format vhd
c=$tmp/diff2
cp "$tmp/diff" "$c"
put "$c" $((512 + 576 + 16)) 7fffffffffffff00; put "$c" $((512 + 600)) 12345678; seal "$c" 512 1024 36
finds 2 "platform"
fresh; entry 1 00000002
says "can only be read" "$img" "vhd:$c" info
"$img" "vhd,damaged=open:$c" -write 0 512 1 -discard 0 512 -zero 0 512 >"$tmp/out"
