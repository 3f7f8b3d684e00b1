#!/bin/bash
# Locks of raw images: against ourselves, and against QEMU's programs in both directions.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"

disk=$tmp/disk.img
truncate -s 1M "$disk"

# ---- ourselves -----------------------------------------------------------------------------------
hold "raw:$disk"
says "is locked: another program writes to it" "$img" "raw:$disk" info
says "is locked: another program writes to it" "$img" -r "raw:$disk" info
"$img" -p "raw:$disk" info >/dev/null || fail "a probe must not need the lock"
"$img" -p -r "raw:$disk" info >/dev/null || fail "a probe must not need the lock"
release

hold -r "raw:$disk"
"$img" -r "raw:$disk" info >/dev/null || fail "two readers must get along"
says "is locked: another program uses it and shares it with no writer" "$img" "raw:$disk" info
release

hold -p "raw:$disk"
"$img" "raw:$disk" info >/dev/null || fail "a probe must not lock anyone out"
release

# ---- QEMU's programs -----------------------------------------------------------------------------
require qemu-io --version
require qemu-img --version

# qemu ARG...: a qemu-io that has the image open, as $qemu, until qemu_end.
qemu()
{
	mkfifo "$tmp/qemu.in"
	qemu-io "$@" <"$tmp/qemu.in" >"$tmp/qemu.out" 2>&1 &
	qemu=$!
	exec {qemu_fd}>"$tmp/qemu.in"
	echo "length" >&"$qemu_fd"
	wait_for 10 grep -q "1 MiB" "$tmp/qemu.out"
}

qemu_end()
{
	echo quit >&"$qemu_fd"
	exec {qemu_fd}>&-
	wait "$qemu" || fail "qemu-io: $(cat "$tmp/qemu.out")"
	rm -f "$tmp/qemu.in" "$tmp/qemu.out"
}

qemu -f raw "$disk"
says "is locked: another program writes to it" "$img" "raw:$disk" info
says "is locked: another program writes to it" "$img" -r "raw:$disk" info
qemu_end

qemu -r -f raw "$disk"
"$img" -r "raw:$disk" info >/dev/null || fail "a reader beside a reader of QEMU"
qemu_end
"$img" "raw:$disk" write 0 512 7 flush

hold "raw:$disk"
says "lock" qemu-io -f raw -c "write 0 512" "$disk"
says "lock" qemu-img resize -f raw "$disk" 2M
says "lock" qemu-img bench -w -c 1 -f raw "$disk"
release
same "size after refused resize" 1048576 "$(stat -c %s "$disk")"

# A reader keeps QEMU's writers out, and lets its readers in.
hold -r "raw:$disk"
says "lock" qemu-io -f raw -c "write 0 512" "$disk"
qemu-io -r -f raw -c "read -P 7 0 512" "$disk" >"$tmp/out" || fail "$(cat "$tmp/out")"
release
qemu-io -f raw -c "write 0 512" "$disk" >/dev/null || fail "still locked after close"

# A server that shares nothing but reading (what a virtual machine's disk does).
require qemu-nbd --version
qemu-nbd -f qcow2 --version >/dev/null
qemu-img create -q -f qcow2 "$tmp/disk.qcow2" 1M
qemu-nbd -f qcow2 -k "$tmp/nbd" "$tmp/disk.qcow2" >"$tmp/nbd.out" 2>&1 &
nbd=$!
cleanup stop "$nbd"
wait_for 10 test -S "$tmp/nbd"
says "is locked: another program writes to it" "$img" "raw:$tmp/disk.qcow2" info
says "is locked" "$img" -r "raw:$tmp/disk.qcow2" info
