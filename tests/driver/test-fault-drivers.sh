#!/bin/bash
# The drivers for tests: delay and error do what their options say, and nothing else.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"

disk=$tmp/disk.img
truncate -s 1M "$disk"

# outcome OPTIONS COMMAND...: what img prints.
outcome()
{
	"$img" "error,$1:raw:$disk" "${@:2}" 2>&1
}

# ---- error ---------------------------------------------------------------------------------------
same "nth and count" \
	"write: No space left on device" \
	"$(outcome op=write,errno=ENOSPC,nth=3,count=1 write 0 512 1 write 512 512 2 -write 1024 512 3 \
		write 1024 512 4 read 0 512 1 read 1024 512 4)"
same "all from the second" "flush: Input/output error
flush: Input/output error" "$(outcome op=flush,nth=2 flush -flush -flush)"
same "two operations counted together" "read: Input/output error" \
	"$(outcome op=read+write,nth=2,count=1 write 0 512 1 -read 0 512 1 read 0 512 1)"
same "numbers" "discard: Input/output error" "$(outcome op=discard,errno=5 -discard 0 4096)"
same "write-zeroes" "zero: No such device" "$(outcome op=write-zeroes,errno=ENODEV -zero 0 4096)"
same "all but open and close" "read: Stale file handle
write: Stale file handle
flush: Stale file handle" "$(outcome errno=ESTALE -read 0 512 0 -write 0 512 0 -flush)"
says "error: open fails as asked: Device or resource busy" outcome op=open,errno=EBUSY info
says "close: Input/output error" outcome op=close info
same "trigger" "read: Input/output error" \
	"$(touch "$tmp/on"; outcome op=read,when="$tmp/on" -read 0 512 1; rm "$tmp/on"
		outcome op=read,when="$tmp/on" read 0 512 1)"
says "write: Resource temporarily unavailable" outcome op=write,errno=EAGAIN write 0 512 1

says '"sneeze" is no operation' outcome op=sneeze info
says 'errno: "EFOO" is no number' outcome errno=EFOO info
says "errno=0 is no error" outcome errno=0 info
says "raw: /nonexistent: No such file" "$img" error:raw:/nonexistent info
says 'there is no driver "foo"' "$img" error:foo:/x info

# ---- delay ---------------------------------------------------------------------------------------
before=${EPOCHREALTIME/[.,]/}
"$img" "delay,read-ms=30,write-ms=40,flush-ms=50,open-ms=60,close-ms=70:raw:$disk" \
	write 0 512 5 read 0 512 5 flush
took=$(((${EPOCHREALTIME/[.,]/} - before) / 1000))
[ "$took" -ge 250 ] || fail "took only $took ms"

# One that hangs, until it is released.
"$img" "delay,hang=write,nth=2,release=$tmp/go:raw:$disk" write 0 512 8 info write 512 512 9 info \
	>"$tmp/out" 2>&1 &
pid=$!
cleanup eval "kill -KILL $pid 2>/dev/null"
wait_for 10 grep -q size "$tmp/out"
kill -0 "$pid" || fail "did not hang: $(cat "$tmp/out")"
same "the second write hangs" 1 "$(grep -c size "$tmp/out")"
touch "$tmp/go"
wait "$pid" || fail "after the release: $(cat "$tmp/out")"
same "both writes are done" 2 "$(grep -c size "$tmp/out")"
"$img" -r "raw:$disk" read 0 512 8 read 512 512 9

# They stand on each other.
same "error on delay on raw" "read: Input/output error" \
	"$("$img" "error,op=read,nth=2:delay,read-ms=1:raw:$disk" read 0 512 8 -read 0 512 8)"
# Too many of them are refused.
deep=raw:$disk
for _ in {1..200}; do deep=delay:$deep; done
says "more than 128 images" "$img" "$deep" info
# What they cannot map is done by the blocking calls.
same "no map" "map: Resource temporarily unavailable" "$("$img" "delay:raw:$disk" -map r 0 512)"

# Not installed.
make -C "$top_builddir/drivers" install DESTDIR="$tmp/inst" >"$tmp/make.out" 2>&1 ||
	fail "$(tail "$tmp/make.out")"
installed=$(find "$tmp/inst" -name '*.so' -printf '%f\n' | sort | xargs)
case " $installed " in
*" delay.so "* | *" error.so "*) fail "installed: $installed" ;;
*" raw.so "*) ;;
*) fail "not installed: raw.so, but $installed" ;;
esac
