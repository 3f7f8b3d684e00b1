#!/bin/bash
# Legacy qcow images, read through libqcow: what QEMU wrote reads the same; what is for others is refused.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"
require qemu-img --version
cd "$tmp"

# reads_as_raw PARAMS
reads_as_raw()
{
	"$img" -r "$1" save got || fail "cannot read $1"
	cmp raw got || fail "$1 reads as something else"
	rm got
}

head -c 300000 /dev/urandom >raw
truncate -s 3M raw
printf 'in the middle' | dd of=raw bs=1 seek=2000000 conv=notrunc status=none
qemu-img convert -q -f raw -O qcow raw plain
reads_as_raw qcow:plain

printf 'a good key\n' >key
printf 'a bad key\n' >bad
printf 'a good key' >secret
qemu-img convert -q --object secret,id=k,file=secret -f raw -O qcow \
	-o encrypt.format=aes,encrypt.key-secret=k raw encrypted
reads_as_raw qcow,key-file=key:encrypted
"$img" -r qcow,key-file=bad:encrypted save got 2>/dev/null && cmp -s raw got && fail "any key decrypts"

says "key-file=" "$img" -r qcow:encrypted info
says "none" "$img" -r qcow,key-file=none:encrypted info
says "only reads" "$img" qcow:plain info
says "is no qcow image" "$img" -r qcow:raw info
qemu-img create -q -f qcow2 new 1M
says "write qcow2:" "$img" -r qcow:new info
qemu-img create -q -f qcow -b raw -F raw child
says "backing file" "$img" -r qcow:child info
head -c 47 plain >short
says "is no qcow image" "$img" -r qcow:short info
