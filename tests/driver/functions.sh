# shellcheck shell=bash
# For tests of drivers: source it after ../functions.sh.
# What that one gives, and what this one gives to the tests:
# shellcheck disable=SC2154,SC2034

export RD_DRIVERS=$drivers
img=$top_builddir/tests/driver/img

# hold ARG...: an img that has the image open in the background, as $holder, until release.
hold()
{
	mkfifo "$tmp/hold.in"
	"$img" "$@" hold <"$tmp/hold.in" >"$tmp/hold.out" 2>"$tmp/hold.err" &
	holder=$!
	exec {hold_fd}>"$tmp/hold.in"
	wait_for 10 grep -q held "$tmp/hold.out"
}

release()
{
	exec {hold_fd}>&-
	wait "$holder" || fail "img failed while it held the image: $(cat "$tmp/hold.err")"
	rm -f "$tmp/hold.in" "$tmp/hold.out" "$tmp/hold.err"
}

# says TEXT COMMAND ARG...: the command fails, with this text.
says()
{
	local text=$1
	shift
	expect_fail "$@" >"$tmp/says" 2>&1
	grep -qF -e "$text" "$tmp/says" || fail "$*: does not say \"$text\" but: $(cat "$tmp/says")"
}
