#!/bin/bash
# What the sandbox refuses to a driver that has gone bad, and that without it the same goes through; and that the
# daemon does its work inside of it.
. "${srcdir:-.}/functions.sh"

read -ra cc <<<"${CC:-cc}"
"${cc[@]}" --version >/dev/null 2>&1 || skip "no compiler"

mkdir "$tmp/drivers" "$tmp/run" "$tmp/images" "$tmp/outside"
cp "$drivers"/*.so "$tmp/drivers/"
"${cc[@]}" -shared -fPIC -o "$tmp/drivers/escape.so" -I "$top_srcdir/core/include" "$srcdir/daemon/escape.c"
truncate -s 8M "$tmp/images/a.img" "$tmp/outside/b.img"
echo secret >"$tmp/outside/secret"

start()
{
	"$ringdiskd" -f --hyp=loopback --sandbox="$1" --image-directories="$tmp/images" \
		--loopback-socket="$tmp/run/hyp" --control-socket="$tmp/run/ctl" --driver-dir="$tmp/drivers" 2>"$tmp/err" &
	daemon=$!
	cleanup kill -KILL "$daemon"
	wait_for 20 eval "test -S '$tmp/run/ctl' || ! kill -0 $daemon"
	[ -S "$tmp/run/ctl" ] || return 1
	rm -f "$tmp/stdin"
	mkfifo "$tmp/stdin"
	"$top_builddir/tests/loopback/domain" "$tmp/run/hyp" 7 <"$tmp/stdin" >"$tmp/domain" &
	exec 9>"$tmp/stdin"
	wait_for 20 grep -q ready "$tmp/domain"
}

finish()
{
	exec 9>&-
	stop "$daemon"
	wait_for 10 eval "! test -S '$tmp/run/ctl'"
}

# tries WHAT RESULT
tries()
{
	if timeout 60 "$ringdisk" attach 7 xvda "escape:$1" --read-only --socket "$tmp/run/ctl" >"$tmp/out" 2>&1; then
		fail "attached escape:$1"
	fi
	cat "$tmp/err" >>"$tmp/out"
	grep -qF "$1: $2" "$tmp/out" || fail "$1 did not end with '$2': $(tail -5 "$tmp/out")"
}

# The sanitizers' own processes would be refused.
if [ -n "${SANITIZE:-}" ]; then
	start on || fail "does not start: $(cat "$tmp/err")"
	grep -q 'built with a sanitizer.*no sandbox' "$tmp/err" || fail "does not tell that it has no sandbox"
	finish
	exit 0
fi

# Without: the attempts are real ones.
start off || fail "does not start: $(cat "$tmp/err")"
for what in execve fork ptrace socket terminal "read=$tmp/outside/secret" "make=$tmp/outside/made"; do
	tries "$what" 'went through'
done
finish
rm "$tmp/outside/made"

status=0
start on || status=$?
if [ "$status" != 0 ]; then
	grep -E 'sandbox=on, but .*(not supported|not implemented|Not supported)' "$tmp/err" || fail "$(cat "$tmp/err")"
	skip "this kernel has no Landlock, or this build no libseccomp"
fi
for what in execve fork ptrace socket terminal; do
	tries "$what" 'Operation not permitted'
done
tries "read=$tmp/outside/secret" 'Permission denied'
tries "make=$tmp/outside/made" 'Permission denied'
tries "make=$tmp/images/../outside/made" 'Permission denied'
[ ! -e "$tmp/outside/made" ] || fail "a file was made outside"
grep -q '^Seccomp:.*2' "/proc/$daemon/status" || fail "no filter"

# Its own work: a guest on an image inside, on direct I/O, an overlay below it; none on one outside.
"$bench" --connect "$tmp/run/hyp" --no-progress --strict -c 300 -j verify -j discard -j flush 8/xvda \
	"raw,cache=none,aio=native:$tmp/images/a.img" >"$tmp/bench" || fail "$(cat "$tmp/bench" "$tmp/err")"
"$bench" --connect "$tmp/run/hyp" --no-progress -c 300 -j verify 8/xvda "raw:$tmp/images/a.img" >"$tmp/bench" ||
	fail "$(cat "$tmp/bench" "$tmp/err")"
if timeout 60 "$ringdisk" attach 7 xvdb "raw:$tmp/outside/b.img" --socket "$tmp/run/ctl" >"$tmp/out" 2>&1; then
	fail "an image outside was opened"
fi
grep -q 'Permission denied' "$tmp/out" || fail "$(cat "$tmp/out")"
timeout 60 "$ringdisk" attach 7 xvdb "raw:$tmp/images/a.img" --socket "$tmp/run/ctl"
timeout 60 "$ringdisk" list --settings 7/xvdb --socket "$tmp/run/ctl" >/dev/null
kill -HUP "$daemon"
finish
! grep -i 'not permitted' "$tmp/err" | grep -v escape || fail "something that is needed was refused"
