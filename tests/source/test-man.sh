#!/bin/bash
# Every manual page is well-formed and installed, every program has one, references lead somewhere, and
# ringdisk-bench(1) has the options of --help and no other (test-man-*.sh see to the others).
. "${srcdir:-.}/functions.sh"

man=$top_srcdir/man

# --- the pages

if command -v mandoc >/dev/null; then
	# What is not installed here is no fault of a page.
	# Two files, or a line of one stands in the middle of the other's.
	mandoc -Tlint "$man"/*.[1-9] >"$tmp/lint.out" 2>"$tmp/lint.err" || true
	grep -hEv 'referenced manual not found|mandoc\.db' "$tmp/lint.out" "$tmp/lint.err" >"$tmp/lint" || true
	[ ! -s "$tmp/lint" ] || fail "mandoc -Tlint: $(cat "$tmp/lint")"
fi

(cd "$man" && printf '%s\n' *.[1-9]) | sort >"$tmp/there"
sed -n 's/^\t\(ringdisk[a-z0-9.-]*\.[1-9]\).*/\1/p' "$man/Makefile.am" | sort >"$tmp/installed"
diff "$tmp/there" "$tmp/installed" || fail "pages in man/ (<) and in man/Makefile.am (>) differ"

# References lead to pages that are there.
grep -hEo '^\.Xr ringdisk[^ ]* [1-9]|\.BR ringdisk[^ ]* \([1-9]\)' "$man"/*.[1-9] |
	sed 's/\\//g; s/^\.[A-Z][A-Za-z]* //; s/[()]//g; s/ /./' | sort -u >"$tmp/references"
[ "$(wc -l <"$tmp/references")" -gt 5 ] || fail "no references found"
comm -23 "$tmp/references" "$tmp/there" >"$tmp/dead"
[ ! -s "$tmp/dead" ] || fail "pages that are referred to and not there: $(cat "$tmp/dead")"

# --- the programs

sed -n '/^s\?bin_PROGRAMS/,/[^\\]$/p' "$top_srcdir"/{core,tools}/Makefile.am |
	tr -s ' \t\\=' '\n' | grep '^ringdisk' >"$tmp/programs"
[ "$(wc -l <"$tmp/programs")" -ge 3 ] || fail "programs not found"
while read -r program; do
	grep -q "^$program\.[18]$" "$tmp/there" || fail "$program has no manual page"
done <"$tmp/programs"

# options_of PROGRAM PAGE: the same in --help and in the page. A short option stands before its long one.
options_of()
{
	"$1" --help | grep -Eo -- '^ .*' | grep -Eo -- '(-[A-Za-z], )?--[a-z][a-z-]*' | sed 's/, / /' |
		sort -u >"$tmp/help"
	# .It Fl f , Fl -foreground; .It Fl j , -job Ns = ...; two long ones may share a line, too.
	sed -n 's/^\.It Fl \(.*\)/\1/p' "$2" | awk '{
		short = ""
		n = split($0, part, / , /)
		for (i = 1; i <= n; i++) {
			sub(/^Fl /, "", part[i])
			sub(/ .*/, "", part[i])
			if (length(part[i]) == 1) { short = "-" part[i] " "; continue }
			if (part[i] ~ /^-/) print short "-" part[i]
			short = ""
		}
	}' |
		sort -u >"$tmp/page"
	[ "$(wc -l <"$tmp/help")" -gt 5 ] || fail "$1 --help has no options"
	diff "$tmp/help" "$tmp/page" || fail "options of $1 --help (<) and of $2 (>) differ"
}
options_of "$bench" "$man/ringdisk-bench.1"
