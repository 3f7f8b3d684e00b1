#!/bin/bash
# Power loss at every moment with VHD images, dynamic and differencing.
. "${srcdir:-.}/functions.sh"
. "$srcdir/crash/functions.sh"
# The commands in quotes are for crash, args comes from functions.sh.
# shellcheck disable=SC2016,SC2154

command -v qemu-img >/dev/null || skip "no qemu-img"
export RDIMG=$rimg
# Judges beside our own check: qemu-img opens it; libvhdi reads all of it, but no blocks of less than eight sectors.
qemu_opens='qemu-img info -f vpc "$1" >/dev/null 2>&1'
others_read=$qemu_opens
cat >"$tmp/read.py" <<'END'
import sys
import pyvhdi

f = pyvhdi.file()
f.open(sys.argv[1])
at = 0
while at < f.media_size:
    n = min(1 << 20, f.media_size - at)
    assert len(f.read_buffer_at_offset(n, at)) == n
    at += n
END
for python in python3 /usr/bin/python3; do
	! "$python" -c 'import pyvhdi' 2>/dev/null || others_read="$qemu_opens && $python '$tmp/read.py' \"\$1\""
done

# dynamic BLOCK SIZE, differencing BLOCK SIZE: arguments of crash for images with small blocks: what matters is how many,
# and states are small. The parent is raw and full of data.
dynamic()
{
	local judge=$others_read

	[ "$1" -ge 4096 ] || judge=$qemu_opens
	args=(--block="$1" --size="$2" --judge="$judge" --create="\"\$RDIMG\" -q --driver-dir \"\$RD_DRIVERS\" create -o block-size=$1 -o creator=win vhd:\$1 \$2" vhd)
}

differencing()
{
	args=(--made --block="$1" --size="$2" --create="\"\$RDIMG\" -q --driver-dir \"\$RD_DRIVERS\" create -b live.raw -F raw -o block-size=$1 -o creator=win vhd:\$1" vhd)
}

# All histories of two operations, and of three: some of them here, all in the long version.
part=100 few=20 chances=1 length=8 external=40
[ -z "$long" ] || part=1 few=1 chances=200 length=30 external=50

dynamic 512 8192
judged --depth=3 --part=$part --all=4 --external=$external "${args[@]}"
# A flush that is left out is found.
found --drop-flush=0 --depth=2 --all=4 "${args[@]}"
dynamic 4096 65536
judged --depth=$((${long:-0} ? 2 : 0)) --random=$chances --length=$length --all=4 --external=$external "${args[@]}"
differencing 512 8192
judged --depth=$((${long:-0} ? 3 : 2)) --part=$((${long:-0} ? 1 : 8)) --all=4 "${args[@]}"
differencing 4096 65536
judged --depth=$((${long:-0} ? 2 : 0)) --random=$chances --length=$length --all=4 "${args[@]}"

# As other programs make them; blocks of 2 MiB.
vpc=(--block=2097152 --size=8388608 --judge="$others_read" --external="$external" --create='qemu-img create -q -f vpc -o force_size=on "$1" $2' vhd)
judged --depth=$((${long:-0} ? 2 : 0)) --random=$((${long:-0} ? 50 : 1)) --length=6 --all=4 "${vpc[@]}"
# With a batmap, as XenServer has them: map and checksum are not written at once.
tap=(--block=2097152 --size=8388608 --create='"$RDIMG" -q --driver-dir "$RD_DRIVERS" create "vhd:$1" $2' vhd)
judged --depth=$((${long:-0} ? 2 : 1)) --random=$((${long:-0} ? 50 : 0)) --length=6 --all=4 "${tap[@]}"

# A table that grows over what stands behind it, and another parent's name, over a raw one: locators move, and the header
# is there whole, or the one before it is.
over='ln "$1.raw" "$1.other"; "$RDIMG" -q --driver-dir "$RD_DRIVERS" create -b live.raw -F raw'
judged --depth=1 --all=9 --made --rebase=raw --block=512 --size=524288 \
	--create="$over -o block-size=512 -o creator=win vhd:\$1" vhd
judged --depth=2 --part="$few" --random="$chances" --length=10 --all=4 --made --rebase=raw --block=4096 --size=65536 \
	--create="$over -o block-size=4096 -o creator=win vhd:\$1" vhd
