#!/bin/bash
# A raw file that ends inside of a sector: what is only read, alone or below an overlay, has all of its bytes and then
# zeroes, as QEMU reads it. What can be written has whole sectors.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"
. "$srcdir/driver/vhd.sh"

for bytes in 100 512 1000001 4194305; do
	head -c "$bytes" /dev/urandom >"$tmp/tail"
	whole=$(((bytes + 511) / 512 * 512))
	cp "$tmp/tail" "$tmp/padded"
	truncate -s "$whole" "$tmp/padded"
	for options in "" ",cache=none"; do
		size=$("${rdimg[@]}" query "raw$options:$tmp/tail" virtual-size)
		same "size of $bytes bytes$options" "$whole" "$size"
		rm -f "$tmp/copy"
		"${rdimg[@]}" convert "raw$options:$tmp/tail" "raw:$tmp/copy" || fail "convert of $bytes bytes$options"
		cmp "$tmp/padded" "$tmp/copy" || fail "$bytes bytes$options"
	done
	# Below overlays, which may be longer.
	for format in qcow2 vhd; do
		for size in "" 5M; do
			rm -f "$tmp/over"
			"${rdimg[@]}" create "$format:$tmp/over" ${size:+"$size"} -b tail -F raw || fail "create $format on $bytes bytes"
			"${rdimg[@]}" compare "raw:$tmp/padded" "$format:$tmp/over" >/dev/null || fail "$format on $bytes bytes"
			"$img" "$format:$tmp/over" write 0 512 1 flush
			"${rdimg[@]}" read "$format:$tmp/over" -o 512 >"$tmp/copy"
			cmp -n $((whole - 512)) "$tmp/copy" <(tail -c +513 "$tmp/padded") || fail "$format, written, on $bytes bytes"
		done
		if [ "$format" = qcow2 ] && command -v qemu-img >/dev/null; then
			"${rdimg[@]}" create -f "qcow2:$tmp/over" -b tail -F raw
			qemu-img compare -q -f raw -F qcow2 "$tmp/padded" "$tmp/over" || fail "by qemu-img: $bytes bytes"
		fi
	done
	# And back: the image below becomes whole.
	rm "$tmp/over"
	"${rdimg[@]}" create "qcow2:$tmp/over" -b tail -F raw
	if [ "$bytes" -gt 512 ]; then
		"$img" "qcow2:$tmp/over" write 0 512 1 flush
		"${rdimg[@]}" commit "qcow2:$tmp/over" 2>"$tmp/err" || fail "commit onto $bytes bytes: $(cat "$tmp/err")"
		"$img" "raw:$tmp/padded" write 0 512 1
		cmp "$tmp/padded" "$tmp/tail" || fail "commit onto $bytes bytes"
	fi
done

head -c 1000 /dev/urandom >"$tmp/tail"
"$img" "raw:$tmp/tail" info >"$tmp/out" 2>"$tmp/err"
grep -q "^size 512 " "$tmp/out" || fail "for writing: $(cat "$tmp/out")"
grep -q "left out" "$tmp/err" || fail "for writing: no warning"
: >"$tmp/tail"
says "is empty" "$img" -r "raw:$tmp/tail" info
