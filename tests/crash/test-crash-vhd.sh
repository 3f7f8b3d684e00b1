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
