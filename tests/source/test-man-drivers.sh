#!/bin/bash
# The man pages of drivers: clean, each option of each driver explained, and the example of
# ringdisk-driver(3) is the driver null, which is compiled.
. "${srcdir:-.}/functions.sh"

man=$top_srcdir/man
if command -v mandoc >/dev/null; then
	for page in "$man"/ringdisk-{driver.3,qcow2.7,raw.7,null.7,testdrivers.7,vhd.7}; do
		mandoc -Tlint "$page" >"$tmp/lint" || fail "$(cat "$tmp/lint")"
	done
fi

sed -n '/^\.\\" begin null.c/,/^\.\\" end null.c/p' "$man/ringdisk-driver.3" | sed '1,2d' | head -n -2 |
	sed 's/^\\&//; s/\\-/-/g; s/\\e/\\/g' >"$tmp/null.c"
diff "$top_srcdir/drivers/null/null.c" "$tmp/null.c" ||
	fail "the example of ringdisk-driver(3) is not drivers/null/null.c"

# explained SOURCE PAGE
explained()
{
	local key keys

	keys=$(sed -n 's/^\t{ *"\([a-z0-9_-]*\)", .*/\1/p' "$1")
	[ -n "$keys" ] || fail "no options found in $1"
	for key in $keys; do
		grep -q "^\.B.*\b${key//-/\\\\-}\b" "$2" || fail "$2 does not explain the option $key"
	done
}
explained "$top_srcdir/drivers/qcow2/qcow2.c" "$man/ringdisk-qcow2.7"
explained "$top_srcdir/drivers/qcow2/create.c" "$man/ringdisk-qcow2.7"
explained "$top_srcdir/drivers/raw/raw.c" "$man/ringdisk-raw.7"
explained "$top_srcdir/drivers/qcow/qcow.c" "$man/ringdisk-qcow.7"
explained "$top_srcdir/drivers/vhd/vhd.c" "$man/ringdisk-vhd.7"
explained "$top_srcdir/drivers/vhd/create.c" "$man/ringdisk-vhd.7"
explained "$top_srcdir/drivers/test/delay.c" "$man/ringdisk-testdrivers.7"
# In error.c the table of options comes after one of errors.
sed '1,/struct rd_option options/d' "$top_srcdir/drivers/test/error.c" >"$tmp/error.c"
explained "$tmp/error.c" "$man/ringdisk-testdrivers.7"

# Every callback and every service has its paragraph.
for name in $(sed -n 's/^\t[a-z].*(\*\([a-z_]*\))(.*/\1/p' "$top_srcdir/core/include/ringdisk/driver.h"); do
	grep -q "$name" "$man/ringdisk-driver.3" || fail "ringdisk-driver(3) says nothing about $name"
done
