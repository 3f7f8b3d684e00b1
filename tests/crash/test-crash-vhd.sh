#!/bin/bash
# Power loss at every moment with dynamic VHD images.
. "${srcdir:-.}/functions.sh"
. "$srcdir/crash/functions.sh"
# The commands in quotes are for crash, args comes from functions.sh.
# shellcheck disable=SC2016,SC2154

command -v qemu-img >/dev/null || skip "no qemu-img"
chances=1 part=100 depth=1
[ -z "$long" ] || chances=100 part=1 depth=3

vhd=(--block=2097152 --size=8388608 --create='qemu-img create -q -f vpc -o force_size=on "$1" $2' vhd)
judged --depth=$depth --part=$part --random=$chances --length=10 --all=4 "${vhd[@]}"

# A flush that is left out is found.
found --drop-flush=0 --depth=2 --all=4 "${vhd[@]}"

# A table that grows over what stands behind it, and another parent's name, over a raw one: locators move, and the header
# is there whole, or the one before it is.
export RDIMG=$rimg
over='ln "$1.raw" "$1.other"; "$RDIMG" -q --driver-dir "$RD_DRIVERS" create -b live.raw -F raw'
judged --depth=1 --all=9 --made --rebase=raw --block=512 --size=524288 \
	--create="$over -o block-size=512 -o creator=win vhd:\$1" vhd
judged --depth=2 --part=8 --random="$chances" --length=10 --all=4 --made --rebase=raw --block=4096 --size=65536 \
	--create="$over -o block-size=4096 -o creator=win vhd:\$1" vhd

# One as XenServer has them, with a batmap: map and checksum are not written at once.
tap=(--block=2097152 --size=8388608 --create='"$RDIMG" -q --driver-dir "$RD_DRIVERS" create "vhd:$1" $2' vhd)
judged --depth=1 --all=4 "${tap[@]}"
[ -z "$long" ] || judged --depth=2 --random=20 --length=10 --all=4 "${tap[@]}"
