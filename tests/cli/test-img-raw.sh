#!/bin/bash
# ringdisk-img on raw images: what it makes, shows, copies and compares, against cmp and qemu-img.
. "${srcdir:-.}/functions.sh"
. "$srcdir/cli/img-functions.sh"

# --- create

img 0 create "raw:$tmp/a" 8M
same "size" 8388608 "$(stat -c %s "$tmp/a")"
same "stored" 0 "$(stored "$tmp/a")"
says out "8 MiB"
img 1 create "raw:$tmp/a" 8M
says err "is there already"
says err "with --force; convert --no-create"
fill "$tmp/a" 0 16
img 0 create --force "raw:$tmp/a" 4M
same "size" 4194304 "$(stat -c %s "$tmp/a")"
same "stored" 0 "$(stored "$tmp/a")"
for how in falloc full; do
	img 0 create -o "preallocation=$how" "raw:$tmp/$how" 1M
	same "size, $how" 1048576 "$(stat -c %s "$tmp/$how")"
	[ "$(stored "$tmp/$how")" -ge 1048576 ] || fail "preallocation=$how reserves nothing"
	cmp -n 1048576 "$tmp/$how" /dev/zero
done
img 0 create "raw,preallocation=off:$tmp/off" 1M
img 1 create -o preallocation=some "raw:$tmp/b" 1M
says err "preallocation is off, falloc or full"
[ ! -e "$tmp/b" ] || fail "a failed create leaves a file"
img 1 create -o cluster-size=64k "raw:$tmp/b" 1M
says err 'there is no option "cluster-size"'
img 1 create "raw:$tmp/b" 1000
says err "no multiple of 512"
img 2 create "raw:$tmp/b" much
img 2 create "raw:$tmp/b"
img 1 create -b "$tmp/a" -F raw "raw:$tmp/b"
says err "stands on nothing"
[ ! -e "$tmp/b" ] || fail "a failed create leaves a file"
img 1 create "raw:$tmp/no/b" 1M
says err "No such file or directory"

# --- formats are never guessed

img 1 info "$tmp/a"
says err "raw:$tmp/a"
says err "never guessed"
printf 'QFI\373\0\0\0\3' >"$tmp/q"
truncate -s 64K "$tmp/q"
img 1 info "$tmp/q"
says err "qcow2"
truncate -s 63K "$tmp/v"
printf 'conectix' >>"$tmp/v"
truncate -s 65024 "$tmp/v"
img 1 info "$tmp/v"
says err "vhd"
img 1 info "quux:$tmp/a"
says err 'there is no driver "quux"'
img 1 info "raw:$tmp/missing"
says err "No such file or directory"
img 1 info "raw,colour=red:$tmp/a"
says err 'no option "colour"'

# --- info

fill "$tmp/a" 1024 100
img 0 info "raw:$tmp/a"
says out "format: raw"
says out "flush, discard, write-zeroes, resize"
says out "virtual-size: 4 MiB (4194304 bytes)"
img 0 info --json "raw:$tmp/a"
json "d['virtual-size'] == 4194304 and d['file-size'] == 4194304 and d['disk-size'] == $(stored "$tmp/a")"
img 0 info "raw,cache=unsafe,sector-size=4096:$tmp/a"
says out "logical-block: 4096"

# --- map

fill "$tmp/a" 3000 1096
img 0 map "raw:$tmp/a"
says out "data"
says out "hole"
img 0 map --json "raw:$tmp/a"
cp "$tmp/out" "$tmp/map"
require qemu-img --version
qemu-img map -f raw --output=json "$tmp/a" >"$tmp/map.qemu"
python3 - "$tmp/map" "$tmp/map.qemu" <<'END'
import json, sys
ours, theirs = (json.load(open(name, encoding="ascii")) for name in sys.argv[1:])
for run in theirs:
    run.pop("compressed", None)
assert ours == theirs, (ours, theirs)
assert len(ours) > 3
END

# --- convert

img 0 convert "raw:$tmp/a" "raw:$tmp/c"
cmp "$tmp/a" "$tmp/c"
[ "$(stored "$tmp/c")" -le "$(stored "$tmp/a")" ] || fail "the copy is less sparse"
# Zeroes that are stored become holes.
img 0 convert "raw:$tmp/full" "raw:$tmp/c" --force
cmp "$tmp/full" "$tmp/c"
same "stored" 0 "$(stored "$tmp/c")"
img 0 convert -S 0 "raw:$tmp/full" "raw:$tmp/c" --force
cmp "$tmp/full" "$tmp/c"
[ "$(stored "$tmp/c")" -ge 1048576 ] || fail "-S 0 did not write the zeroes"
img 0 convert --sync -T 1 "raw:$tmp/a" "raw:$tmp/c" --force --json
json "d['virtual-size'] == 4194304"
cmp "$tmp/a" "$tmp/c"
img 1 convert "raw:$tmp/a" "raw:$tmp/c"
says err "is there already"
cmp "$tmp/a" "$tmp/c"
# Into what is there: its old content goes, what is behind the source's end stays.
rm "$tmp/c"
truncate -s 5M "$tmp/c"
fill "$tmp/c" 0 5120
cp "$tmp/c" "$tmp/c.before"
img 0 convert -n "raw:$tmp/a" "raw:$tmp/c"
cmp -n 4194304 "$tmp/a" "$tmp/c"
cmp -i 4194304 "$tmp/c" "$tmp/c.before"
img 1 convert -n "raw:$tmp/c" "raw:$tmp/a"
says err "less than"
img 1 convert --compress "raw:$tmp/a" "raw:$tmp/d"
says err "cannot be compressed"
[ ! -e "$tmp/d" ] || fail "a failed convert leaves a file"
img 2 convert --sparse 3000 "raw:$tmp/a" "raw:$tmp/d"
img 2 convert --threads 0 "raw:$tmp/a" "raw:$tmp/d"
# A source that cannot be read: no target is left.
img 1 convert "error,op=read,nth=2:raw:$tmp/a" "raw:$tmp/d"
says err "reading at byte"
[ ! -e "$tmp/d" ] || fail "a failed convert leaves a file"
# Nor is a link to a file that was there removed.
: >"$tmp/target"
ln -s target "$tmp/link"
img 1 convert --force "error,op=read,nth=2:raw:$tmp/a" "raw:$tmp/link"
[ -L "$tmp/link" ] || fail "a failed convert removes a link"
# A short tail, and odd places of data.
for size in 512 4608 1049088 2097152; do
	rm -f "$tmp/odd" "$tmp/odd2"
	truncate -s "$size" "$tmp/odd"
	dd if=/dev/urandom of="$tmp/odd" bs=512 count=1 seek=$((size / 512 - 1)) conv=notrunc status=none
	img 0 convert -q "raw:$tmp/odd" "raw:$tmp/odd2"
	cmp "$tmp/odd" "$tmp/odd2"
done

# --- compare

img 0 compare "raw:$tmp/a" "raw:$tmp/a"
says out "The same."
img 0 compare --json "raw:$tmp/full" "raw:$tmp/off"
json "d['same'] is True"
cp --sparse=always "$tmp/a" "$tmp/e"
printf x | dd of="$tmp/e" bs=1 seek=3333333 conv=notrunc status=none
at=$(cmp "$tmp/a" "$tmp/e" | sed 's/.*byte \([0-9]*\).*/\1/') || true
img 1 compare "raw:$tmp/a" "raw:$tmp/e"
says out "Different at byte $((at - 1))."
printf x | dd of="$tmp/e" bs=1 seek=2000001 conv=notrunc status=none
img 1 compare --json "raw:$tmp/e" "raw:$tmp/a"
json "d['first-difference'] == 2000001"
cp --sparse=always "$tmp/a" "$tmp/f"
truncate -s 5M "$tmp/f"
img 0 compare "raw:$tmp/a" "raw:$tmp/f"
img 1 compare --strict "raw:$tmp/a" "raw:$tmp/f"
says out "Different in size."
fill "$tmp/f" 5000 1
img 1 compare "raw:$tmp/f" "raw:$tmp/a"
says out "Different at byte 51200"
img 2 compare "raw:$tmp/a" "raw:$tmp/missing"
img 2 compare "raw:$tmp/a"

# --- what is locked by another stays alone

qemu-io -f raw -c "sleep 60000" "$tmp/a" >/dev/null 2>&1 &
holder=$!
cleanup stop "$holder"
wait_for 10 grep -q "$(stat -c %i "$tmp/a") 100" /proc/locks
img 1 convert -n "raw:$tmp/c.before" "raw:$tmp/a"
says err "locked"
stop "$holder"

# --- progress, and the end by a signal

img 0 convert --force --progress "raw:$tmp/a" "raw:$tmp/c"
says err "convert: 100.0%"
truncate -s 64M "$tmp/slow"
fill "$tmp/slow" 0 65536
env --default-signal=INT "$rimg" convert --driver-dir "$drivers" --threads 1 "delay,read-ms=100:raw:$tmp/slow" "raw:$tmp/new" \
	>"$tmp/out" 2>"$tmp/err" &
copy=$!
wait_for 10 test -s "$tmp/new"
kill -INT "$copy"
status=0
wait "$copy" || status=$?
same "status after SIGINT" 130 "$status"
[ ! -e "$tmp/new" ] || fail "an interrupted convert leaves a file"
says err "interrupted"

# What --force was to replace is there until the end.
fill "$tmp/c" 0 16
cp "$tmp/c" "$tmp/before"
ln -s c "$tmp/alias"
env --default-signal=INT "$rimg" convert --force --driver-dir "$drivers" --threads 1 "delay,read-ms=100:raw:$tmp/slow" \
	"raw:$tmp/alias" >"$tmp/out" 2>"$tmp/err" &
copy=$!
wait_for 10 eval "! cmp -s $tmp/c $tmp/before"
kill -INT "$copy"
wait "$copy" && fail "convert was not interrupted"
says err "$tmp/c is what it was"
cmp "$tmp/c" "$tmp/before" || fail "an interrupted convert --force loses what was there"
img 1 convert --force -o preallocation=some "raw:$tmp/slow" "raw:$tmp/c"
cmp "$tmp/c" "$tmp/before"
img 0 convert --force "raw:$tmp/a" "raw:$tmp/c"
cmp "$tmp/c" "$tmp/a"
for left in "$tmp"/*.old-*; do
	[ ! -e "$left" ] || fail "$left is left"
done

# --- usage

for verb in create info map convert compare; do
	img 0 "$verb" --help
	says out "Usage: ringdisk-img $verb"
done
img 2 copy
img 2 converd
says err 'did you mean "convert"?'
