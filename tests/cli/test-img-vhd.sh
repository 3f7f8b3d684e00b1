#!/bin/bash
# ringdisk-img on VHD: made, converted both ways, an overlay and its commit; judged by qemu-img.
. "${srcdir:-.}/functions.sh"
. "$srcdir/cli/img-functions.sh"
require qemu-img --version

cd "$tmp"
truncate -s 64M a
fill a 0 5000
fill a 30000 7001
fill a 65535 1

for type in dynamic fixed; do
	img 0 convert -o "type=$type" "raw:$tmp/a" "vhd:$tmp/$type.vhd"
	qemu-img compare -q -f raw -F vpc a "$type.vhd" || fail "$type: not what qemu-img reads"
	img 0 compare --strict "raw:$tmp/a" "vhd:$tmp/$type.vhd"
	img 0 check "vhd:$tmp/$type.vhd"
	rm -f back
	img 0 convert "vhd:$tmp/$type.vhd" "raw:$tmp/back"
	cmp a back
done
[ "$(stored dynamic.vhd)" -lt $((20 << 20)) ] || fail "the copy is not sparse"
img 0 info --json "vhd:$tmp/dynamic.vhd"
json "d['vhd']['type'] == 'dynamic' and d['virtual-size'] == 64 << 20"

# From qemu-img's, with its way of saying sizes.
qemu-img convert -f raw -O vpc -o force_size=on a qemu.vhd
img 0 compare "raw:$tmp/a" "vhd:$tmp/qemu.vhd"

# An overlay, and what it holds into the image below.
img 0 create -b dynamic.vhd -F vhd "vhd:$tmp/over.vhd"
fill large 0 3000
img 0 write "vhd:$tmp/over.vhd" -o 5000000 <large
img 0 write "vhd:$tmp/over.vhd" -o 50000001 <large
img 0 read "vhd:$tmp/over.vhd"
cp out expected
img 0 map --json "vhd:$tmp/over.vhd"
json "{r['depth'] for r in d if r['data']} == {0, 1}"
img 0 info --chain --json "vhd:$tmp/over.vhd"
json "len(d) == 2 and d[0]['vhd']['backing-file'].endswith('dynamic.vhd')"
img 0 commit "vhd:$tmp/over.vhd"
img 0 compare "raw:$tmp/expected" "vhd:$tmp/dynamic.vhd"
# The disk of the overlay is what it was, emptied or not.
img 0 compare "raw:$tmp/expected" "vhd:$tmp/over.vhd"
qemu-img compare -q -f raw -F vpc expected dynamic.vhd
img 0 check "vhd:$tmp/dynamic.vhd"
img 0 check "vhd:$tmp/over.vhd"

img 0 resize "vhd:$tmp/dynamic.vhd" 100M
img 0 compare "raw:$tmp/expected" "vhd:$tmp/dynamic.vhd"
