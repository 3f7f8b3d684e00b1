#!/bin/bash
# ringdisk-img on qcow2 that it has made itself: create, convert, snapshot, check and repair, commit, rebase; judged by
# qemu-img. Whatever happens to an overlay, its disk reads the same.
. "${srcdir:-.}/functions.sh"
. "$srcdir/cli/img-functions.sh"
require qemu-img --version
cd "$tmp"

# sound FILE: no errors and no leaks, as qemu-img and we find.
sound()
{
	qemu-img check -q -f qcow2 "$1" || fail "qemu-img check $1"
	img 0 check "qcow2:$tmp/$1"
}

truncate -s 64M a
fill a 0 5000
fill a 20000 3001
fill a 65535 1

# --- create and convert

for options in "cluster-size=64K" "cluster-size=2M" "cluster-size=4K" "version=2" "extended-l2=on,cluster-size=128K"; do
	rm -f new back
	img 0 convert "raw:$tmp/a" "qcow2,$options:$tmp/new"
	qemu-img compare -q -f raw -F qcow2 a new || fail "$options: not what qemu-img reads"
	sound new
	img 0 compare --strict "raw:$tmp/a" "qcow2:$tmp/new"
	img 0 convert -T 1 "qcow2:$tmp/new" "raw:$tmp/back"
	cmp a back
done
# Compressed: text gets smaller, noise does not, and both read back.
seq 1 600000 | dd of=a bs=1M seek=8 conv=notrunc status=none
for options in "cluster-size=64K" "cluster-size=2M" "compression=zstd" "cluster-size=4K"; do
	rm -f new
	img 0 convert --compress "raw:$tmp/a" "qcow2,$options:$tmp/new"
	qemu-img compare -q -f raw -F qcow2 a new || fail "$options: not what qemu-img reads"
	sound new
	img 0 check --json "qcow2:$tmp/new"
	json "d['compressed-clusters'] > 0"
	img 0 compare --strict "raw:$tmp/a" "qcow2:$tmp/new"
done
img 0 create "qcow2:$tmp/empty" 100G
img 0 resize "qcow2:$tmp/empty" +100G
img 0 info --json "qcow2:$tmp/empty"
json "d['virtual-size'] == 200 << 30 and d['file-size'] < 1 << 20"
sound empty
img 1 resize "qcow2:$tmp/empty" 1G
img 0 resize --shrink "qcow2:$tmp/empty" 1G
sound empty
# Into an image that has other data: where the source has zeroes there are zeroes.
img 0 create "qcow2:$tmp/full" 64M
fill noise 0 65536
img 0 write "qcow2:$tmp/full" <noise
img 0 convert -n "raw:$tmp/a" "qcow2:$tmp/full"
qemu-img compare -q -f raw -F qcow2 a full
sound full

# --- snapshots

img 0 convert "raw:$tmp/a" "qcow2:$tmp/s"
img 0 snapshot list "qcow2:$tmp/s"
says out "No snapshots."
img 0 snapshot create "qcow2:$tmp/s" before
img 1 snapshot create "qcow2:$tmp/s" before
says err "already"
img 0 write "qcow2:$tmp/s" -o 1M <noise -l 10M
img 1 compare "raw:$tmp/a" "qcow2:$tmp/s"
img 0 snapshot list --json "qcow2:$tmp/s"
json "[s['name'] for s in d] == ['before']"
qemu-img snapshot -l s | grep -q before || fail "qemu-img sees no snapshot"
img 0 snapshot apply "qcow2:$tmp/s" before
img 0 compare "raw:$tmp/a" "qcow2:$tmp/s"
img 1 snapshot apply "qcow2:$tmp/s" after
says err "no snapshot"
img 0 snapshot delete "qcow2:$tmp/s" before
sound s

# --- check and repair: leaks, as qemu-img's own test tool for it would make them

cp s leaky
python3 - leaky <<'END'
import struct, sys
with open(sys.argv[1], "r+b") as f:
    f.seek(48)
    table = struct.unpack(">Q", f.read(8))[0]
    f.seek(table)
    block = struct.unpack(">Q", f.read(8))[0]
    f.seek(0, 2)
    end = (f.tell() + 65535) // 65536
    f.truncate((end + 3) * 65536)
    f.seek(block + 2 * end)
    f.write(struct.pack(">HHH", 1, 1, 1))
END
status=0
qemu-img check -q -f qcow2 leaky >/dev/null 2>&1 || status=$?
same "qemu-img on leaks" 3 "$status"
img 3 check "qcow2:$tmp/leaky"
says out "3 leaks."
img 3 check --json "qcow2:$tmp/leaky"
json "d['leaks'] == 3 and d['errors'] == 0"
img 0 check --repair leaks "qcow2:$tmp/leaky"
says out "3 leaks mended."
sound leaky
img 0 compare "raw:$tmp/a" "qcow2:$tmp/leaky"
# An error: data that the refcounts say to be free.
cp s broken
python3 - broken <<'END'
import struct, sys
with open(sys.argv[1], "r+b") as f:
    f.seek(40)
    l1, table = struct.unpack(">QQ", f.read(16))
    f.seek(table)
    block = struct.unpack(">Q", f.read(8))[0]
    f.seek(l1)
    l2 = struct.unpack(">Q", f.read(8))[0] & 0x00fffffffffffe00
    f.seek(l2)
    data = struct.unpack(">Q", f.read(8))[0] & 0x00fffffffffffe00
    f.seek(block + 2 * (data // 65536))
    f.write(struct.pack(">H", 0))
END
status=0
qemu-img check -q -f qcow2 broken >/dev/null 2>&1 || status=$?
same "qemu-img on errors" 2 "$status"
img 2 check "qcow2:$tmp/broken"
says out "repair all"
img 0 check --repair all "qcow2:$tmp/broken"
sound broken
img 0 compare "raw:$tmp/a" "qcow2:$tmp/broken"

# --- overlays

# overlay: base (what a holds), over on it with data of its own, and expected.
overlay()
{
	rm -f base over
	img 0 convert "raw:$tmp/a" "qcow2:$tmp/base"
	img 0 create -b base -F qcow2 "qcow2:$tmp/over"
	img 0 write "qcow2:$tmp/over" -o 3000001 -l 5M <noise
	img 0 write "qcow2:$tmp/over" -o 40000001 -l 100000 <noise
	head -c 3M /dev/zero >zeroes
	img 0 write "qcow2:$tmp/over" -o 21M <zeroes
	img 0 read "qcow2:$tmp/over"
	cp out expected
	qemu-img compare -q -f raw -F qcow2 expected over
}

overlay
img 0 convert -b base -F qcow2 "qcow2:$tmp/over" "qcow2:$tmp/over2"
qemu-img compare -q -f raw -F qcow2 expected over2
[ "$(stored over2)" -lt $((10 << 20)) ] || fail "the copy of an overlay has the data of its base, too"

img 0 commit --keep "qcow2:$tmp/over"
qemu-img compare -q -f raw -F qcow2 expected base
img 0 map --json "qcow2:$tmp/over"
json "any(r['depth'] == 0 and r['data'] for r in d)"
img 0 commit "qcow2:$tmp/over" --json
qemu-img compare -q -f raw -F qcow2 expected over
img 0 map --json "qcow2:$tmp/over"
json "not any(r['depth'] == 0 and r['data'] for r in d)"
sound base
sound over

# A longer overlay makes the base longer.
overlay
img 0 resize "qcow2:$tmp/over" 70M
img 0 write "qcow2:$tmp/over" -o 68M -l 1M <noise
img 0 read "qcow2:$tmp/over"
cp out expected
img 0 commit "qcow2:$tmp/over"
qemu-img compare -q -f raw -F qcow2 expected base
qemu-img compare -q -f raw -F qcow2 expected over

# Interrupted: still the same disk; and then done again.
overlay
env --default-signal=INT "$rimg" commit --driver-dir "$drivers" --threads 1 "qcow2:$tmp/over" >out 2>err &
pid=$!
kill -INT "$pid" 2>/dev/null || true
wait "$pid" || true
qemu-img compare -q -f raw -F qcow2 expected over || fail "an interrupted commit changes the disk"
img 0 commit "qcow2:$tmp/over"
qemu-img compare -q -f raw -F qcow2 expected over
sound base

# Another base, with other data in places; shorter, and longer.
for size in 40M 64M 80M; do
	overlay
	rm -f other
	img 0 create "qcow2:$tmp/other" "$size"
	img 0 write "qcow2:$tmp/other" -o 1000001 -l 30M <noise
	img 0 rebase -b other -F qcow2 "qcow2:$tmp/over"
	qemu-img compare -q -f raw -F qcow2 expected over || fail "rebase to $size changes the disk"
	img 0 info --json "qcow2:$tmp/over"
	json "d['qcow2']['backing-file'] == 'other'"
	sound over
done
# The same content: nothing is copied. Of another format.
overlay
cp a same.raw
img 0 rebase --json -b same.raw -F raw "qcow2:$tmp/over"
json "d['copied'] == 0"
qemu-img compare -q -f raw -F qcow2 expected over
# Onto nothing.
img 0 rebase --flatten "qcow2:$tmp/over"
mv same.raw elsewhere
qemu-img compare -q -f raw -F qcow2 expected over
img 0 info --json "qcow2:$tmp/over"
json "'backing-file' not in d['qcow2']"
sound over
# A base that was renamed.
overlay
mv base renamed
img 1 info "qcow2:$tmp/over"
img 1 rebase -b renamed -F qcow2 "qcow2:$tmp/over"
img 0 rebase --unsafe -b renamed -F qcow2 "qcow2:$tmp/over"
qemu-img compare -q -f raw -F qcow2 expected over
# A base that the rules refuse (itself): the old one stays.
img 1 rebase -b over -F qcow2 "qcow2:$tmp/over"
qemu-img compare -q -f raw -F qcow2 expected over
img 0 info --json "qcow2:$tmp/over"
json "d['qcow2']['backing-file'] == 'renamed'"

# --- where a backing image may be

mkdir there here
img 0 create "qcow2:$tmp/there/base" 4M
for name in "$tmp/there/base" ../there/base; do
	qemu-img create -q -f qcow2 -b "$name" -F qcow2 here/over
	img 1 info "qcow2:$tmp/here/over"
	says err "--backing-dir"
	img 1 info --backing-dir="$tmp/here" "qcow2:$tmp/here/over"
	img 0 info --backing-dir="$tmp/here" --backing-dir=there "qcow2:$tmp/here/over"
	img 0 info --backing-dir=/ "qcow2:$tmp/here/over"
done
img 1 info --backing-dir=nowhere "qcow2:$tmp/here/over"
says err "--backing-dir: nowhere"

# --- what cannot be saved at the end has not been copied

truncate -s 1M small new
img 1 convert -n "raw:$tmp/small" "error,op=close,errno=ENOSPC:raw:$tmp/new"
says err "not everything could be saved"
! grep -q copied "$tmp/out" || fail "said to be copied"

# --- an overlay is never made on itself, and convert --backing copies what is said and no more

cp renamed same
cp same same.before
img 1 create --force -b same -F qcow2 "qcow2:$tmp/same"
says err "cannot stand on itself"
img 1 convert --force -b same -F qcow2 "qcow2:$tmp/over" "qcow2:$tmp/same"
cmp same same.before || fail "emptied by an overlay on itself"
# Of a cluster of the new overlay the old one says a part, in data and compressed.
truncate -s 4M whole
fill whole 0 4096
qemu-img create -q -f qcow2 -o cluster_size=4k -b "$tmp/whole" -F raw part
qemu-io -f qcow2 -c "write -P 7 68k 4k" -c "write -z 200k 4k" -c "write -c -P 9 1M 4k" -c "write -P 8 2M 512" part >/dev/null
img 0 convert -b whole -F raw "qcow2:$tmp/part" "qcow2,cluster-size=64K:$tmp/parts"
qemu-img compare -q -f qcow2 -F qcow2 part parts || fail "convert --backing hides what is below"
sound parts
# --force: an option that only the driver can judge leaves the old file as it was; else it is another, with the
# old one's mode, also through a link.
echo precious >"$tmp/old"
chmod 640 "$tmp/old"
img 1 create --force "qcow2,cluster-size=3:$tmp/old" 1M
same "the old file" precious "$(cat "$tmp/old")"
same "what lies beside it" "$tmp/old" "$(echo "$tmp"/old*)"
ln -s old "$tmp/link-to-old"
img 0 create --force "qcow2:$tmp/link-to-old" 1M
[ -L "$tmp/link-to-old" ] || fail "the link was replaced"
same "mode of the new file" 640 "$(stat -c %a "$tmp/old")"
img 0 info "qcow2:$tmp/old"
same "what lies beside the new file" "$tmp/old" "$(echo "$tmp"/old*)"
