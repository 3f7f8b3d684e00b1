#!/bin/bash
# --version says the version of this source, --help names every option, a wrong option is refused.
. "${srcdir:-.}/functions.sh"

version=$(sed -n 's/^#define PACKAGE_VERSION "\(.*\)"/\1/p' "$top_builddir/build-config.h")
same version "ringdiskd $version" "$("$ringdiskd" --version)"
"$ringdiskd" --help >"$tmp/help"
grep -q -e --version "$tmp/help"
expect_fail "$ringdiskd" --no-such-option
