# shellcheck shell=bash
# For tests of power loss: source it after ../functions.sh.
# What that one gives, and what this one gives to the tests:
# shellcheck disable=SC2154,SC2034

export RD_DRIVERS=$drivers
crash=$top_builddir/tests/crash/crash
long=${CRASH_LONG:-}

# judged ARG...: every state that a crash may leave is good.
judged()
{
	echo "crash $*"
	"$crash" "$@" || fail "crash $*: a state is not good"
}

# found ARG...: the harness finds the seeded bug; it did not merely break.
found()
{
	local status=0
	echo "crash $*"
	"$crash" "$@" >"$tmp/found" 2>&1 || status=$?
	[ "$status" = 1 ] || fail "crash $*: the seeded bug is not found (status $status): $(tail -3 "$tmp/found")"
	grep -q 'FAILED$' "$tmp/found" || fail "crash $*: $(cat "$tmp/found")"
}
