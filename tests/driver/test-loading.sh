#!/bin/bash
# Drivers that cannot be used are skipped, each with the message that says what is wrong with it; the
# others load.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"

read -ra cc <<<"${CC:-cc}"
"${cc[@]}" --version >/dev/null 2>&1 || skip "no compiler"
export RD_DRIVERS=$tmp/drivers
mkdir "$RD_DRIVERS"
cp "$drivers/null.so" "$RD_DRIVERS/null.so"

# bad MESSAGE FLAG...: a driver compiled so is skipped with this message, while null still loads.
bad()
{
	local message=$1
	shift
	"${cc[@]}" -shared -fPIC -o "$RD_DRIVERS/bad.so" -I "$top_srcdir/core/include" "$@" \
		"$srcdir/driver/plugin.c"
	skipped "$message"
	rm "$RD_DRIVERS/bad.so"
}

skipped()
{
	"$img" drivers >"$tmp/out" 2>"$tmp/err" || fail "img drivers: $(cat "$tmp/err")"
	grep -qF -e "bad.so: $1" "$tmp/out" || fail "expected \"$1\": $(cat "$tmp/out")"
	grep -qF -e "bad.so skipped: $1" "$tmp/err" || fail "not logged: $(cat "$tmp/err")"
	grep -qx "null.so null" "$tmp/out" || fail "null did not load: $(cat "$tmp/out")"
}

"${cc[@]}" -shared -fPIC -o "$RD_DRIVERS/good.so" -I "$top_srcdir/core/include" "$srcdir/driver/plugin.c"
same "good and null" "good.so good null.so null" "$("$img" drivers | xargs)"
rm "$RD_DRIVERS/good.so"

bad "is no driver: the symbol rd_driver_entry is missing" -DENTRY=rd_driver_entrance
bad "its entry function returned no driver" -DNOTHING
api=$(sed -n 's/^#define RD_DRIVER_API //p' "$top_srcdir/core/include/ringdisk/driver.h")
bad "is too new: it was built for driver API $((api + 1)), this program has $api" -DAPI=$((api + 1))
bad "driver API 0 does not exist" -DAPI=0
bad "its struct rd_driver has 16 bytes" -DSIZE=16
bad "the callback open is missing" -DOPEN=NULL
bad "the callback close is missing" -DCLOSE=NULL
bad "the callback readv is missing" -DREADV=NULL
bad "the callback unmap is missing" -DMAP=any_map
bad "uses flags (0x1, 0) that must be 0" -DFLAGS=1
bad "its name \"Bad\" is not of [a-z0-9_-]" '-DNAME="Bad"'
bad "its name \"\" is not of [a-z0-9_-]" '-DNAME=""'
bad "its name \"\" is not of [a-z0-9_-]" -DNAME=NULL
bad "its name \"../x\" is not of" '-DNAME="../x"'
bad "the name \"aio\" is taken by the params syntax" '-DNAME="aio"'
bad "the option name \"a=b\" is not of" '-DKEY="a=b"'
bad "cannot be loaded: undefined symbol: nowhere_to_be_found" -DUNDEFINED
# A struct that grew at its end is fine, and an API 1 driver in it.
"${cc[@]}" -shared -fPIC -o "$RD_DRIVERS/large.so" -I "$top_srcdir/core/include" "-DSIZE=sizeof(struct rd_driver)+64" \
	'-DNAME="large"' "$srcdir/driver/plugin.c"
"$img" drivers | grep -qx "large.so large" || fail "large"
rm "$RD_DRIVERS/large.so"

# Two of one name: the first in the alphabet wins.
"${cc[@]}" -shared -fPIC -o "$RD_DRIVERS/other.so" -I "$top_srcdir/core/include" '-DNAME="null"' \
	"$srcdir/driver/plugin.c"
"$img" drivers 2>/dev/null | grep -qF 'other.so: the name "null" is already taken by null.so' ||
	fail "a second null"
rm "$RD_DRIVERS/other.so"

echo "this is text" >"$RD_DRIVERS/bad.so"
skipped "cannot be loaded: not a shared object"
head -c 100000 /dev/zero >"$RD_DRIVERS/bad.so"
skipped "cannot be loaded: not a shared object"
: >"$RD_DRIVERS/bad.so"
skipped "cannot be loaded: not a shared object"
# Cut off anywhere: the dynamic linker alone would crash.
size=$(stat -c %s "$drivers/null.so")
for keep in 63 64 100 300 2000 4000 5000 8000 9000; do
	[ "$keep" -lt "$size" ] || break
	head -c "$keep" "$drivers/null.so" >"$RD_DRIVERS/bad.so"
	skipped ""
done
rm "$RD_DRIVERS/bad.so"
mkdir "$RD_DRIVERS/bad.so"
skipped "cannot be loaded: not a file"
rmdir "$RD_DRIVERS/bad.so"
mkfifo "$RD_DRIVERS/bad.so"
skipped "cannot be loaded: not a file"
rm "$RD_DRIVERS/bad.so"
ln -s /nonexistent "$RD_DRIVERS/bad.so"
skipped "cannot be loaded: No such file or directory"
rm "$RD_DRIVERS/bad.so"

# What is no *.so is not looked at.
echo text >"$RD_DRIVERS/README"
cp "$drivers/null.so" "$RD_DRIVERS/.hidden.so"
same "only null" "null.so null" "$("$img" drivers | xargs)"

rm "$RD_DRIVERS"/null.so
says "holds no usable driver" "$img" drivers
RD_DRIVERS=/nonexistent says "/nonexistent: No such file or directory" "$img" drivers
