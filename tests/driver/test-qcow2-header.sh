#!/bin/bash
# What opening a qcow2 image for writing does to its header: the generation of the redo log is in it while it is
# open, and gone after a clean close and only then; autoclear bits are cleared, extensions kept; a corrupt
# image is not written to.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"
require qemu-img --version
require qemu-io --version
cd "$tmp"

# u64 FILE OFFSET: big-endian, in hex.
u64()
{
	od -An -tx1 -j "$2" -N 8 "$1" | tr -d ' \n'
}

# poke FILE OFFSET BYTES
poke()
{
	printf "$3" | dd of="$1" bs=1 seek="$2" conv=notrunc status=none
}

autoclear=88
ours=4000000000000000
none=0000000000000000

# --- opened and closed: nothing has changed; in between, the generation is there, and QEMU can read it

for options in compat=1.1 cluster_size=512 extended_l2=on compression_type=zstd cluster_size=2M; do
	rm -f a.qcow2
	qemu-img create -q -f qcow2 -o "$options" a.qcow2 8M
	cp a.qcow2 before.qcow2
	hold qcow2:a.qcow2
	same "autoclear bits while it is open ($options)" "$ours" "$(u64 a.qcow2 "$autoclear")"
	grep -q rdgn a.qcow2 || fail "$options: no extension"
	qemu-img check -U -f qcow2 a.qcow2 >/dev/null || fail "$options: QEMU cannot read it while it is open"
	says "lock" "$img" qcow2:a.qcow2 info
	release
	cmp before.qcow2 a.qcow2 || fail "$options: opening and closing has changed it"
done

# --- a backing file's name, of each length that there can be

for length in 5 200 400 1023; do
	printf -v name '%*s' "$(((length - 1) / 2))" ''
	name=${name// /./}b
	[ "${#name}" = "$length" ] || name=${name}b
	truncate -s 8M "$name"
	rm -f a.qcow2
	qemu-img create -q -f qcow2 -u -b "$name" -F raw a.qcow2 8M
	for i in 1 2; do
		hold qcow2,backing=none:a.qcow2
		same "autoclear bits with a name of $length" "$ours" "$(u64 a.qcow2 "$autoclear")"
		[[ $(qemu-img info -U -f qcow2 a.qcow2) == *"backing file: $name"* ]] ||
			fail "the name of $length bytes is lost while open"
		release
		same "autoclear bits after closing" "$none" "$(u64 a.qcow2 "$autoclear")"
		[[ $(qemu-img info -f qcow2 a.qcow2) == *"backing file: $name"*"backing file format: raw"* ]] ||
			fail "the name of $length bytes is lost"
	done
	qemu-img check -q -f qcow2 a.qcow2
done

# --- no room for a generation: it does without

rm -f a.qcow2
qemu-img create -q -f qcow2 -o cluster_size=512 a.qcow2 1M
printf -v name '%390s' ''
poke a.qcow2 112 '\0\0\0\0\0\0\0\0'
poke a.qcow2 120 "${name// /n}"
poke a.qcow2 8 '\0\0\0\0\0\0\0\x78\0\0\x01\x86'
hold qcow2,backing=none:a.qcow2
same "autoclear bits without room" "$none" "$(u64 a.qcow2 "$autoclear")"
release
"$img" qcow2,backing=none:a.qcow2 write 0 4096 7 flush read 0 4096 7
[[ $(qemu-img info -f qcow2 a.qcow2) == *"backing file: ${name// /n}"* ]] || fail "the name is lost"

# --- version 2 has no such bits

rm -f a.qcow2
qemu-img create -q -f qcow2 -o compat=0.10 a.qcow2 8M
cp a.qcow2 before.qcow2
hold qcow2:a.qcow2
cmp before.qcow2 a.qcow2 || fail "the header of version 2 was changed"
release
cmp before.qcow2 a.qcow2 || fail "closing has changed an image of version 2"

# --- unknown autoclear bits go, unknown extensions stay

rm -f a.qcow2
qemu-img create -q -f qcow2 a.qcow2 8M
poke a.qcow2 112 'abcd\0\0\0\x05vwxyz\0\0\0\0\0\0\0\0\0\0\0'
poke a.qcow2 "$autoclear" '\x01\0\0\0\0\0\0\xf0'
"$img" -r qcow2:a.qcow2 info >/dev/null
same "autoclear bits after reading" 01000000000000f0 "$(u64 a.qcow2 "$autoclear")"
"$img" -p qcow2:a.qcow2 info >/dev/null
same "autoclear bits after a probe" 01000000000000f0 "$(u64 a.qcow2 "$autoclear")"
hold qcow2:a.qcow2
grep -q vwxyz a.qcow2 || fail "an unknown extension is lost while open"
release
same "autoclear bits after writing" "$none" "$(u64 a.qcow2 "$autoclear")"
grep -q vwxyz a.qcow2 || fail "an unknown extension is lost"

# --- bitmaps are not valid any more

rm -f a.qcow2
qemu-img create -q -f qcow2 a.qcow2 8M
qemu-img bitmap --add -f qcow2 a.qcow2 changed
[[ $(qemu-img info -f qcow2 a.qcow2) == *changed* ]] || fail "no bitmap to begin with"
"$img" qcow2:a.qcow2 write 0 4096 7
[[ $(qemu-img info -f qcow2 a.qcow2) != *changed* ]] || fail "the bitmap is still valid"

# --- who dies leaves the generation, and it is no obstacle; QEMU clears the bit

rm -f a.qcow2
qemu-img create -q -f qcow2 a.qcow2 8M
hold qcow2:a.qcow2
kill -KILL "$holder"
wait "$holder" 2>/dev/null || true
exec {hold_fd}>&-
rm -f hold.*
same "autoclear bits after a death" "$ours" "$(u64 a.qcow2 "$autoclear")"
cp a.qcow2 dead.qcow2
qemu-io -f qcow2 -c 'write 0 4k' dead.qcow2 >/dev/null
same "autoclear bits after QEMU wrote" "$none" "$(u64 dead.qcow2 "$autoclear")"
hold qcow2:a.qcow2
same "autoclear bits when opened again" "$ours" "$(u64 a.qcow2 "$autoclear")"
cmp -s a.qcow2 dead.qcow2 && fail "the generation is the same as before"
release
same "autoclear bits after closing again" "$none" "$(u64 a.qcow2 "$autoclear")"

# --- what was written and not flushed by one who dies is there after the next open

export RD_REDO=$tmp/redo
rm -f a.qcow2
qemu-img create -q -f qcow2 a.qcow2 8M
hold qcow2:a.qcow2 write 0 65536 9 write 4194304 4096 8
kill -KILL "$holder"
wait "$holder" 2>/dev/null || true
exec {hold_fd}>&-
rm -f hold.*
says "changes" "$img" -r qcow2:a.qcow2 info
"$img" qcow2:a.qcow2 read 0 65536 9 read 4194304 4096 8 >out 2>&1 || fail "after a death: $(cat out)"
grep -q "changes replayed" out || fail "nothing was replayed: $(cat out)"
qemu-img check -f qcow2 a.qcow2 >/dev/null || [ $? = 3 ] || fail "more than leaks after a replay"
same "autoclear bits after a replay" "$none" "$(u64 a.qcow2 "$autoclear")"
unset RD_REDO

# --- a last flush that fails leaves it as not closed

expect_fail "$img" qcow2:a.qcow2 write 0 65536 9 failflush >out 2>&1
grep -q "could not be closed cleanly" out || fail "a failed close is not told: $(cat out)"
same "autoclear bits after a failed flush" "$ours" "$(u64 a.qcow2 "$autoclear")"
qemu-img check -f qcow2 a.qcow2 >/dev/null || [ $? = 3 ] || fail "more than leaks after a failed flush"

# --- dirty: reading works, and opening for writing repairs the refcounts first

rm -f a.qcow2
qemu-img create -q -f qcow2 -o lazy_refcounts=on a.qcow2 8M
(
	ulimit -c 0
	qemu-io -c 'write -P 3 0 64k' -c abort a.qcow2
) >/dev/null 2>&1 || true
same "dirty bit" 0000000000000001 "$(u64 a.qcow2 72)"
"$img" -r qcow2:a.qcow2 read 0 65536 3
same "dirty bit after reading" 0000000000000001 "$(u64 a.qcow2 72)"
"$img" qcow2:a.qcow2 read 0 65536 3 write 65536 65536 4 flush read 0 65536 3 >out 2>&1 ||
	fail "a dirty image: $(cat out)"
grep -q "was not closed" out || fail "the repair is not told: $(cat out)"
qemu-img check -q -f qcow2 a.qcow2
same "dirty bit after writing" "$none" "$(u64 a.qcow2 72)"

# --- corrupt: reading works, writing does not, and not one byte changes

rm -f a.qcow2
qemu-img create -q -f qcow2 a.qcow2 8M
qemu-io -c 'write -P 3 0 64k' a.qcow2 >/dev/null
poke a.qcow2 72 '\0\0\0\0\0\0\0\x02'
cp a.qcow2 before.qcow2
"$img" qcow2:a.qcow2 read 0 65536 3 -write 0 512 4 -write 1048576 512 4 flush >out 2>&1
grep -q "is marked corrupt" out || fail "the corrupt bit is not told: $(cat out)"
cmp before.qcow2 a.qcow2 || fail "a corrupt image was changed"
poke a.qcow2 72 '\0\0\0\0\0\0\0\0'
poke a.qcow2 $((16#30000)) '\x80\0\0\0\0\x03'
cp a.qcow2 before.qcow2
"$img" qcow2:a.qcow2 -read 0 512 0 -write 0 512 4 -write 1048576 512 4 flush >out 2>&1
grep -q "nothing is written to it" out || fail "the contradiction is not told: $(cat out)"
cmp before.qcow2 a.qcow2 || fail "an image that contradicts itself was changed"
