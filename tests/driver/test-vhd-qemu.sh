#!/bin/bash
# VHD images of QEMU are read as QEMU reads them, and what we write into them QEMU reads: fixed and dynamic.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"
. "$srcdir/driver/vhd.sh"

require qemu-img --version
require qemu-io --version

for type in fixed dynamic; do
	disk=$tmp/$type.vhd
	qemu-img create -q -f vpc -o "subformat=$type,force_size" "$disk" 64M
	qio "$disk" "write -P 7 1M 3M" "write -P 9 40M 64k" "write -P 1 67108352 512"

	"$img" "vhd:$disk" info >"$tmp/info"
	grep -q "^size 67108864 logical 512" "$tmp/info" || fail "$type: $(cat "$tmp/info")"
	"$img" -r "vhd:$disk" read 0 1048576 0 read 1048576 3145728 7 read 41943040 65536 9 \
		read 42008576 10000384 0 read 67108352 512 1 -read 67108352 1024 1 -write 0 512 1 >/dev/null
	# Reading for a picture of it: no byte of the file changes.
	sum=$(sha256sum <"$disk")
	"$img" -p "vhd:$disk" read 1048576 3145728 7
	"$img" "vhd:$disk" read 1048576 3145728 7 flush
	same "$type: the file after reading" "$sum" "$(sha256sum <"$disk")"

	"$img" "vhd:$disk" write 33554432 1048576 3 read 33554432 1048576 3 read 34603008 1048576 0 \
		write 512 512 4 write 4193792 4194304 5 zero 1048576 1048576 flush \
		read 512 512 4 read 4193792 4194304 5 read 1048576 1048576 0 read 2097152 2096640 7
	qio "$disk" "read -P 3 32M 1M" "read -P 0 33M 1M" "read -P 4 512 512" "read -P 5 4193792 4M" \
		"read -P 0 1M 1M" "read -P 7 2M 2096640" "read -P 9 40M 64k" "read -P 1 67108352 512"
	qio "$disk" "write -P 11 50M 2M"
	"$img" -d "vhd:$disk" read 52428800 2097152 11 write 10485760 512 12 read 10485760 512 12 2>"$tmp/err" ||
		grep -q "direct" "$tmp/err" || fail "direct: $(cat "$tmp/err")"
	qemu-img compare -f vpc -F vpc "$disk" "$disk" >/dev/null
done

# Sizes by geometry: what QEMU makes without force_size says "qemu".
qemu-img create -q -f vpc -o subformat=dynamic "$tmp/chs.vhd" 100M
size=$(qemu-img info --output=json "$tmp/chs.vhd" | sed -n 's/.*"virtual-size": \([0-9]*\),.*/\1/p')
"$img" "vhd:$tmp/chs.vhd" info >"$tmp/info"
grep -q "^size $size " "$tmp/info" || fail "by geometry: $(cat "$tmp/info"), not $size"
