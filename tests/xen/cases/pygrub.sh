# shellcheck shell=dash
# pygrub - a guest whose kernel lies in a file system on its own qcow2 disk: xl attaches the disk to dom0 first
# (frontend domid 0, dom0's own blkfront), pygrub reads kernel and initramfs there, and then the guest has the disk.
#
# Not one of the default set: three guests, each with a kernel to unpack.

CMDLINE="console=hvc0 quiet cryptomgr.notests rodata=off panic=-1"

dom0_side() {
	local i img=$IMAGES/boot.qcow2
	only_backend ringdisk
	busybox modprobe xen-blkfront || fail "dom0 has no blkfront"
	make_boot_disk "$img"
	# Once with a plain qcow2 line, as an administrator has it; once more, as after a shutdown.
	for i in 1 2; do
		boot_it "$img" "$i"
	done
	# What xl takes from the line is a path that pygrub opens itself: raw files need no attaching.
	note "raw"
	qemu-img convert -f qcow2 -O raw "$img" "$IMAGES/boot.img" || fail "qemu-img convert"
	rm "$img"
	boot_it "$IMAGES/boot.img" 3
}

# The guest's life, from the loader's look at its disk to its end.
boot_it() {
	local domid raw
	: >"$(console g)"
	cat >"$RIG/g.cfg" <<-EOF
		name = "g"
		type = "pv"
		bootloader = "pygrub"
		memory = 384
		vcpus = 1
		on_poweroff = "destroy"
		on_reboot = "destroy"
		on_crash = "destroy"
		disk = [ 'vdev=xvda,format=$(format_of "$1"),backendtype=qdisk,target=$1' ]
	EOF
	xl -vvv create "$RIG/g.cfg" 2>"$RIG/xl.log" || {
		cat "$RIG/xl.log" /var/log/xen/bootloader*.log
		fail "xl create with pygrub on $1"
	}
	grep -i -e bootloader -e 'local' "$RIG/xl.log" | tail -n 20
	guest_wait g 120 "up"
	domid=$(xl domid g)
	ringdisk list | tee "$RIG/list"
	grep -q "^$domid/xvda " "$RIG/list" || fail "the guest's disk is not ours"
	! grep -q '^0/' "$RIG/list" || fail "dom0 still has the disk"
	guest_end g 120
	note "guest $2 has ended"
	raw=$(raw_of "$1")
	e2fsck -fn "$raw" || fail "e2fsck finds errors in the image after guest $2"
	[ "$raw" = "$1" ] || rm "$raw"
}

# The whole disk is one ext4, with what grub's configuration names.
make_boot_disk() {
	local d=$RIG/bootfs
	mkdir -p "$d/boot/grub"
	cp "$RIG"/setup/root/boot/vmlinuz-* "$d/boot/vmlinuz"
	cat "$RIG/setup/small.cpio" "$RIG/out/cases.cpio" >"$d/boot/small.cpio"
	cat >"$d/boot/grub/grub.cfg" <<-EOF
		set default=0
		set timeout=0
		menuentry 'rig' {
			linux /boot/vmlinuz root=/dev/ram0 rdinit=/guest/init $CMDLINE rig.case=$RIG_CASE
			initrd /boot/small.cpio
		}
	EOF
	truncate -s 32M "$IMAGES/fs.img"
	mkfs.ext4 -q -F -d "$d" "$IMAGES/fs.img" && qemu-img convert -f raw -O qcow2 "$IMAGES/fs.img" "$1" ||
		fail "cannot make the disk with a kernel"
	rm -rf "$d" "$IMAGES/fs.img"
}

guest_side() {
	await 30 disk_there xvda
	must mount -t ext4 /dev/xvda /mnt
	must grep -q menuentry /mnt/boot/grub/grub.cfg
	echo "booted" >>/mnt/booted
	must umount /mnt
}
