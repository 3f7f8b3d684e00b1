#!/bin/bash
# The directory of configuration files, --check-config with a line for every mistake, and SIGHUP: what it brings
# into force at once, what it leaves alone, and what it says.
. "${srcdir:-.}/functions.sh"
. "$srcdir/cli/functions.sh"

conf=$tmp/conf
write_conf()
{
	cat >"$conf" <<CONF
[daemon]
hyp = loopback
workers = $1
log-level = info, ring=$2
[defaults]
iops = $3
sync = $4
cache = $5
CONF
}
write_conf 2 info 1000 off writeback
mkdir "$conf.d"
printf '[disk "7/xvdb"]\niops = 77\n' >"$conf.d/20-b.conf"
printf '[disk "7/xvdb"]\niops = 66\nbps = 1M\n' >"$conf.d/10-b.conf"
printf 'not read\n' >"$conf.d/30-b.conf.bak"
printf 'not read\n' >"$conf.d/.40-b.conf"

# Every mistake of every file has its line.
printf '[daemon]\nclaim = x\n[defaults]\nno = 1\n' >"$conf.d/50-bad.conf"
printf '[disk "a"]\n\niops = many\n' >"$conf.d/60-bad.conf"
status=0
"$ringdiskd" --config="$conf" --check-config --workers=many 2>"$tmp/err" || status=$?
same 'status of --check-config' 2 "$status"
for where in 50-bad.conf:2 50-bad.conf:4 60-bad.conf:3; do
	grep -q "^$conf.d/$where: " "$tmp/err" || fail "no complaint about $where: $(cat "$tmp/err")"
done
grep -q -e '--workers: ' "$tmp/err" || fail "no complaint about the command line: $(cat "$tmp/err")"
rm "$conf.d"/[56]0-bad.conf

# What is no file is told, and does not hold up whoever reads.
mkfifo "$conf.d/50-bad.conf"
mkdir "$conf.d/60-bad.conf"
ln -s /dev/null "$conf.d/65-masked.conf"
status=0
timeout 20 "$ringdiskd" --config="$conf" --check-config 2>"$tmp/err" || status=$?
same 'status of --check-config' 2 "$status"
grep -q "50-bad.conf: is a fifo" "$tmp/err" || fail "no complaint about a fifo: $(cat "$tmp/err")"
grep -q "60-bad.conf: is a directory" "$tmp/err" || fail "no complaint about a directory: $(cat "$tmp/err")"
grep -q masked "$tmp/err" && fail "a fragment that leads to /dev/null is a mistake: $(cat "$tmp/err")"
rm -r "$conf.d"/[56]0-bad.conf "$conf.d/65-masked.conf"
# What stands there and does not fit this host: the daemon would not start, or might be glad of it later.
printf '[daemon]\nuser = no-such-user-at-all\ncontrol-group = no-such-group-at-all\nimage-directories = %s:/no/such\nworkers = 70\n' \
	"$tmp" >"$conf.d/70-host.conf"
status=0
"$ringdiskd" --config="$conf" --check-config 2>"$tmp/err" || status=$?
same 'status of --check-config' 2 "$status"
for text in '2: user: no-such-user-at-all is no user' '3: control-group: no-such-group-at-all is no group' \
	'4: warning: image-directories: /no/such is not there' '5: workers (70) is more than max-workers (64, default)'; do
	grep -qF "$conf.d/70-host.conf:$text" "$tmp/err" || fail "no '$text': $(cat "$tmp/err")"
done
printf '[daemon]\nimage-directories = /no/such\n' >"$conf.d/70-host.conf"
"$ringdiskd" --config="$conf" --check-config 2>"$tmp/err" || fail "a warning is an error: $(cat "$tmp/err")"
grep -q warning "$tmp/err" || fail "no warning"
rm "$conf.d/70-host.conf"
"$ringdiskd" --config="$conf" --check-config

truncate -s 1M "$tmp/a.img" "$tmp/b.img" "$tmp/c.img"
# A relative name of the file is still right when it is read again.
cd "$tmp"
start_daemon --config=conf --claim=all
cd "$OLDPWD"
start_domain

ctl 0 attach 7 xvda "raw,bps=2000:$tmp/a.img"
ctl 0 attach 7 xvdb "raw:$tmp/b.img"
setting 7/xvda iops 1000 config
setting 7/xvdb iops 77 disk
setting 7/xvdb bps 1048576 disk
ctl 0 set 7/xvda sync=off

# reload: wait until it has been done.
reloads=0
reload()
{
	reloads=$((reloads + 1))
	kill -HUP "$daemon"
	wait_for 20 eval "[ \$(grep -c 'reading the configuration again' '$tmp/daemon.log') = $reloads ]"
}

write_conf 3 debug 500 on none
rm "$conf.d/20-b.conf"
reload
wait_for 20 grep -q 'workers has changed: that takes a restart' "$tmp/daemon.log"
new_limits()
{
	ctl 0 list --settings 7/xvda
	grep -Eq '^7/xvda +iops +500 +config( |$)' "$tmp/out"
}
wait_for 20 new_limits
setting 7/xvda sync off set
setting 7/xvda bps 2000 params
setting 7/xvda cache none config
setting 7/xvdb iops 66 disk
setting 7/xvdb sync on config
ctl 0 log-level ring
says out debug
! grep -q 'claim has changed' "$tmp/daemon.log" || fail "the command line is not heeded"
# A disk that comes now has the new ones.
ctl 0 attach 7 xvdc "raw:$tmp/c.img"
setting 7/xvdc iops 500 config

# A mistake changes nothing.
printf '[defaults]\niops = 5\nsync = perhaps\n' >"$conf"
reload
wait_for 20 grep -q 'nothing was changed' "$tmp/daemon.log"
grep -q "$conf:3: " "$tmp/daemon.log" || fail "no line: $(cat "$tmp/daemon.log")"
setting 7/xvda iops 500 config

# What is gone from the file is as if it had never been there.
printf '[daemon]\nhyp = loopback\n' >"$conf"
rm "$conf.d"/*.conf
reload
default_limits()
{
	ctl 0 list --settings 7/xvda
	grep -Eq '^7/xvda +iops +0 +default( |$)' "$tmp/out"
}
wait_for 20 default_limits
setting 7/xvdb bps 0 default
exec 9>&-
stop "$daemon"
