#!/bin/bash
# Internal snapshots: ours and QEMU's in one image, in every shape; qemu-img finds it sound after each step, and
# reads from each snapshot what it must.
. "${srcdir:-.}/functions.sh"
. "$srcdir/qcow2/functions.sh"
require qemu-img --version
require qemu-io --version

file=$tmp/s.qcow2
image=qcow2:$file

# step COMMAND...: ours, and the image is sound.
step()
{
	poke "$image" check "$@" || fail "$shape: $*: $(cat out)"
	[ "$(numbers)" = "0 0 0" ] || fail "$shape: before $*: $(cat out)"
	sound "$file" "$shape: $*"
}

theirs()
{
	qemu-img snapshot "$@" "$file" || fail "$shape: qemu-img snapshot $*"
	sound "$file" "$shape: qemu-img snapshot $*"
}

writes()
{
	qemu-io -f qcow2 "$@" "$file" >io 2>&1 || fail "$shape: qemu-io: $(cat io)"
	! grep -q "verification failed" io || fail "$shape: $(cat io)"
}

# reads NAME PATTERN OFFSET LENGTH...: of a snapshot.
reads()
{
	local arg=() name=$1
	shift
	while [ $# -ge 3 ]; do
		arg+=(-c "read -P $1 $2 $3")
		shift 3
	done
	rm -f of.raw
	qemu-img convert -l "snapshot.name=$name" -f qcow2 -O raw "$file" of.raw
	qemu-io -f raw -r "${arg[@]}" of.raw >io 2>&1 || fail "$shape: $name: $(cat io)"
	! grep -q "verification failed" io || fail "$shape: $name: $(cat io)"
}

for shape in compat=1.1 compat=0.10 cluster_size=512 cluster_size=2M refcount_bits=64 refcount_bits=8 \
	extended_l2=on compression_type=zstd; do
	rm -f "$file"
	qemu-img create -q -f qcow2 -o "$shape" "$file" 8M
	writes -c 'write -P 1 0 3M' -c 'write -z 3M 1M' -c 'write -P 2 5M 100k' -c 'write -c -P 5 6M 2M'
	step create one
	qemu-img snapshot -l "$file" | grep -q "^1 *one " || fail "$shape: $(qemu-img snapshot -l "$file")"
	writes -c 'write -P 3 1M 1M'
	poke "$image" write 2097152 65536 9 read 0 1048576 1 || fail "$shape: $(cat out)"
	sound "$file" "$shape: written"
	step create two
	writes -c 'write -P 4 0 1M'
	theirs -c three
	reads one 1 0 3M 0 3M 1M 2 5M 100k 5 6M 2M
	reads two 1 0 1M 3 1M 1M 9 2M 64k
	reads three 4 0 1M 3 1M 1M 5 6M 2M
	poke "$image" list
	grep -q "^snapshots.2.name=three" out || fail "$shape: $(cat out)"
	grep -q "^snapshots.1.id=2" out || fail "$shape: $(cat out)"
	grep -q "^snapshots.0.disk-size=8388608" out || fail "$shape: $(cat out)"
	poke "$image" create two && fail "$shape: two snapshots of one name"
	poke "$image" delete nothing && fail "$shape: deleted what is not there"
	sound "$file" "$shape: refused"
	step apply one
	writes -c 'read -P 1 0 3M' -c 'read -P 0 3M 1M' -c 'read -P 5 6M 2M'
	writes -c 'write -P 6 0 64k' -c 'discard 1M 1M'
	step delete two
	reads one 1 0 3M
	reads three 4 0 1M
	step apply three
	writes -c 'read -P 4 0 1M' -c 'read -P 3 1M 1M'
	step delete 1
	theirs -a three
	theirs -d three
	step
	writes -c 'read -P 4 0 1M' -c 'read -P 3 1M 1M' -c 'read -P 5 6M 2M'
	[ -z "$(qemu-img snapshot -l "$file")" ] || fail "$shape: something is left"
done

# A size of its own.
shape=size
rm -f "$file"
qemu-img create -q -f qcow2 "$file" 8M
writes -c 'write -P 1 0 8M'
step create small
qemu-img resize -q "$file" 700M
writes -c 'write -P 2 600M 1M'
step create large
step apply small
[ "$(qemu-img info "$file" | grep -c '8388608 bytes')" = 1 ] || fail "$(qemu-img info "$file")"
writes -c 'read -P 1 0 8M'
step apply large
writes -c 'read -P 2 600M 1M' -c 'read -P 1 0 8M'

# Refcounts of one bit count no snapshot: refused, and nothing has changed.
shape=refcount_bits=1
rm -f "$file"
qemu-img create -q -f qcow2 -o refcount_bits=1 "$file" 8M
writes -c 'write -P 1 0 1M'
poke "$image" create one && fail "a snapshot with refcounts of one bit"
grep -q "too narrow" out || fail "$(cat out)"
sound "$file" "$shape"
writes -c 'read -P 1 0 1M'

# Given up in the middle: it has not happened.
shape=canceled
poke "$image" backing base.raw raw || fail "$(cat out)"
qemu-img info "$file" 2>/dev/null | grep -q "backing file: base.raw" || qemu-img info -U "$file" 2>&1 |
	grep -q base.raw || fail "no backing file recorded"
