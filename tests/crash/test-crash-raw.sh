#!/bin/bash
# Power loss at every moment with raw, where nothing can go wrong but the harness: it must find nothing,
# and find every flush that is left out.
. "${srcdir:-.}/functions.sh"
. "$srcdir/crash/functions.sh"
# The commands in quotes are for crash, args comes from functions.sh.
# shellcheck disable=SC2016,SC2154

raw=(--create='truncate -s $2 $1' raw)
if [ -n "$long" ]; then
	judged --random=2000 --all=8 "${raw[@]}"
	judged --random=2000 --all=8 --fill --seed=2 "${raw[@]}"
else
	judged --part=20 --random=15 "${raw[@]}"
	judged --depth=2 --random=15 --fill "${raw[@]}"
fi
found --drop-flush=0 "${raw[@]}"
found --drop-flush=0 --fill "${raw[@]}"
found --drop-flush=1 --depth=2 "${raw[@]}"
# Of two flushes the second: one that only a history of three can show.
found --drop-flush=2 --depth=4 --part=100 "${raw[@]}"
found --drop-flush=3 --depth=0 --random=20 "${raw[@]}"
