#!/bin/bash
# What was built with an older <ringdisk/driver.h> still works: the layout only ever grew, and a driver
# compiled against the frozen header is served by today's host.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"

abi=$srcdir/abi
read -ra cc <<<"${CC:-cc}"
"${cc[@]}" --version >/dev/null 2>&1 || skip "no compiler"

"${cc[@]}" -o "$tmp/layout.old" -I "$abi/v1" "$abi/layout.c"
"${cc[@]}" -o "$tmp/layout.new" -I "$top_srcdir/core/include" "$abi/layout.c"
"$tmp/layout.old" >"$tmp/old"
"$tmp/layout.new" >"$tmp/new"
diff "$tmp/old" "$tmp/new" || fail "the interface of API 1 has changed; fields are only added at the end"

mkdir "$tmp/drivers"
cp "$drivers/null.so" "$tmp/drivers"
"${cc[@]}" -shared -fPIC -Wall -Werror -o "$tmp/drivers/old.so" -I "$abi/v1" "$abi/v1/old.c"
export RD_DRIVERS=$tmp/drivers
same "loaded" "null.so null old.so old" "$("$img" drivers | xargs)"

truncate -s 1M "$tmp/disk"
"$img" "old:$tmp/disk" write 0 4096 7 read 0 4096 7 flush zero 512 512 read 512 512 0 read 1024 512 7 \
	discard 0 4096 read 0 4096 0 resize 2097152 write 2093056 4096 9 refresh map r 0 4096 \
	map w 512 512 >"$tmp/out"
same "map" "data 4096 data 512" "$(grep data "$tmp/out" | xargs)"
same "size" 2097152 "$(stat -c %s "$tmp/disk")"
"$img" "old,on=null.1M:x" write 0 4096 7 read 0 4096 0 flush zero 512 512 -discard 0 4096 \
	-read 1048576 512 0 map w 0 512 >"$tmp/out"
grep -q "void 512" "$tmp/out" || fail "map of a child: $(cat "$tmp/out")"
cp "$drivers/raw.so" "$tmp/drivers"
"$img" "old,on=raw.$tmp/disk:x" write 0 4096 7 discard 0 4096 read 0 4096 0 zero 4096 512 flush map r 0 512 \
	>"$tmp/out"
grep -q "data 512" "$tmp/out" || fail "map of a raw child: $(cat "$tmp/out")"
says "No such file" "$img" "old:/nonexistent" info
