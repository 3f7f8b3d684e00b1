# shellcheck shell=dash
# udev - the user, the directory and the rule that are installed do what the daemon needs, on the devices of a real Xen: the
# rule's patterns are these devices' names, and privcmd stays root's.

dom0_side() {
	local lib d
	only_backend ringdisk
	for d in systemd-sysusers systemd-tmpfiles udevadm; do
		command -v $d >/dev/null || {
			echo "SKIP: no $d"
			exit 77
		}
	done
	lib=$(dirname "$(find /usr/lib /usr/local/lib -path '*/sysusers.d/ringdisk.conf' | tail -n 1)")/..
	systemd-sysusers "$lib/sysusers.d/ringdisk.conf" || fail "systemd-sysusers"
	id ringdisk || fail "there is no user ringdisk"
	systemd-tmpfiles --create "$lib/tmpfiles.d/ringdisk.conf" || fail "systemd-tmpfiles"
	same_state /run/ringdisk "ringdisk ringdisk 755"

	chgrp root /dev/xen/evtchn /dev/xen/gntdev /dev/xen/xenbus /dev/xen/privcmd
	chmod 600 /dev/xen/evtchn /dev/xen/gntdev /dev/xen/xenbus /dev/xen/privcmd
	mkdir -p /run/udev/rules.d
	cp "$lib/udev/rules.d/70-ringdisk.rules" /run/udev/rules.d/
	/usr/lib/systemd/systemd-udevd --daemon || fail "systemd-udevd does not start"
	# As the package does it when it is installed.
	udevadm control --reload && udevadm trigger --subsystem-match=misc --action=change && udevadm settle --timeout=60 ||
		fail "udevadm"
	udevadm control --exit
	ls -l /dev/xen
	for d in evtchn gntdev xenbus; do
		same_state "/dev/xen/$d" "root ringdisk 660"
	done
	same_state /dev/xen/privcmd "root root 600"
	# For the cases that come after.
	chgrp nogroup /dev/xen/evtchn /dev/xen/gntdev /dev/xen/xenbus
	chown nobody /run/ringdisk
}

same_state() {
	[ "$(stat -c '%U %G %a' "$1")" = "$2" ] || fail "$1 is $(stat -c '%U %G %a' "$1"), not $2"
}
