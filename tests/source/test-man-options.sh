#!/bin/bash
# ringdiskd(8) has every option that --help has and no other, ringdisk.conf(5) every one of [daemon], and
# the example of a configuration is one, and shows the defaults.
. "${srcdir:-.}/functions.sh"

man=$top_srcdir/man
"$ringdiskd" --help | sed -n 's/^ .*--\([a-z-]*\).*/\1/p' | sort >"$tmp/help"
[ "$(wc -l <"$tmp/help")" -ge 12 ] || fail "--help shows too few options"
sed -n '/^\.SH OPTIONS/,/^\.SH DISKS/s/^\.B[A-Z]* .*\\-\\-\([a-z\\-]*\).*/\1/p' "$man/ringdiskd.8" |
	tr -d '\\' | sort >"$tmp/page"
diff "$tmp/help" "$tmp/page" || fail "--help and ringdiskd(8) differ"

sed -n '/^\.B \[daemon\]/,/^\.B \[defaults\]/p' "$man/ringdisk.conf.5" | tr -d '\\' >"$tmp/daemon"
while read -r option; do
	case $option in
	config | check-config | help | version) continue ;;
	esac
	grep -q "^\.BR* $option\( \|$\)" "$tmp/daemon" || fail "ringdisk.conf(5): [daemon] lacks $option"
	value=$("$ringdiskd" --help | sed -n "s/^ .*--$option=\([^ ]*\).*/\1/p")
	printf '[daemon]\n%s = /\n' "$option" >"$tmp/one.conf"
	if "$ringdiskd" --config="$tmp/one.conf" --check-config 2>"$tmp/err"; then continue; fi
	grep -q 'there is no option' "$tmp/err" && fail "[daemon] does not take $option=$value"
done <"$tmp/help"

example=$man/ringdisk.conf.example
"$ringdiskd" --config="$example" --check-config
# Its comments are defaults: valid, and every setting and value of ringdisk.conf(5) among them.
# The user is one that the package makes.
sed 's/^#\([a-z[]\)/\1/; s/^user = .*/user = nobody/' "$example" >"$tmp/all.conf"
"$ringdiskd" --config="$tmp/all.conf" --check-config
tr -d '\\' <"$man/ringdisk.conf.5" | sed -n '/^\.SH SETTINGS/,$p' |
	sed -n '/^\.BI [a-z-]*= /{s/^\.BI \([a-z-]*\)=.*/\1/;N;s/\nDefault fB\(.*\)fR;.*/ = \1/;p}' >"$tmp/defaults"
[ "$(wc -l <"$tmp/defaults")" -ge 10 ] || fail "ringdisk.conf(5): no defaults found"
sed -n '/^\[defaults\]/,/^$/p' "$example" | sed -n 's/^#\([a-z].* = \)/\1/p' >"$tmp/shown"
diff "$tmp/defaults" "$tmp/shown" || fail "the example and ringdisk.conf(5) differ"
