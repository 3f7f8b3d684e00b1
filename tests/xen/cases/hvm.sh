# shellcheck shell=dash
# hvm - an HVM guest boots from its ringdisk disk: firmware, boot loader and kernel read it through QEMU, which is a client
# of the daemon's NBD server; then the guest's own drivers take over the same disk by its ring.
#
# Only by name, as it takes a while: tests/xen/run --exact --cpus=1 hvm. Seen to pass in three and a half minutes of a
# busy machine with two processors: one minute until xl create, 20 s for firmware and boot loader, 40 s until the kernel
# speaks, 60 s until it is done. Needs syslinux, mtools and dosfstools. While it runs, hvm/ in the logs' directory has
# the guest's consoles; with --xen="guest_loglvl=all console_timestamps=boot" firmware and early kernel are in console.log.
#
# What it takes: tsc_mode="native", for else the guest's RDTSCP traps, which the emulator tells Xen as an RDTSC, and Xen
# lets the guest die ("Insn len emulation failed"). And vdev=sda, whose SCSI adapter the firmware asks for many sectors
# at a time. --set=RIG_VDEV=xvda is IDE: one by one, so that the kernel alone took 13 minutes to load (on the same
# machine when it was busier, and not seen to its end).

CMDLINE="earlyprintk=xen console=hvc0 cryptomgr.notests nokaslr rodata=off panic=-1"
VDEV=${RIG_VDEV:-sda}

dom0_side() {
	local img=$IMAGES/boot.qcow2 domid qemu
	only_backend ringdisk
	for p in syslinux mcopy mkfs.vfat; do
		command -v $p >/dev/null || {
			echo "SKIP: no $p; install syslinux, mtools and dosfstools"
			exit 77
		}
	done
	xl info | grep -E '^(virt_caps|xen_caps)'
	xl info | grep -q '^xen_caps.*hvm-3.0' || fail "this Xen has no HVM: the emulated processor lacks SVM"
	make_boot_disk "$img"
	: >"$(console g)"
	cat >"$RIG/g.cfg" <<-EOF
		name = "g"
		type = "hvm"
		memory = 256
		vcpus = 1
		boot = "c"
		vga = "none"
		vnc = 0
		usb = 0
		tsc_mode = "native"
		serial = "file:$CONSOLES/serial-g.log"
		on_poweroff = "destroy"
		on_reboot = "destroy"
		on_crash = "destroy"
		disk = [ 'format=raw,backendtype=qdisk,vdev=$VDEV,access=rw,target=nbd+unix:///qcow2:$img?socket=/run/ringdisk/nbd/sock' ]
	EOF
	follow &
	stage "the guest is made"
	xl create "$RIG/g.cfg" || {
		cat /var/log/xen/qemu-dm-g.log
		fail "xl create of an HVM guest"
	}
	domid=$(xl domid g)
	qemu=$(xenstore-read "/local/domain/$domid/image/device-model-pid") || fail "there is no QEMU"
	wait_for 600 "QEMU to read the disk" image_fd "$img"
	[ "$(nbd_clients)" -eq 1 ] || fail "QEMU is not the only client: $(nbd_clients)"
	ringdisk list
	wait_for 600 "the boot loader" grep -q SYSLINUX "$CONSOLES/serial-g.log"
	stage "the boot loader speaks"
	wait_for 2400 "the kernel" test -s "$(console g)"
	stage "the kernel has a console"
	guest_wait g 2400 ready
	stage "the guest has its disk"
	ringdisk list | tee "$RIG/list"
	grep -q "^$domid/$VDEV *connected" "$RIG/list" || fail "the guest's own driver is not on the ring"
	image_fd "$img" || fail "the image is not open once"
	[ "$(nbd_clients)" -eq 0 ] || fail "QEMU has not let go of the disk"
	! find "/proc/$qemu/fd" -lname "$IMAGES/*" | grep . || fail "QEMU has the image open itself"
	ringdisk stats "$domid/$VDEV"
	guest_go g
	guest_end g 600
	stage "the guest is gone"
	img=$(raw_of "$img")
	[ "$(tail -c 1048576 "$img" | head -c 15)" = "by its own disk" ] || fail "what the guest wrote is not in the image"
	mtype -i "$img" ::syslinux.cfg | grep -q small.cpio || fail "the file system is damaged"
}

# The daemon's descriptor of an image; it must be one alone.
image_fd() {
	find "/proc/$(cat $PIDFILE)/fd" -lname "$1" | awk '{ n++; print } END { exit n != 1 }'
}

# Connections to the daemon's NBD socket.
nbd_clients() {
	awk '$6 == "03" && $8 == "/run/ringdisk/nbd/sock"' /proc/net/unix | wc -l
}

# When, and how much has been read by then.
stage() {
	echo "--- $(date +%T) $*"
	ringdisk stats | grep -w read || :
}

# Shows outside how far it is, as long as this case runs.
follow() {
	local d=$RIG/out/$RIG_CASE
	mkdir -p "$d"
	while kill -0 $$ 2>/dev/null; do
		ringdisk stats >"$d/progress.log" 2>&1
		cp "$CONSOLES"/* "$RIG/case.log" "$d/" 2>/dev/null
		sleep 5
	done
}

# A disk without partitions, whose file system leaves the last 16 MiB alone.
make_boot_disk() {
	local i=$IMAGES/fs.img
	truncate -s 48M "$i"
	mkfs.vfat "$i" >/dev/null && syslinux --install "$i" || fail "cannot make a disk that boots"
	cat >"$RIG/syslinux.cfg" <<-EOF
		serial 0 115200
		default rig
		label rig
			kernel vmlinuz
			append initrd=small.cpio rdinit=/guest/init $CMDLINE rig.case=$RIG_CASE
	EOF
	cat "$RIG/setup/small.cpio" "$RIG/out/cases.cpio" | gzip >"$RIG/small.cpio"
	mcopy -i "$i" "$RIG"/setup/root/boot/vmlinuz-* ::vmlinuz && mcopy -i "$i" "$RIG/small.cpio" "$RIG/syslinux.cfg" :: ||
		fail "cannot fill the disk"
	truncate -s 64M "$i"
	qemu-img convert -f raw -O qcow2 "$i" "$1" || fail "qemu-img convert"
	rm "$i" "$RIG/small.cpio" "$RIG/syslinux.cfg"
}

guest_side() {
	await 60 disk_there xvda
	same "sectors" 131072 "$(cat /sys/block/xvda/size)"
	[ ! -e /sys/block/sda ] || not_ok "the emulated disk is still there"
	! grep -il 0x1000 /sys/bus/pci/devices/*/vendor || not_ok "the emulated SCSI adapter is still there"
	same "the boot sector's mark" 55aa "$(dd if=/dev/xvda bs=1 skip=510 count=2 2>/dev/null | hexdump -e '1/1 "%02x"')"
	sync_with_dom0 ready
	yes "by its own disk" | head -c 1048576 | dd of=/dev/xvda bs=1M seek=63 oflag=direct iflag=fullblock 2>/dev/null ||
		not_ok "cannot write"
}
