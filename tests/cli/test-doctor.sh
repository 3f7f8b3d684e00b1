#!/bin/bash
# ringdisk doctor on a host made of files: fit, and then with one thing wrong at a time.
. "${srcdir:-.}/functions.sh"
. "$srcdir/cli/functions.sh"

plugins=$(strings -a "$ringdisk" 2>/dev/null | grep -m 1 '/ringdisk$' || true)
host=$tmp/host
make_host()
{
	rm -rf "$host"
	mkdir -p "$host"/{dev/xen,sys/hypervisor,proc/xen,proc/sys/fs,proc/sys/vm,run/xenstored,sys/module} \
		"$host/$plugins" "$host/sys/module/xen_gntdev/parameters"
	touch "$host"/dev/xen/{evtchn,gntdev,xenbus} "$host/run/xenstored/socket" "$host/$plugins/raw.so"
	echo xen >"$host/sys/hypervisor/type"
	echo control_d >"$host/proc/xen/capabilities"
	mkdir "$host/sys/hypervisor/compilation"
	echo 'Wed Nov  4 16:52:28 UTC 2026' >"$host/sys/hypervisor/compilation/compile_date"
	echo 1024 >"$host/proc/sys/fs/aio-nr"
	echo 65536 >"$host/proc/sys/fs/aio-max-nr"
	echo 1048576 >"$host/proc/sys/fs/nr_open"
	echo 65530 >"$host/proc/sys/vm/max_map_count"
	echo 1048576 >"$host/sys/module/xen_gntdev/parameters/limit"
	printf 'proc /proc proc rw 0 0\ntmpfs /run tmpfs rw,nosuid 0 0\n' >"$host/proc/mounts"
}

# doctor STATUS [TEXT [FIX]]
doctor()
{
	ctl "$1" doctor --root "$host"
	[ $# -lt 2 ] || says out "$2"
	[ $# -lt 3 ] || says out "-> $3"
}

[ -n "$plugins" ] || fail "the plugin directory is not in the program"
make_host
doctor 0 "control domain"
! grep -Eq 'PROBLEM|->' "$tmp/out" || fail "a problem on a host without: $(cat "$tmp/out")"
ctl 0 doctor --root "$host" --json
python3 -c 'import json, sys
said = json.load(sys.stdin)
assert said["problems"] == 0 and len(said["findings"]) >= 10
assert all(f["state"] == "ok" and f["fix"] is None for f in said["findings"]), said' <"$tmp/out"

rm "$host/dev/xen/gntdev"
doctor 1 "/dev/xen/gntdev: No such file" "modprobe xen-gntdev"
same "problems" "1 problem(s)" "$(tail -n 1 "$tmp/out")"
rm "$host/dev/xen/evtchn"
doctor 1 "/dev/xen/evtchn: No such file" "modprobe xen-evtchn"
same "problems" "2 problem(s)" "$(tail -n 1 "$tmp/out")"

make_host
rm -r "$host/run/xenstored"
doctor 0 "no socket of xenstored"
rm "$host/dev/xen/xenbus"
doctor 1 "no socket of xenstored" "systemctl start xenstored"

make_host
mkdir -p "$host"/sys/bus/xen-backend/devices/{vbd-5-51712,vbd-6-51712,vif-5-0}
doctor 0 "xen-blkback serves 2 disk(s)" "write backendtype=qdisk"

make_host
mkdir "$host/sys/module/xen_blkback"
doctor 0 "xen-blkback is there" "write backendtype=qdisk"

# Raw files of guests: only those that xl would give to blkback, each with the line to write.
make_host
mkdir -p "$host/etc/xen" "$host/var/lib/xen"
cat >"$host/etc/xen/one.cfg" <<'END'
# disk = [ '/srv/comment.img,raw,xvda,w' ]
name = "one"
disk = [ '/srv/one.img,raw,xvda,rw', "file:/srv/two.img,xvdb,w",   # a comment, with 'quotes'
         'format=raw, vdev=xvdc, access=ro, target=/srv/a,b=c.img',
         'vdev=xvdd,format=raw,backendtype=qdisk,target=/srv/ours.img',
         'vdev=xvde,format=qcow2,target=/srv/ours.qcow2',
         'vhd:/srv/ours.vhd,xvdf,w', '/dev/vg/block,raw,xvdg,rw', 'phy:/dev/vg/block,xvdh,w',
         '/srv/cd.iso,raw,xvdi,cdrom', 'vdev=xvdj,script=block-mine,target=/srv/script.img',
         'vdev=xvdk,backend=storage,format=raw,target=/srv/elsewhere.img',
         'vdev=xvdl,target=ringdisk:raw:/srv/forgotten.img' ]
END
cat >"$host/etc/xen/hvm.cfg" <<'END'
name="hvm"
type="hvm"
disk=["/srv/hvm.img,,hda,w", "format=qcow2,vdev=hdb,target=/srv/a,b.qcow2",
      "vdev=xvdc,format=raw,backendtype=qdisk,target=ringdisk:vhd:/srv/c.vhd",
      "format=qcow2,vdev=hdd,access=ro,target=/srv/read.qcow2", "format=qcow2,vdev=xvde,target=/srv/later.qcow2",
      "vdev=sda,format=raw,backendtype=qdisk,target=nbd+unix:///raw:/srv/d.img?socket=/run/ringdisk/nbd/sock"]
END
printf 'disk = [ "/srv/unfinished.img,raw' >"$host/etc/xen/broken.cfg"
cat >"$host/var/lib/xen/userdata-d.7.ab000000-0000-0000-0000-000000000007.libxl-json" <<'END'
{ "c_info": { "type": "pv", "name": "seven" }, "b_info": { }, "disks": [
  { "pdev_path": "/srv/seven.img", "vdev": "xvda", "format": "raw", "readwrite": 1 },
  { "pdev_path": "/srv/seven.qcow2", "vdev": "xvdb", "format": "qcow2", "backend": "qdisk", "readwrite": 1 } ] }
END
doctor 0 "guest one: xvda /srv/one.img is given to the kernel's blkback (/etc/xen/one.cfg)" \
	"'vdev=xvda,format=raw,backendtype=qdisk,target=ringdisk:raw:/srv/one.img'"
says out "-> 'vdev=xvdb,format=raw,backendtype=qdisk,target=ringdisk:raw:/srv/two.img'"
says out "-> 'vdev=xvdc,format=raw,access=ro,backendtype=qdisk,target=ringdisk:raw:/srv/a,b=c.img'"
says out "-> 'vdev=xvdl,format=raw,backendtype=qdisk,target=ringdisk:raw:/srv/forgotten.img'"
says out "guest hvm: hda /srv/hvm.img is given to the kernel's blkback"
says out "-> 'vdev=hda,format=raw,backendtype=qdisk,target=nbd+unix:///raw:/srv/hvm.img?socket=/run/ringdisk/nbd/sock'"
says out "guest hvm: hdb /srv/a,b.qcow2 is opened by QEMU"
says out "-> 'vdev=hdb,format=raw,backendtype=qdisk,target=nbd+unix:///qcow2:/srv/a%2Cb.qcow2?socket=/run/ringdisk/nbd/sock'"
says out "guest hvm: xvdc ringdisk:vhd:/srv/c.vhd is opened by QEMU"
says out "target=nbd+unix:///vhd:/srv/c.vhd?socket="
same "disks that QEMU has, too" 2 "$(grep -c "is opened by QEMU" "$tmp/out")"
says out "guest seven: xvda /srv/seven.img is given to the kernel's blkback (it runs, domain 7)"
says out "-> 'vdev=xvda,format=raw,backendtype=qdisk,target=ringdisk:raw:/srv/seven.img'"
same "disks that are told of" 6 "$(grep -c "is given to the kernel's blkback" "$tmp/out")"

make_host
echo 'Sat Nov 29 14:52:25 CET 2025' >"$host/sys/hypervisor/compilation/compile_date"
doctor 1 "before XSA-500" "install the security updates"
echo 'Sat Aug  1 13:23:03 UTC 2026' >"$host/sys/hypervisor/compilation/compile_date"
doctor 0 "probably without the fix of XSA-523" "install the security updates"
echo yesterday >"$host/sys/hypervisor/compilation/compile_date"
doctor 0 "does not say when it was built"

make_host
echo 65000 >"$host/proc/sys/fs/aio-nr"
doctor 1 "65000 of 65536 events" "sysctl -w fs.aio-max-nr"

make_host
echo 1000 >"$host/proc/sys/vm/max_map_count"
doctor 1 "max_map_count is 1000" "sysctl -w vm.max_map_count"

make_host
echo 1024 >"$host/sys/module/xen_gntdev/parameters/limit"
doctor 1 "limit is 1024" "echo 1048576 >"

make_host
echo 'ext4 / ext4 rw 0 0' >"$host/proc/mounts"
doctor 1 "/run is no tmpfs" "mount a tmpfs"

make_host
rm "$host/$plugins/raw.so"
doctor 1 "no image drivers"

make_host
rm "$host/proc/xen/capabilities"
doctor 1 "/proc/xen is not mounted" "modprobe xenfs"
rm -r "$host/proc/xen" "$host/sys/hypervisor"
doctor 1 "does not run on Xen" "boot into Xen"
! grep -q 'gntdev.*No' "$tmp/out" || fail "devices of Xen without Xen"

# An empty tree has many problems, and none that crashes.
mkdir "$tmp/nothing"
ctl 1 doctor --root "$tmp/nothing"
ctl 2 doctor --root "$tmp/missing"
says err "missing is no directory"
# This machine, whatever it is, gets a verdict; nobody answers on that socket.
status=0
"$ringdisk" doctor --socket "$tmp/nobody" >"$tmp/out" || status=$?
same "status" 1 "$status"
says out "-> systemctl start ringdiskd"
