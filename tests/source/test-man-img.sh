#!/bin/bash
# ringdisk-img(1) has every verb, every option of every verb and every exit status that --help has, and no other.
. "${srcdir:-.}/functions.sh"

page=$top_srcdir/man/ringdisk-img.1

"$rimg" --help >"$tmp/help"
sed -n '/^Verbs/,/^$/s/^  \([a-z-]*\) .*/\1/p' "$tmp/help" | sort >"$tmp/verbs.help"
sed -n '/^\.Sh VERBS/,/^\.Sh EXIT/s/^\.It Cm \([a-z-]*\).*/\1/p' "$page" | sort -u >"$tmp/verbs.page"
[ "$(wc -l <"$tmp/verbs.help")" -ge 12 ] || fail "no verbs in --help"
diff "$tmp/verbs.help" "$tmp/verbs.page" || fail "verbs of --help (<) and of the page (>) differ"

options_help()
{
	sed -n 's/^  \(-\([a-zA-Z]\),\)\? *--\([a-z-]*\).*/\2 \3/p'
}

options_page()
{
	sed -n 's/^\.It Fl \([a-zA-Z]\) , Fl -\([a-z-]*\).*/\1 \2/p; s/^\.It Fl -\([a-z-]*\).*/ \1/p'
}

options_help <"$tmp/help" | sort >"$tmp/common.help"
sed -n '/^\.Sh OPTIONS/,/^\.Sh VERBS/p' "$page" | options_page | sort >"$tmp/common.page"
diff "$tmp/common.help" "$tmp/common.page" || fail "options of every verb: --help (<) and the page (>) differ"
while read -r verb; do
	case $verb in read) entry="write" ;; commit) entry=coalesce ;; *) entry=$verb ;; esac
	"$rimg" "$verb" --help | options_help | sort | comm -23 - "$tmp/common.help" >"$tmp/options.help"
	awk -v verb="$entry" '/^\.Sh EXIT/ { on = 0 } /^\.It Cm / { on = $3 == verb } on { print }' "$page" |
		options_page | sort >"$tmp/options.page"
	diff "$tmp/options.help" "$tmp/options.page" || fail "$verb: --help (<) and the page (>) differ"
done <"$tmp/verbs.help"
