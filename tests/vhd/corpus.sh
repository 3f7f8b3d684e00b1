#!/bin/bash
# corpus.sh DIRECTORY: malformed VHD images of every kind that somebody has met or thought of (V1 to V11), and a
# list of what is to become of each, DIRECTORY/expected: NAME, then for reading and for writing
#
#	good      opens, and everything can be read or written
#	errors    opens, and what is in doubt is an I/O error
#	refused   does not open
#
# Needs what functions.sh, driver/functions.sh and driver/vhd.sh give. All are small but for three that are holes.
# shellcheck disable=SC2154

out=$1
header=512
table=4096
entries=64
block=4096
: >"$out/expected"

# A good one: 256 KiB in blocks of 4 KiB, three of them there. And one that stands on it.
make_good()
{
	create "vhd,block-size=$block:$out/good" 256K
	"$img" "vhd:$out/good" write 0 4096 1 write 8192 4096 2 write 258048 4096 3 flush
	create "vhd,block-size=$block:$out/diff" --backing good --backing-format vhd
	"$img" "vhd:$out/diff" write 4096 4096 4 write 8192 512 5 flush
	create "vhd,type=fixed:$out/fixed" 256K
	create "vhd:$out/tap" 6M
	"$img" "vhd:$out/tap" write 0 6291456 6 flush
}

# case NAME READ WRITE [BASE]: begin one; it is the copy of a good one in $c.
case_of()
{
	c=$out/$1
	cp "$out/${4:-good}" "$c"
	echo "$1 $2 $3" >>"$out/expected"
}

# both OFFSET HEX: in both footers, sealed.
both()
{
	put "$c" "$1" "$2"
	seal_footers "$c"
}

# head OFFSET HEX: in the header, sealed.
head_of()
{
	put "$c" $((header + $1)) "$2"
	seal "$c" $header 1024 36
}

entry() { put "$c" $((table + $1 * 4)) "$2"; }
end_of() { echo $(($(stat -c %s "$c") - 512)); }
sector_of() { get "$c" $((table + $1 * 4)) 4; }

footers()
{
	local type

	case_of v1-cookies refused refused
	put "$c" 0 "00"; put "$c" "$(end_of)" "00"
	case_of v1-end-cookie good good
	put "$c" "$(end_of)" "00"
	case_of v1-copy-cookie good good
	put "$c" 0 "00"
	case_of v1-end-checksum good good
	put "$c" $(($(end_of) + 64)) 12345678
	case_of v1-copy-checksum good good
	put "$c" 64 12345678
	case_of v1-both-checksums refused refused
	put "$c" 64 12345678; put "$c" $(($(end_of) + 64)) 12345678
	case_of v1-differ good good
	put "$c" 85 01; seal "$c" 0 512 64
	case_of v1-differ-id good good
	put "$c" 70 "0102"; seal "$c" 0 512 64
	for type in 00000000 00000001 00000005 00000006 000000ff ffffffff; do
		case_of "v1-type-$type" refused refused
		both 60 $type
	done
	case_of v1-version refused refused
	both 12 00020000
	case_of v1-511 good good
	truncate -s -1 "$c"
	case_of v1-fixed-no-footer refused refused fixed
	truncate -s -512 "$c"
	case_of v1-fixed-guest-wrote-one good good fixed
	dd if="$out/good" of="$c" bs=512 count=16 conv=notrunc status=none
	case_of v1-empty refused refused
	: >"$c"
	case_of v1-one-byte refused refused
	printf c >"$c"
	case_of v1-only-footer refused refused
	truncate -s 512 "$c"
}

headers()
{
	local at

	for at in 0000000000000000 0000000000000001 0000000000000201 7fffffffffffffff 8000000000000000 \
		fffffffffffffe00 ffffffffffffffff; do
		case_of "v2-data-offset-$at" refused refused
		both 16 $at
	done
	case_of v2-data-offset-eof refused refused
	both 16 "$(printf %016x $(($(stat -c %s "$c") - 1)))"
	case_of v2-data-offset-last refused refused
	both 16 "$(printf %016x "$(end_of)")"
	case_of v2-cookie refused refused
	head_of 0 00
	case_of v2-version refused refused
	head_of 24 00020000
	case_of v2-checksum refused refused
	put "$c" $((header + 36)) 00000000
	case_of v2-next refused refused
	head_of 8 0000000000001000
	for at in 0000000000000000 0000000000001001 00000000ffffff00 7ffffffffffffe00 fffffffffffffe00 \
		0000000000000200 0000000000000400; do
		case_of "v3-table-$at" refused refused
		head_of 16 $at
	done
	for at in 00000000 00000001 0000003f 40000000 7fffffff 80000000 ffffffff; do
		case_of "v4-entries-$at" refused refused
		head_of 28 $at
	done
	case_of v4-more-entries good good
	head_of 28 00000080
	for at in 00000000 00000001 000001ff 00000201 00300000 80000000 00001800; do
		case_of "v5-block-$at" refused refused
		head_of 32 $at
	done
	# One block, which the end of the file cuts: what it has of bitmap and data can be read.
	case_of v5-block-1M good refused
	head_of 32 00100000
	case_of v5-block-4M good refused
	head_of 32 00400000
	case_of v5-block-1G errors refused
	head_of 32 40000000
	case_of v5-block-512 refused refused
	head_of 32 00000200
}

sizes()
{
	local size

	for size in 0000000000000000 00000000000001ff 000001fe00000200 7fffffffffffffff ffffffffffffffff; do
		case_of "v6-size-$size" refused refused
		both 48 $size
	done
	case_of v6-size-odd good good
	both 48 000000000003fe01
	case_of v6-larger-than-table refused refused
	both 48 0000000000041000
	case_of v6-smaller good good
	both 48 0000000000010200
	case_of v6-fixed-larger refused refused fixed
	put "$c" $(($(end_of) + 48)) 0000000000041000
	seal "$c" "$(end_of)" 512 64
	case_of v6-fixed-smaller good good fixed
	put "$c" $(($(end_of) + 48)) 000000000003f000
	seal "$c" "$(end_of)" 512 64
	# By geometry: of "vpc ", that is none at all, and then the current size counts.
	case_of v6-geometry-0 good good
	both 28 76706320; both 56 00000000
	case_of v6-geometry-larger refused refused
	both 28 76706320; both 56 00ff10ff
	case_of v6-geometry-smaller good good
	both 28 76706320; both 56 00010411
}

tables()
{
	local at

	for at in 00000000 00000001 00000007 00000008; do
		case_of "v7-entry-header-$at" errors refused
		entry 1 $at
	done
	for at in 7fffffff fffffffd fffffffe 00001000; do
		case_of "v7-entry-behind-$at" errors refused
		entry 1 $at
	done
	case_of v7-entry-twice errors refused
	entry 1 "$(printf %08x "$(sector_of 0)")"
	case_of v7-entry-overlap errors refused
	entry 1 "$(printf %08x $(($(sector_of 0) + 1)))"
	case_of v7-entry-footer errors refused
	entry 1 "$(printf %08x $(($(end_of) / 512)))"
	case_of v7-entry-footer-before errors refused
	entry 1 "$(printf %08x $(($(end_of) / 512 - 1)))"
	case_of v7-all-zero errors refused
	dd if=/dev/zero of="$c" bs=1 seek=$table count=$((entries * 4)) conv=notrunc status=none
}

parents()
{
	local i

	case_of v8-good good good diff
	case_of v8-no-name refused refused diff
	for i in 0 1 2; do put "$c" $((header + 576 + i * 24)) "$(printf %048d 0)"; done
	head_of 64 "$(printf %01024d 0)"
	case_of v8-wrong-id refused refused diff
	head_of 40 "0102030405060708"
	case_of v8-raw-by-null-id good good diff
	head_of 40 "$(printf %032d 0)"
	# One locator is garbage: the others are enough.
	case_of v8-locator-code good good diff
	head_of 576 deadbeef
	case_of v8-locator-length-0 good good diff
	head_of $((576 + 8)) 00000000
	case_of v8-locator-length-max good good diff
	head_of $((576 + 8)) ffffffff
	case_of v8-locator-space-max good good diff
	head_of $((576 + 4)) ffffffff
	case_of v8-locator-behind good good diff
	head_of $((576 + 16)) 00ffffffffffff00
	case_of v8-locator-wraps good good diff
	head_of $((576 + 16)) fffffffffffffff0
	# All of them say so, and the name in the header as well.
	named v8-odd-utf16 refused 2e005c0067006f006f00
	named v8-high-surrogate refused 34d8
	named v8-low-surrogate refused 1edd
	named v8-two-high refused 34d834d8
	named v8-absolute refused "$(utf16 /etc/shadow)"
	named v8-above refused "$(utf16 '..\good')"
	named v8-drive refused "$(utf16 'C:\etc\passwd')"
	named v8-device refused "$(utf16 /dev/zero)"
	named v8-proc refused "$(utf16 /proc/self/mem)"
	named v8-protocol refused "$(utf16 nbd:localhost:1)"
	named v8-json refused "$(utf16 'json:{}')"
	named v8-itself refused "$(utf16 v8-itself)"
	named v8-dot refused "$(utf16 .)"
	named v8-empty refused 0000
	named v8-good-by-windows good "$(utf16 '.\good')"
	case_of v8-cycle-a refused refused diff
	case_of v8-cycle-b refused refused diff
	sed -i '/^v8-cycle-[ab] /d' "$out/expected"
	c=$out/v8-cycle-a; rename_parent "$(utf16 v8-cycle-b)"
	c=$out/v8-cycle-b; rename_parent "$(utf16 v8-cycle-a)"
	echo "v8-cycle-a refused refused" >>"$out/expected"
	echo "v8-cycle-b refused refused" >>"$out/expected"
}

utf16() { printf %s "$1" | od -An -tx1 -v -w1 | awk '{ printf "%s00", $1 }'; }

# The only locator is the relative Windows path of these bytes, in hex.
rename_parent()
{
	local at
	at=$(get "$c" $((header + 576 + 16)) 8)
	put "$c" "$at" "$1"
	put "$c" $((header + 576)) 57327275
	put "$c" $((header + 576 + 8)) "$(printf %08x $((${#1} / 2)))"
	put "$c" $((header + 576 + 24)) "$(printf %096d 0)"
	head_of 64 "$(printf %01024d 0)"
}

named()
{
	case_of "$1" "$2" "$2" diff
	[ "${1#v8-odd}" = "$1" ] || { rename_parent "$3"; head_of $((576 + 8)) 00000009; return; }
	rename_parent "$3"
}

batmaps()
{
	local map
	map=$((table + 512))
	case_of v9-checksum good good tap
	put "$c" $((map + 24)) 00000000
	case_of v9-size-0 good good tap
	put "$c" $((map + 16)) 00000000
	case_of v9-size-max good good tap
	put "$c" $((map + 16)) ffffffff
	case_of v9-offset good good tap
	put "$c" $((map + 8)) ffffffffffffff00
	case_of v9-over-header good good tap
	put "$c" $((map + 8)) 0000000000000200
	case_of v9-encrypted refused refused tap
	put "$c" $((map + 29)) 01
	case_of v9-says-full good good tap
	put "$c" "$(($(get "$c" "$table" 4) * 512))" 00
	case_of v10-saved-state good good
	both 84 01
	case_of v10-poisoned refused refused
	put "$c" 0 765f706f69736f6e; put "$c" "$(end_of)" 765f706f69736f6e
}

ends()
{
	# The last block is cut: what is left of it can be read.
	case_of v11-cut-block errors refused
	truncate -s $(($(end_of) - 1024)) "$c"
	case_of v11-cut-all errors refused
	truncate -s 4864 "$c"
	case_of v11-cut-table refused refused
	truncate -s 4100 "$c"
	case_of v11-no-footer good good
	truncate -s "$(end_of)" "$c"
	case_of v11-garbage good good
	head -c 3333 /dev/zero | tr '\0' x >>"$c"
	case_of v11-garbage-like-a-footer good good
	{ head -c 1024 /dev/zero; head -c 512 "$out/fixed"; } >>"$c"
	case_of v11-sparse good good
	truncate -s 1T "$c"
}

make_good
footers
headers
sizes
tables
parents
batmaps
ends
