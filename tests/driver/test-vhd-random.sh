#!/bin/bash
# Random operations of several threads against a model, with flushes and reopens: dynamic, packed by QEMU, small
# blocks, differencing on one and on two parents; qemu-img sees the same disk at the end, and the check is clean.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"
. "$srcdir/driver/vhd.sh"

require qemu-img --version
random=$top_builddir/tests/qcow2/random
seed=${SEED:-$RANDOM}
echo "seed $seed"

# run IMAGE MIX
run()
{
	"$random" -s "$seed" -n "${PHASES:-6}" -k 120 -t 4 -m "$2" -o "vhd:$1" "$tmp/model" >"$tmp/out" 2>&1 ||
		fail "$1: $(tail -5 "$tmp/out")"
	"$img" -r "vhd:$1" check no >"$tmp/check"
	grep -q "^errors 0 " "$tmp/check" || fail "$1: $(cat "$tmp/check")"
	"${rdimg[@]}" compare "vhd:$1" "raw:$tmp/model" >"$tmp/out" 2>&1 || fail "$1: $(cat "$tmp/out")"
}

# fresh IMAGE PARAMS SIZE
fresh()
{
	create "$2" "$3"
	rm -f "$tmp/model"
	truncate -s "$3" "$tmp/model"
	run "$1" wwwwrrzzddf
	qemu-img compare -f vpc -F raw "$1" "$tmp/model" >"$tmp/out" || fail "$1: $(cat "$tmp/out")"
}

fresh "$tmp/a.vhd" "vhd:$tmp/a.vhd" 24M
fresh "$tmp/small.vhd" "vhd,block-size=16K:$tmp/small.vhd" 24M
fresh "$tmp/fixed.vhd" "vhd,type=fixed:$tmp/fixed.vhd" 8M

# QEMU's layout, with no room between table and blocks; it goes on with the image afterwards.
qemu-img create -q -f vpc -o subformat=dynamic,force_size "$tmp/q.vhd" 24M
truncate -s 0 "$tmp/model"
truncate -s 24M "$tmp/model"
run "$tmp/q.vhd" wwwwrrzzddf
qio "$tmp/q.vhd" "write -P 77 5M 3M" "write -P 78 20M 1M"
"$img" "raw:$tmp/model" write 5242880 3145728 77 write 20971520 1048576 78
run "$tmp/q.vhd" wwwwrrzzddf
qemu-img compare -f vpc -F raw "$tmp/q.vhd" "$tmp/model" >"$tmp/out" || fail "$(cat "$tmp/out")"

# Over parents: what a discard leaves is not said, so there is none.
"${rdimg[@]}" convert "vhd:$tmp/a.vhd" "raw:$tmp/model" --force >/dev/null 2>&1 ||
	{ rm "$tmp/model" && "${rdimg[@]}" convert "vhd:$tmp/a.vhd" "raw:$tmp/model"; }
create "vhd:$tmp/b.vhd" --backing a.vhd --backing-format vhd
run "$tmp/b.vhd" wwwwrrzzf
create "vhd,block-size=64K:$tmp/c.vhd" --backing b.vhd --backing-format vhd
run "$tmp/c.vhd" wwwwrrzzf
# In another cache mode.
run "$tmp/c.vhd" wwwrzf

# It grows meanwhile, and its table over the blocks behind it.
create "vhd,block-size=4K:$tmp/g.vhd" 12M
rm "$tmp/model"
truncate -s 12M "$tmp/model"
before=$(fact "vhd:$tmp/g.vhd" max-blocks)
"$random" -s "$seed" -n 4 -k 60 -t 4 -r 2 -m wwwwrrzdgf -o "vhd:$tmp/g.vhd" "$tmp/model" >"$tmp/out" 2>&1 ||
	fail "growing: $(tail -5 "$tmp/out")"
"$img" -r "vhd:$tmp/g.vhd" check no | grep "^errors 0 " >/dev/null || fail "growing: $("$img" -r "vhd:$tmp/g.vhd" check no)"
[ "$(fact "vhd:$tmp/g.vhd" max-blocks)" -gt "$before" ] || fail "the table has not grown"
