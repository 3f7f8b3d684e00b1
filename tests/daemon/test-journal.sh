#!/bin/bash
# Messages in the journal have the fields that an administrator selects by, whatever is in their text; from inside of
# the sandbox, too. Without a journal, or where stderr leads elsewhere, they are on stderr.
if [ -z "${JOURNAL_MOUNTS:-}" ]; then
	if unshare -m true 2>/dev/null; then
		JOURNAL_MOUNTS=root exec unshare -m "$BASH" "$0"
	elif unshare -rm true 2>/dev/null; then
		JOURNAL_MOUNTS=user exec unshare -rm "$BASH" "$0"
	fi
fi
. "${srcdir:-.}/functions.sh"

require python3 --version

# Not below the build tree, which user nobody may be unable to enter.
base=$(mktemp -d "${TMPDIR:-/tmp}/ringdisk-journal.XXXXXX")
cleanup rm -rf "$base"
chmod 755 "$base"
mkdir "$base/run" "$base/drivers"
cp "$drivers"/*.so "$base/drivers/"
sock=$base/run/ctl
err=$base/err
options=(--hyp=loopback --loopback-socket="$base/run/hyp" --control-socket="$sock" --driver-dir="$base/drivers"
	--image-directories="$base" --pid-file="$base/run/pid")
daemon=
cleanup end_now

end_now()
{
	[ -z "$daemon" ] || kill -KILL "$daemon" 2>/dev/null
}

# begin OPTION...: in the foreground, its stderr is the file $err.
begin()
{
	rm -f "$sock"
	: >"$err"
	JOURNAL_STREAM=${stream:-$(stat -c %d:%i "$err")} "$ringdiskd" -f "${options[@]}" "$@" 2>>"$err" &
	daemon=$!
	wait_for 20 test -S "$sock"
}

end()
{
	stop "$daemon"
	daemon=
}

# In a build without it that is said, and lines have their priority.
if ! "$ringdiskd" --config=/dev/null --log-target=journal --check-config 2>"$tmp/err"; then
	grep -q "this build has no journal" "$tmp/err" || fail "$(cat "$tmp/err")"
	begin
	kill -HUP "$daemon"
	wait_for 20 grep -q '^<6>.*reading the configuration again' "$err"
	end
	exit 0
fi
[ -n "${JOURNAL_MOUNTS:-}" ] || skip "may not make a mount namespace (unshare -m)"
mount -t tmpfs none /run
mkdir -p /run/systemd/journal
log=$tmp/journal

# ---- there is none ---------------------------------------------------------------------------------------------

stream=1:1 begin --log-target=journal
grep -q 'no journal: No such file.*logging to stderr' "$err" || fail "does not tell: $(cat "$err")"
end
begin
kill -HUP "$daemon"
wait_for 20 grep -q '^<6>.*reading the configuration again' "$err"
end

# ---- stderr leads there ----------------------------------------------------------------------------------------

python3 "$srcdir/daemon/journal.py" /run/systemd/journal/socket "$log" 2>"$tmp/receiver" &
cleanup kill -KILL $!
wait_for 20 test -S /run/systemd/journal/socket

from=0
# has WHAT...: after so many messages there is one with all of that. FIELD=VALUE; FIELD~TEXT: that is in its value; !FIELD:
# it has no such field.
has()
{
	python3 - "$log" "$from" "$@" <<'END'
import json, sys
def fits(message, wanted):
    name, is_part, part = wanted.partition("~")
    if is_part:
        return part in message.get(name, "")
    if wanted[0] == "!":
        return wanted[1:] not in message
    return wanted.partition("=")[2] == message.get(wanted.partition("=")[0])
messages = [dict(json.loads(line)) for line in open(sys.argv[1])][int(sys.argv[2]):]
sys.exit(not any(all(fits(m, w) for w in sys.argv[3:]) for m in messages))
END
}
there()
{
	wait_for 20 has "$@"
}

# guest DOMID: one that can be given disks.
guest()
{
	rm -f "$tmp/stdin"
	mkfifo "$tmp/stdin"
	"$top_builddir/tests/loopback/domain" "$base/run/hyp" "$1" <"$tmp/stdin" >"$tmp/domain" &
	cleanup kill -KILL $!
	exec 9>"$tmp/stdin"
	wait_for 20 grep -q ready "$tmp/domain"
}
refused()
{
	if timeout 60 "$ringdisk" -s "$sock" attach "$@" >"$tmp/out" 2>&1; then fail "attached: $*"; fi
}
served()
{
	"$bench" --connect="$base/run/hyp" --no-progress -c 100 -j verify "$1" "$2" >"$tmp/bench" 2>&1 ||
		fail "$(cat "$tmp/bench")"
}

begin
guest 7
truncate -s 8M "$base/a.img"
head -c 4096 /dev/urandom >"$base/bad.qcow2"
truncate -s 8M "$base/gone.img"
"$rimg" create --driver-dir="$drivers" -q -b gone.img -F raw "qcow2:$base/over.qcow2"
rm "$base/gone.img"

# The driver speaks; a file does, for it; the image below does; the device does, of what is connected.
refused 7 xvda "qcow2:$base/bad.qcow2"
there DISK=7/xvda DOMID=7 VBD=xvda DRIVER=qcow2 PRIORITY=3 SUBSYSTEM=driver SYSLOG_IDENTIFIER=ringdiskd \
	MESSAGE~"7/xvda: error: qcow2: $base/bad.qcow2"
refused 7 xvdb "raw:$base/none.img"
there DISK=7/xvdb DOMID=7 VBD=xvdb DRIVER=raw PRIORITY=3 MESSAGE~none.img
refused 7 xvdc "qcow2:$base/over.qcow2"
there DISK=7/xvdc DOMID=7 VBD=xvdc DRIVER=qcow2 PRIORITY=3 MESSAGE~gone.img
served 9/xvda "raw:$base/a.img"
there DISK=9/xvda DOMID=9 VBD=xvda DRIVER=raw PRIORITY=6 SUBSYSTEM=device MESSAGE~'connected: '
there DISK=9/xvda DOMID=9 VBD=xvda DRIVER=raw PRIORITY=6 SUBSYSTEM=device MESSAGE~disconnected
# After a swap the driver is the new image's, with a guest and without.
"$rimg" create --driver-dir="$drivers" -q "qcow2:$base/b.qcow2" 8M
"$bench" --connect="$base/run/hyp" --no-progress -t 600 -j randread 9/xvdc "raw:$base/a.img" >"$tmp/bench" 2>&1 &
bench_pid=$!
cleanup stop "$bench_pid" INT
there DISK=9/xvdc DRIVER=raw MESSAGE~'connected: '
"$ringdisk" -s "$sock" swap 9/xvdc "qcow2:$base/b.qcow2"
there DISK=9/xvdc DRIVER=qcow2 SUBSYSTEM=device MESSAGE~'now on qcow2:'
kill -INT "$bench_pid"
wait "$bench_pid" || true
there DISK=9/xvdc DRIVER=qcow2 SUBSYSTEM=device MESSAGE~disconnected
"$ringdisk" -s "$sock" attach 7 xvde "raw:$base/a.img"
"$ringdisk" -s "$sock" swap 7/xvde "qcow2:$base/b.qcow2"
there DISK=7/xvde DRIVER=qcow2 SUBSYSTEM=device MESSAGE~'now on qcow2:'
# What is about no disk.
kill -HUP "$daemon"
there PRIORITY=6 SUBSYSTEM=config '!DISK' '!DOMID' '!VBD' '!DRIVER' MESSAGE~'reading the configuration again'

# A text that would be fields, or no text.
evil=$'none\nDOMID=0\nPRIORITY=0\n\x1b[2J'
refused 7 xvdd "raw:$base/$evil"
there DOMID=7 VBD=xvdd PRIORITY=3 MESSAGE~'none?DOMID=0?PRIORITY=0??[2J'
"$bench" --connect="$base/run/hyp" --no-progress -c 1 9/xvdb "raw:$base/"$'\xe4\xc3\xa4\xc2\x85\xed\xa0\x80\xf0\x9f\x98\x80none' \
	>"$tmp/bench" 2>&1 && fail "no such image"
there DOMID=9 VBD=xvdb PRIORITY=3 MESSAGE~$'/?\xc3\xa4?????\xf0\x9f\x98\x80none'
exec 9>&-
end
python3 - "$log" <<'END'
import json, sys
for line in open(sys.argv[1]):
    fields = json.loads(line)
    names = [name for name, _ in fields]
    assert len(names) == len(set(names)), fields
    assert not any("\n" in value for _, value in fields), fields
    assert {"MESSAGE", "PRIORITY", "SUBSYSTEM"} <= set(names) and not any("CODE" in name for name in names), fields
END
[ ! -s "$err" ] || fail "on stderr, too: $(cat "$err")"

# ---- it leads elsewhere ----------------------------------------------------------------------------------------

before=$(wc -l <"$log")
stream=1:1 begin
served 9/xvda "raw:$base/a.img"
grep -q '9/xvda: connected' "$err" || fail "nothing on stderr: $(cat "$err")"
end
begin --log-target=stderr
served 9/xvda "raw:$base/a.img"
grep -q '^<6>.*9/xvda: connected' "$err" || fail "nothing on stderr: $(cat "$err")"
end
same "messages in the journal" "$before" "$(wc -l <"$log")"

# ---- in the background, with whatever can be taken away taken away -----------------------------------------------

user=()
if [ "$JOURNAL_MOUNTS" = root ] && [ "$(id -u)" = 0 ] && getent passwd nobody >/dev/null; then
	user=(--user=nobody)
fi
rm -rf "$base/run"
mkdir "$base/run"
[ ${#user[@]} = 0 ] || chown nobody "$base/run"
from=$before
"$ringdiskd" "${options[@]}" "${user[@]}" --log-target=journal 2>"$err" || fail "does not start: $(cat "$err")"
daemon=$(cat "$base/run/pid")
served 9/xvda "raw:$base/a.img"
there DISK=9/xvda DOMID=9 VBD=xvda DRIVER=raw MESSAGE~'connected: '
if [ ${#user[@]} != 0 ] && [ -z "${SANITIZE:-}" ] && ! grep -q 'no filter of system calls' "$err"; then
	grep -q '^Seccomp:.*2' "/proc/$daemon/status" || fail "no sandbox: $(cat "$err")"
fi
stop "$daemon"
daemon=
there MESSAGE~'ending (Terminated)'
rm -rf "$base/run"
mkdir "$base/run"
"$ringdiskd" "${options[@]}" --log-target=stderr 2>"$err" || fail "does not start: $(cat "$err")"
daemon=$(cat "$base/run/pid")
served 9/xvda "raw:$base/a.img"
end
grep -q '9/xvda: connected' "$err" || fail "nothing on stderr: $(cat "$err")"
[ ! -s "$tmp/receiver" ] || fail "$(cat "$tmp/receiver")"
