# shellcheck shell=dash
# restore - a guest on qcow2, raw and vhd is saved while it writes to all three, and restored: nothing is written,
# nor opened for that, before it goes on; then it goes on and finds all that it wrote.

dom0_side() {
	local d domid
	only_backend ringdisk
	cd "$IMAGES" || fail "no $IMAGES"
	qemu-img create -q -f qcow2 a.qcow2 32M && truncate -s 32M b.img &&
		qemu-img create -q -f vpc -o force_size=on c.vhd 32M || fail "qemu-img cannot make the images"
	guest_start g "memory=384" "vdev=xvda,format=qcow2,target=$IMAGES/a.qcow2" \
		"vdev=xvdb,format=raw,backendtype=qdisk,target=$IMAGES/b.img" \
		"vdev=xvdc,format=vhd,target=$IMAGES/c.vhd"
	guest_wait g 120 running
	for d in a.qcow2 b.img c.vhd; do
		wait_for 60 "writes in $d" has_blocks "$d"
		opened_for_writing "$IMAGES/$d" || fail "$d is used, but not open for writing"
	done
	xl save g "$IMAGES/saved" || fail "xl save"
	wait_for 60 "the end of the saved domain" no_domain g
	wait_for 60 "the end of its disks" no_vbds
	for d in a.qcow2 b.img c.vhd; do
		! opened_for_writing "$IMAGES/$d" || fail "$d is still open for writing"
	done
	cat a.qcow2 b.img c.vhd | sha256sum >"$RIG/before"
	xl restore -p "$IMAGES/saved" || fail "xl restore"
	rm "$IMAGES/saved"
	domid=$(xl domid g)
	wait_for 60 "the disks to be offered" offered "$domid"
	for d in a.qcow2 b.img c.vhd; do
		! opened_for_writing "$IMAGES/$d" || fail "$d is open for writing before the guest goes on"
	done
	cat a.qcow2 b.img c.vhd | sha256sum | cmp - "$RIG/before" || fail "an image was changed before the guest goes on"
	xl unpause g || fail "xl unpause"
	guest_wait g 200 verified
	xl block-list g
	guest_end g 60
	qemu-img check -q a.qcow2 || fail "qemu-img check finds errors or leaks"
	ringdisk-img check vhd:c.vhd || fail "ringdisk-img check finds errors"
}


has_blocks() {
	[ "$(blocks "$1")" -gt 1024 ]
}

offered() {
	[ "$(xenstore-ls -f "/local/domain/0/backend/qdisk/$1" | grep -c '/state = "2"')" = 3 ]
}

guest_side() {
	await 30 disk_there xvdc
	say running
	must fio --direct=1 --ioengine=libaio --thread --rw=randwrite --bs=4k --iodepth=8 --size=24m \
		--verify=crc32c --verify_fatal=1 --do_verify=1 \
		--name=a --filename=/dev/xvda --name=b --filename=/dev/xvdb --name=c --filename=/dev/xvdc
	say verified
}
