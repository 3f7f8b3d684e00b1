#!/bin/bash
# Every header compiles alone; the public one in each language that a driver may be written in.
. "${srcdir:-.}/functions.sh"

cc=${CC:-cc}
# The compiler may come with arguments.
read -ra cc <<<"$cc"

# alone HEADER FLAG...: as if a file included nothing else.
alone()
{
	local header=$1
	shift
	echo "#include <$header>" >"$tmp/alone.c"
	"${cc[@]}" -fsyntax-only -Wall -Wextra -Werror "$@" "$tmp/alone.c" ||
		fail "$header does not compile alone with: $*"
}

public=$top_srcdir/core/include
for std in c90 c99 c11 gnu17; do
	alone ringdisk/driver.h -I "$public" -pedantic -Wno-long-long -std="$std"
done
if command -v g++ >/dev/null; then
	for std in c++98 c++11 c++17; do
		alone ringdisk/driver.h -x c++ -I "$public" -pedantic -Wno-long-long -std="$std"
	done
fi

cd "$top_srcdir/core"
for header in *.h base/*.h; do
	alone "$header" -std=gnu11 -include "$top_builddir/build-config.h" -I . -I include
done
