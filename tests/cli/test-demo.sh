#!/bin/bash
# tools/demo shows what it promises, and leaves nothing behind: at its end, and when it is interrupted.
. "${srcdir:-.}/functions.sh"

# Below the build tree its directory is demo.*; ours, so that nobody else's is in the way.
mkdir "$tmp/build"
for part in core tools drivers; do
	ln -s "$top_builddir/$part" "$tmp/build/$part"
done

left()
{
	find "$tmp/build" -maxdepth 1 -name 'demo.*'
	pgrep -f -- "$tmp/build/demo[.]" || true
}

timeout 100 "$top_srcdir/tools/demo" --built "$tmp/build" --seconds 1 --no-install >"$tmp/out" 2>&1 || {
	cat "$tmp/out"
	fail "the demo failed"
}
for line in 'Verified: nothing differs.' '5/xvda paused' '5/xvda runs' 'All of it worked.'; do
	grep -qF "$line" "$tmp/out" || fail "it does not say: $line"
done
for job in verify randread randwrite 'read  ' 'write  '; do
	grep -q "^$job .*[1-9]" "$tmp/out" || fail "no figures for $job"
done
grep -Eq '^5/xvda +connected +rw +256 MiB ' "$tmp/out" || fail "no list"
grep -Eq '^5/xvda +read +[1-9]' "$tmp/out" || fail "no stats"
same "left behind at the end" "" "$(left)"

"$top_srcdir/tools/demo" --built "$tmp/build" --seconds 30 >"$tmp/out" 2>&1 &
demo=$!
cleanup stop "$demo"
wait_for 20 grep -qF 'Meanwhile' "$tmp/out"
kill -TERM "$demo"
status=0
wait "$demo" || status=$?
same "status when it is interrupted" 143 "$status"
same "left behind when it is interrupted" "" "$(left)"

status=0
"$top_srcdir/tools/demo" --nonsense >/dev/null 2>&1 || status=$?
same "wrong usage" 2 "$status"
