#!/bin/bash
# How the daemon starts and ends: in the background and not, ready when it says so, with a reason when it
# cannot, in order at the first signal and at once at the second.
. "${srcdir:-.}/functions.sh"

sock=$tmp/ctl
options=(--hyp=loopback --loopback-socket="$tmp/hyp" --control-socket="$sock" --driver-dir="$drivers"
	--pid-file="$tmp/pid")

# Whatever is left of it at the end.
end_it()
{
	kill -KILL "$1" 2>/dev/null || true
}

gone()
{
	! kill -0 "$1" 2>/dev/null
}

answers()
{
	"$ringdisk" version --socket "$sock" >/dev/null
}

# In the background: when the parent returns the daemon answers, and its pid is in the file.
timeout 30 "$ringdiskd" "${options[@]}" 2>"$tmp/err" || fail "does not start: $(cat "$tmp/err")"
answers
pid=$(cat "$tmp/pid")
cleanup end_it "$pid"
expect_fail timeout 30 "$ringdiskd" "${options[@]}" 2>"$tmp/err" # two at a time
answers
kill -TERM "$pid"
wait_for 20 gone "$pid"
for file in pid ctl hyp; do
	[ ! -e "$tmp/$file" ] || fail "$file is left"
done

# In the foreground, with a service manager that listens.
cat >"$tmp/manager.py" <<'PY'
import socket, sys
s = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
s.bind(sys.argv[1])
s.settimeout(60)
last = None
while True:
    text = s.recv(100).decode()
    if text != last:
        print(text, flush=True)
    last = text
    if text == "STOPPING=1":
        break
PY
python3 "$tmp/manager.py" "$tmp/notify" >"$tmp/told" &
manager=$!
cleanup end_it "$manager"
wait_for 10 test -S "$tmp/notify"
WATCHDOG_USEC=200000 NOTIFY_SOCKET=$tmp/notify "$ringdiskd" -f "${options[@]}" 2>"$tmp/err" &
pid=$!
cleanup end_it "$pid"
wait_for 20 grep -q READY=1 "$tmp/told"
wait_for 20 grep -q WATCHDOG=1 "$tmp/told"
answers
"$ringdisk" shutdown --socket "$sock"
status=0
wait "$pid" || status=$?
same 'status after shutdown' 0 "$status"
wait "$manager"
same 'told to the manager' 'READY=1 WATCHDOG=1 STOPPING=1' "$(tr '\n' ' ' <"$tmp/told" | sed 's/ $//')"

# What cannot be is said, in the foreground and in the background.
for how in --foreground --log-level=info; do
	status=0
	timeout 30 "$ringdiskd" "$how" "${options[@]}" --driver-dir="$tmp/none" 2>"$tmp/err" || status=$?
	same "status without drivers, $how" 1 "$status"
	grep -q "$tmp/none" "$tmp/err" || fail "no reason given, $how: $(cat "$tmp/err")"
done
# What stands where a socket should be is nothing that we may remove.
echo precious >"$tmp/file"
for socket in loopback control; do
	status=0
	timeout 30 "$ringdiskd" "${options[@]}" --$socket-socket="$tmp/file" 2>"$tmp/err" || status=$?
	same "status with a file for the $socket socket" 1 "$status"
	grep -q "$tmp/file: exists and is not a socket" "$tmp/err" || fail "no reason given: $(cat "$tmp/err")"
	same "the file" precious "$(cat "$tmp/file")"
done
printf '[defaults]\ncache = fast\n' >"$tmp/conf"
status=0
timeout 30 "$ringdiskd" "${options[@]}" --config="$tmp/conf" 2>"$tmp/err" || status=$?
same 'status with a bad configuration' 2 "$status"
grep -q "^$tmp/conf:2: cache=fast: should be" "$tmp/err" || fail "$(cat "$tmp/err")"

# After SIGKILL its sockets and pid file lie around: the next one starts all the same.
"$ringdiskd" -f "${options[@]}" 2>"$tmp/err" &
pid=$!
wait_for 20 answers
stop "$pid" KILL
"$ringdiskd" -f "${options[@]}" 2>"$tmp/err" &
pid=$!
cleanup end_it "$pid"
wait_for 20 answers
same 'pid file' "$pid" "$(cat "$tmp/pid")"

# An image that takes its time to open holds up the end for some seconds; a second signal does not wait.
mkfifo "$tmp/stdin"
"$top_builddir/tests/loopback/domain" "$tmp/hyp" 7 <"$tmp/stdin" >"$tmp/domain" &
domain=$!
exec 9>"$tmp/stdin"
cleanup end_it "$domain"
wait_for 10 grep -q ready "$tmp/domain"
timeout 60 "$ringdisk" attach 7 xvda 'delay,open-ms=50000:null:1M' --socket "$sock" >"$tmp/attach" 2>&1 &
listed()
{
	"$ringdisk" list --socket "$sock" | grep -q 7/xvda
}
wait_for 20 listed
kill -TERM "$pid"
wait_for 20 grep -q ending "$tmp/err"
kill -0 "$pid" || fail "did not wait for the disk"
kill -INT "$pid"
status=0
wait "$pid" || status=$?
same 'status after the second signal' 130 "$status"
exec 9>&-
