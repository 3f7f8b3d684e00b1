#!/bin/bash
# The metrics by HTTP: on a loopback address and on a unix socket the same text as ringdisk metrics, and nothing else;
# other addresses are refused; clients that do nothing do not keep others out for ever, and end with the daemon.
. "${srcdir:-.}/functions.sh"
. "$srcdir/cli/functions.sh"

[ "${HAVE_MICROHTTPD:-}" = yes ] || skip "built without libmicrohttpd"
require curl --version

# refuses TEXT ARG...: the daemon must not start so, and say why.
refuses()
{
	local text=$1
	shift
	expect_fail "$ringdiskd" --check-config "$@" 2>"$tmp/err"
	says err "$text"
}
refuses 'not on the loopback' --metrics-listen=192.0.2.1:9273
refuses 'not on the loopback' --metrics-listen=0.0.0.0:9273
refuses 'not on the loopback' --metrics-listen='[::]:9273'
for wrong in 127.0.0.1 127.0.0.1: :80 localhost:80 127.0.0.1:65536 127.0.0.1:-1 '[::1:80' '[]:80' ::1:80 sock ''; do
	refuses 'should be' --metrics-listen="$wrong"
done
"$ringdiskd" --check-config --metrics-listen=0.0.0.0:9273 --metrics-remote=on
"$ringdiskd" --check-config --metrics-listen='[::1]:9273'

# start_on ADDRESS: sets daemon.
start_on()
{
	start_daemon --metrics-listen="$1"
	wait_for 20 grep -q 'metrics at' "$tmp/daemon.log"
}

# get URL ARG...: into $tmp/out, headers into $tmp/head.
get()
{
	curl -sS --max-time 60 -D "$tmp/head" -o "$tmp/out" "$@" || {
		cat "$tmp/daemon.log"
		fail "curl $*"
	}
	tr -d '\r' <"$tmp/head" >"$tmp/head.unix"
}

start_on 127.0.0.1:0
url=$(sed -n 's|.*metrics at \(http://127.0.0.1:[0-9]*/\)metrics$|\1|p' "$tmp/daemon.log")
truncate -s 4M "$tmp/a.img"
"$bench" --connect="$tmp/hyp" --no-progress -j mix:rw=50:time=600 5/xvda "raw,iops=400:$tmp/a.img" >"$tmp/bench" 2>&1 &
guest=$!
cleanup stop "$guest" KILL
has_disk()
{
	get "${url}metrics"
	grep -q '^ringdisk_requests_total{disk="5/xvda",op="read"} [1-9]' "$tmp/out"
}
wait_for 20 has_disk
says head.unix "Content-Type: application/openmetrics-text; version=1.0.0; charset=utf-8"
same "last line" "# EOF" "$(tail -n 1 "$tmp/out")"
grep -o '^ringdisk_[a-z_]*' "$tmp/out" | sort -u >"$tmp/names.http"
ctl 0 metrics
grep -o '^ringdisk_[a-z_]*' "$tmp/out" | sort -u >"$tmp/names.ctl"
diff "$tmp/names.http" "$tmp/names.ctl" || fail "not the same metrics as from ringdisk metrics"

get -H 'Accept: text/plain;version=0.0.4' "${url}metrics"
says head.unix "Content-Type: text/plain; version=0.0.4"
get --head "${url}metrics"
says head.unix "HTTP/1.1 200"
get "${url}"
says head.unix "HTTP/1.1 404"
get -X POST -d 'x=y' "${url}metrics"
says head.unix "HTTP/1.1 405"
says head.unix "Allow: GET, HEAD"
get -X DELETE "${url}metrics"
says head.unix "HTTP/1.1 405"

sockets()
{
	find "/proc/$daemon/fd" -lname 'socket:*' | wc -l
}
before=$(sockets)

# Clients that say too little, and one that says too much; one that wants something gets it when their time is over.
port=${url##*:}
port=${port%/}
python3 - "$port" "$tmp/silent" <<'END' &
import socket, sys, time
silent = []
for i in range(24):
    # Those behind the end of the queue never get through.
    s = socket.socket()
    s.setblocking(False)
    s.connect_ex(("127.0.0.1", int(sys.argv[1])))
    silent.append(s)
time.sleep(0.2)
for i, s in enumerate(silent):
    try:
        s.send(b"GET /metrics HTTP/1.1\r\nX: " + (b"y" * 1000000 if i == 3 else b"y"))
    except OSError:
        pass
open(sys.argv[2], "w").close()
time.sleep(300)
END
silent=$!
cleanup stop "$silent" KILL
wait_for 20 test -e "$tmp/silent"
during=$(sockets)
[ $((during - before)) -le 16 ] || fail "$((during - before)) are connected"
wait_for 60 get "${url}metrics"
says head.unix "HTTP/1.1 200"
stop "$daemon"
stop "$guest" KILL

start_on "$tmp/http"
same "mode of the socket" 660 "$(stat -c %a "$tmp/http")"
get --unix-socket "$tmp/http" http://localhost/metrics
same "last line" "# EOF" "$(tail -n 1 "$tmp/out")"
stop "$daemon"
[ ! -e "$tmp/http" ] || fail "the socket is left behind"
