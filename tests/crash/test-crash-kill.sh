#!/bin/bash
# SIGKILL at any moment: what had been acknowledged is there when the image is opened again, by the redo
# log. Without the log it is not, and the test finds that.
. "${srcdir:-.}/functions.sh"
. "$srcdir/crash/functions.sh"
# The commands in quotes are for crash, args comes from functions.sh.
# shellcheck disable=SC2016,SC2154

command -v qemu-img >/dev/null || skip "no qemu-img"
rounds=20
[ -z "$long" ] || rounds=500

for options in "" compat=0.10; do
	qcow2 1024 $options
	judged --depth=0 --kill=$rounds "${args[@]}"
	judged --depth=0 --kill=$rounds --fill --seed=2 "${args[@]}"
done
found --depth=0 --kill=$rounds --no-redo "${args[@]}"
qcow2_compressed 1024
judged --depth=0 --kill=$rounds "${args[@]}"
qcow2_overlay 1024
judged --depth=0 --kill=$rounds "${args[@]}"

vhd=(--block=2097152 --size=8388608 --create='qemu-img create -q -f vpc -o force_size=on "$1" $2' vhd)
judged --depth=0 --kill=$((rounds / 4)) --length=20 "${vhd[@]}"
found --depth=0 --kill=$rounds --length=20 --no-redo "${vhd[@]}"

# Killed itself, it leaves nothing behind.
qcow2 1024
"$crash" --depth=0 --random=100000 "${args[@]}" >/dev/null 2>&1 &
pid=$!
dir=
for ((i = 0; i < 600; i++)); do
	dir=$(find "/proc/$pid/fd" -lname '*/ringdisk-crash.*' -printf '%l\n' 2>/dev/null | sed -n '1s,/[^/]*$,,p') || true
	[ -z "$dir" ] || break
	kill -0 $pid 2>/dev/null || fail "crash is not there any more"
	sleep 0.05
done
kill -9 $pid
wait $pid 2>/dev/null || true
[ -n "$dir" ] || fail "crash has no directory"
for ((i = 0; i < 600; i++)); do
	[ -e "$dir" ] || break
	sleep 0.05
done
[ ! -e "$dir" ] || fail "$dir stays behind"
