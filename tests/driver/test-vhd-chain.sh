#!/bin/bash
# Differencing VHDs: found by each kind of locator, only on the disk they were made on; chains, sizes, raw parents;
# what is discarded or zeroed never shows the parent's old data.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"
. "$srcdir/driver/vhd.sh"

MiB=1048576
# child NAME PARENT [FORMAT [SIZE]]: in $tmp
child()
{
	create "vhd:$tmp/$1" ${4:+"$4"} --backing "$2" --backing-format "${3:-vhd}"
}

create "vhd:$tmp/base.vhd" 16M
"$img" "vhd:$tmp/base.vhd" write 0 $((16 * MiB)) 1 flush
sum=$(sha256sum <"$tmp/base.vhd")
child c1.vhd base.vhd
same "type" differencing "$(fact "vhd:$tmp/c1.vhd" type)"
same "backing file" base.vhd "$(fact "vhd:$tmp/c1.vhd" backing-file)"
same "parent's id" "$(fact "vhd:$tmp/base.vhd" uuid)" "$(fact "vhd:$tmp/c1.vhd" parent-uuid)"
"$img" "vhd:$tmp/c1.vhd" read 0 $((16 * MiB)) 1 write 4096 512 2 write 8192 65536 3 flush \
	read 0 4096 1 read 4096 512 2 read 4608 3584 1 read 8192 65536 3 read 73728 $((MiB)) 1
"$img" -r "vhd:$tmp/c1.vhd" read 0 4096 1 read 4096 512 2 read 4608 3584 1 read 8192 65536 3
"$img" "vhd,parent=none:$tmp/c1.vhd" read 0 4096 0 read 4096 512 2 read 4608 3584 0 read $MiB $MiB 0
"$img" "vhd,backing=none:$tmp/c1.vhd" read 0 4096 0
"$img" "vhd:$tmp/c1.vhd" read 0 $MiB 9 2>/dev/null && fail "a wrong byte was not noticed"
"$img" "vhd:$tmp/c1.vhd" read 0 4096 1 read 4096 512 2 map r 0 $((2 * MiB)) >"$tmp/map"
same "extents" "data 4096 data 512 data 3584 data 65536 data 2023424" "$(xargs <"$tmp/map")"
# A whole block of it, then all bits of one, sector by sector.
args=()
for ((i = 0; i < 4096; i++)); do
	args+=(write $((4 * MiB + i * 512)) 512 $((i % 200 + 3)))
done
"$img" "vhd:$tmp/c1.vhd" write $((2 * MiB)) $((2 * MiB)) 7 "${args[@]}" flush
args=()
for ((i = 0; i < 4096; i++)); do
	args+=(read $((4 * MiB + i * 512)) 512 $((i % 200 + 3)))
done
"$img" "vhd:$tmp/c1.vhd" read $((2 * MiB)) $((2 * MiB)) 7 "${args[@]}" map r $((4 * MiB)) $((2 * MiB)) >"$tmp/map"
same "one extent of a full block" "data 2097152" "$(xargs <"$tmp/map")"
checks "$tmp/c1.vhd"
same "the parent's bytes" "$sum" "$(sha256sum <"$tmp/base.vhd")"

# Discarding and zeroing over the parent's data.
"$img" "vhd:$tmp/c1.vhd" discard $((2 * MiB)) $((2 * MiB)) flush read $((2 * MiB)) $((2 * MiB)) 0 \
	zero $((8 * MiB)) $((2 * MiB)) zero 512 512 flush read $((8 * MiB)) $((2 * MiB)) 0 \
	read 0 512 1 read 512 512 0 read 1024 3072 1
"$img" "vhd:$tmp/c1.vhd" read $((2 * MiB)) $((2 * MiB)) 0 read $((8 * MiB)) $((2 * MiB)) 0 read 512 512 0 \
	discard $((10 * MiB)) $((2 * MiB)) read $((10 * MiB)) $((2 * MiB)) 1
checks "$tmp/c1.vhd"

# Where the parent has nothing, a discarded block is freed.
create "vhd:$tmp/empty.vhd" 16M
child e1.vhd empty.vhd
"$img" "vhd:$tmp/e1.vhd" write 0 $((4 * MiB)) 5 flush discard 0 $((4 * MiB)) zero $((6 * MiB)) $((2 * MiB)) flush \
	read 0 $((8 * MiB)) 0
same "blocks" 0 "$(fact "vhd:$tmp/e1.vhd" allocated-blocks)"

# A chain of thirty: each layer has one block of its own, the rest is from below.
create "vhd:$tmp/l0.vhd" 80M
"$img" "vhd:$tmp/l0.vhd" write 0 $((80 * MiB)) 100 flush
for ((i = 1; i < 30; i++)); do
	child "l$i.vhd" "l$((i - 1)).vhd"
	"$img" "vhd:$tmp/l$i.vhd" write $((i * 2 * MiB)) $((2 * MiB)) "$i" write $((i * 4096)) 512 $((i + 100)) flush
done
args=()
for ((i = 1; i < 30; i++)); do
	args+=(read $((i * 2 * MiB)) $((2 * MiB)) "$i" read $((i * 4096)) 512 $((i + 100)) read $((i * 4096 + 512)) 3584 100)
done
"$img" -r "vhd:$tmp/l29.vhd" "${args[@]}" read $((60 * MiB)) $((20 * MiB)) 100 map r 0 $((80 * MiB)) >/dev/null

# Sizes: a child that is larger or smaller, and grows; it never shows more of its parent.
child big.vhd base.vhd vhd 20M
"$img" "vhd:$tmp/big.vhd" read 0 $((16 * MiB)) 1 read $((16 * MiB)) $((4 * MiB)) 0 write $((15 * MiB)) $((2 * MiB)) 4 \
	flush read $((17 * MiB)) $((3 * MiB)) 0
child small.vhd base.vhd vhd 5M
"$img" "vhd:$tmp/small.vhd" info read 0 $((5 * MiB)) 1 -read $((5 * MiB)) 512 1 resize $((12 * MiB)) \
	read 0 $((5 * MiB)) 1 read $((5 * MiB)) $((7 * MiB)) 0 flush >"$tmp/out"
grep -q "^size $((5 * MiB)) " "$tmp/out" || fail "the child's size: $(cat "$tmp/out")"
"$img" "vhd:$tmp/small.vhd" read 0 $((5 * MiB)) 1 read $((5 * MiB)) $((7 * MiB)) 0
"$img" "vhd:$tmp/big.vhd" resize $((10000 * MiB)) read 0 $((15 * MiB)) 1 read $((15 * MiB)) $((2 * MiB)) 4 \
	read $((17 * MiB)) $((20 * MiB)) 0 flush
"$img" "vhd:$tmp/big.vhd" read 0 $((15 * MiB)) 1
checks "$tmp/big.vhd"
checks "$tmp/small.vhd"

# Raw parents have no id.
truncate -s 8M "$tmp/raw.img"
"$img" "raw:$tmp/raw.img" write $MiB $MiB 6
child r.vhd raw.img raw
same "a raw parent" raw "$(fact "vhd:$tmp/r.vhd" backing-format)"
"$img" "vhd:$tmp/r.vhd" read 0 $MiB 0 read $MiB $MiB 6 write 0 512 7 flush read 0 512 7 read 512 512 0 read $MiB $MiB 6

# Another disk in the parent's place, and none.
cp "$tmp/base.vhd" "$tmp/keep.vhd"
create "vhd:$tmp/other.vhd" 16M
cp "$tmp/other.vhd" "$tmp/base.vhd"
says "is not its parent" "$img" -r "vhd:$tmp/c1.vhd" info
rm "$tmp/base.vhd"
says "No such file" "$img" -r "vhd:$tmp/c1.vhd" info
"$img" -r "vhd,parent=none:$tmp/c1.vhd" read 4096 512 2
mv "$tmp/keep.vhd" "$tmp/base.vhd"

# Each way of naming it, alone. Locators are at 576 of the header, which is at 512: MacX, W2ku, W2ru.
for keep in 0 1 2 name; do
	cp "$tmp/c1.vhd" "$tmp/one.vhd"
	for i in 0 1 2; do
		[ "$i" = "$keep" ] || put "$tmp/one.vhd" $((512 + 576 + i * 24)) "$(printf '%048d' 0)"
	done
	[ "$keep" = name ] || put "$tmp/one.vhd" $((512 + 64)) "$(printf '%01024d' 0)"
	seal "$tmp/one.vhd" 512 1024 36
	"$img" -r "vhd:$tmp/one.vhd" read 4096 512 2 read 0 512 1 || fail "named by $keep"
done

# Names that need UTF-16: two bytes, three bytes, surrogates; and what a URL must escape.
for name in "päräntti" "親ディスク" "𝄞 disk 😀" "100% #1?.vhd"; do
	cp "$tmp/base.vhd" "$tmp/$name"
	create "vhd:$tmp/n.vhd" --backing "$name" --backing-format vhd
	same "the name" "$name" "$(fact "vhd:$tmp/n.vhd" backing-file)"
	same "all locators say the same" "$name" "$(fact "vhd,parent=none:$tmp/n.vhd" 'parent-locators[^:]*' | sort -u | head -1)"
	"$img" "vhd:$tmp/n.vhd" read 0 $MiB 1
	rm "$tmp/n.vhd"
done
mkdir "$tmp/dir"
cp "$tmp/base.vhd" "$tmp/dir/below.vhd"
create "vhd:$tmp/n.vhd" --backing dir/below.vhd --backing-format vhd
"$img" "vhd:$tmp/n.vhd" read 0 $MiB 1

# Out of the image's directory: not without the operator's word.
mkdir "$tmp/in"
expect_fail "${rdimg[@]}" create "vhd:$tmp/in/x.vhd" --backing ../base.vhd --backing-format vhd 2>/dev/null
cp "$tmp/c1.vhd" "$tmp/in/c1.vhd"
expect_fail "$img" -r "vhd:$tmp/in/c1.vhd" info 2>/dev/null
# itself
cp "$tmp/c1.vhd" "$tmp/self.vhd"
cp "$tmp/self.vhd" "$tmp/base.vhd"
expect_fail "$img" -r "vhd:$tmp/self.vhd" info 2>"$tmp/err"

# A raw parent with larger sectors, as a device may have them: what is read of it is no whole one.
truncate -s 8M "$tmp/big"
if [ "$(id -u)" = 0 ] && loop=$(losetup -b 4096 -f --show "$tmp/big" 2>/dev/null); then
	cleanup losetup -d "$loop"
	"$img" "raw:$loop" write 0 $((4 * MiB)) 1 write $((4 * MiB)) $((4 * MiB)) 2 flush
	create "vhd:$tmp/n4k.vhd" 9M --backing "$loop" --backing-format raw --backing-dir=/dev
	RD_BACKING_DIRS=/dev "$img" "vhd:$tmp/n4k.vhd" write 512 512 7 read 0 512 1 read 512 512 7 read 1024 512 1 \
		read 1024 $((4 * MiB - 1024)) 1 read $((4 * MiB + 512)) 8192 2 read $((8 * MiB - 512)) 512 2 \
		read $((8 * MiB)) $MiB 0 write $((3 * MiB + 512)) 1024 8 zero $((3 * MiB + 1536)) 512 flush \
		read $((3 * MiB)) 512 1 read $((3 * MiB + 512)) 1024 8 read $((3 * MiB + 1536)) 512 0 read $((3 * MiB + 2048)) 4096 1 ||
		fail "sectors of 4096 below"
	RD_BACKING_DIRS=/dev "$img" -r "vhd:$tmp/n4k.vhd" save "$tmp/n4k.raw" || fail "sectors of 4096 below: map"
fi
