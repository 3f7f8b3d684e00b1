#!/bin/bash
# Every verb of ringdisk against an admin socket whose disks are not there: what it prints, its exit status, and
# what it says to do when something is wrong.
. "${srcdir:-.}/functions.sh"
. "$srcdir/cli/functions.sh"

start_fake_daemon

ctl 0 list
same "the table" "DISK    STATE      MODE   SIZE  RINGS  IN I/O  IMAGE
5/xvda  connected  rw    1 MiB    2x2       0  raw:/srv/a.img
5/xvdb  connected  rw    1 MiB    2x2       0  raw:/srv/b.img
5/xvdc  connected  rw    1 MiB    2x2       0  raw:/srv/c.img
5/xvdd  connected  rw    1 MiB    2x2       0  raw:/srv/?[31md.img
5/xvdd: raw: ?[2J cannot be read" "$(cat "$tmp/out")"
ctl 0 list 5/xvdb
same "lines" 2 "$(wc -l <"$tmp/out")"
ctl 0 list --settings 5/xvda
says out "5/xvda  cache"
says out writeback
says out default

ctl 4 list 5/xvdz
says err 'there is no disk "5/xvdz"'
says err '5/xvda, 5/xvdb, 5/xvdc, 5/xvdd'

ctl 0 pause 5/xvda
same "pause" "5/xvda paused" "$(cat "$tmp/out")"
ctl 0 list 5/xvda
says out paused
ctl 0 unpause 5/xvda raw:/srv/new.img
same "unpause" "5/xvda runs" "$(cat "$tmp/out")"
ctl 0 list 5/xvda
says out raw:/srv/new.img
ctl 7 unpause 5/xvdb
says err "cannot unpause 5/xvdb: it is connected"
ctl 1 unpause 5/xvdd
says err "cannot unpause 5/xvdd: raw: ?[2J cannot be read"

# What takes long can be left to the daemon.
ctl 5 pause 5/xvdc --timeout 0.2
says err "no answer within 0.2 seconds"
ctl 0 version --timeout 10

ctl 0 attach 7 xvda raw:/srv/a.img
same "attach" "7/xvda attached" "$(cat "$tmp/out")"
ctl 0 attach 7/xvdb raw:/srv/a.img --read-only
ctl 0 attach 7 xvdc raw:/srv/a.img --cdrom --kind qdisk
same "what reached the store" "ready
attach 7 51712 vbd3 raw:/srv/a.img rw
attach 7 51728 vbd3 raw:/srv/a.img ro
attach 7 51744 qdisk raw:/srv/a.img ro cdrom" "$(cat "$tmp/daemon.out")"
ctl 1 attach 7 xvdd raw:/missing
says err "cannot attach 7/xvdd: raw: /missing: No such file or directory"
ctl 1 attach 5 xvda raw:/srv/a.img
says err "5/xvda is there already"
ctl 2 attach 7 floppy raw:/srv/a.img
says err '"floppy" is no virtual disk'
ctl 2 attach dom xvda raw:/srv/a.img
says err '"dom" is no domain'

ctl 5 detach 5/xvda
says err "cannot detach 5/xvda: the guest keeps it open"
says err "use force"
ctl 0 detach 5/xvda --force
same "detach" "5/xvda detached" "$(cat "$tmp/out")"

ctl 0 set 5/xvda sync=on poll=off
same "set" "5/xvda sync=on, at once
5/xvda poll=off, at once" "$(cat "$tmp/out")"
ctl 0 list --settings 5/xvda
grep -Eq '^5/xvda +sync +on ' "$tmp/out" || fail "sync is not on"
ctl 2 set 5/xvda sync=maybe
says err "cannot set sync"
ctl 2 set 5/xvda sync
says err '"sync" is not KEY=VALUE'

ctl 0 resize 5/xvda +1M
same "resize" "5/xvda has 2097152 bytes (2 MiB)" "$(cat "$tmp/out")"
ctl 0 resize 5/xvda 3M
ctl 0 resize 5/xvda
same "resize without a size" "5/xvda has 3145728 bytes (3 MiB)" "$(cat "$tmp/out")"
ctl 2 resize 5/xvda 1M
says err "cannot resize 5/xvda: that is less than it has now"
ctl 0 resize 5/xvda 1M --shrink
ctl 2 resize 5/xvda much
says err '"much" is no size'
ctl 2 resize 5/xvda +0
ctl 2 resize 5/xvda +8000P
ctl 0 flush 5/xvda
same "flush" "5/xvda flushed" "$(cat "$tmp/out")"
ctl 1 flush 5/xvdd

ctl 0 stats 5/xvda
grep -Eq '^5/xvda +read +42 ' "$tmp/out" || fail "42 reads are not there"
says out "pool control: "
ctl 2 stats --watch 0
ctl 2 stats --watch often

ctl 0 drivers
says out "unusable: lacks the callback readv"
grep -Eq '^raw +wait= +N ms to wait$' "$tmp/out" || fail "no option of raw"

ctl 0 log-level ring debug
same "log-level" "SUBSYSTEM  LEVEL
ring       debug" "$(cat "$tmp/out")"
ctl 0 log-level
says out main
ctl 2 log-level nothing
says err "one of main"
ctl 2 log-level ring loud
says err "one of err, warn, info, debug"

# --json is JSON, whatever the verb.
for verb in list stats drivers log-level version "pause 5/xvda" "unpause 5/xvda" "set 5/xvda sync=off"; do
	# shellcheck disable=SC2086
	ctl 0 $verb --json
	python3 -m json.tool <"$tmp/out" >/dev/null || fail "$verb --json is not JSON"
done
ctl 4 pause 9/xvda --json
python3 -c 'import json, sys
assert json.load(sys.stdin)["error"]["data"]["what"] == "no-such-disk"' <"$tmp/out"

# Wrong usage.
ctl 2 stat
says err 'did you mean "stats"?'
ctl 2 pasue
says err 'did you mean "pause"?'
ctl 2 quux
says err 'there is no verb "quux"'
ctl 2 pause
says err "pause needs DISK"
ctl 2 pause 5/xvda 5/xvdb
says err '"5/xvdb" is too much'
ctl 2 pause --nonsense 5/xvda
says err "Try 'ringdisk pause --help'"
ctl 2 list --timeout soon
status=0
"$ringdisk" >/dev/null 2>&1 || status=$?
same "no verb at all" 2 "$status"
"$ringdisk" --version | grep -q '^ringdisk [0-9]' || fail "--version"
"$ringdisk" list --help | grep -q '^Usage: ringdisk list' || fail "list --help"

# Whoever may not speak to the daemon is told so.
if [ "$(id -u)" = 0 ] && command -v setpriv >/dev/null; then
	cp "$top_builddir/tools/ringdisk" "$tmp/"
	chmod 755 "$tmp" "$tmp/ringdisk"
	as_stranger="setpriv --reuid 54321 --regid 54321 --clear-groups"
	if $as_stranger "$tmp/ringdisk" --version >/dev/null 2>&1; then
		status=0
		$as_stranger "$tmp/ringdisk" -s "$sock" list >/dev/null 2>"$tmp/err" || status=$?
		same "not connected" 6 "$status"
		says err "member of the socket's group"
		chmod 666 "$sock"
		$as_stranger "$tmp/ringdisk" -s "$sock" list >/dev/null || fail "a stranger may list"
		status=0
		$as_stranger "$tmp/ringdisk" -s "$sock" pause 5/xvda 2>"$tmp/err" || status=$?
		same "not allowed" 6 "$status"
	fi
fi

ctl 0 shutdown
wait "$daemon" || fail "the daemon failed at its end"
ctl 3 list
says err "Is ringdiskd running? Try 'systemctl start ringdiskd'"
