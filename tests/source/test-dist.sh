#!/bin/bash
# Every file that git knows is named in the Makefile.am of its directory, so that the tarball has it.
. "${srcdir:-.}/functions.sh"

cd "$top_srcdir"
require git ls-files --error-unmatch configure.ac

declare -A named
for makefile in Makefile.am */Makefile.am; do
	while read -r word; do
		named[$(dirname "$makefile")/$word]=1
	done < <(sed 's/#.*//; s,\$([a-z_]*)/,,g' "$makefile" | tr -s ' \t\\=' '\n')
done

# is_named DIRECTORY PATH: itself, as a program with that source, or within a directory that is named.
is_named()
{
	local path=$2

	[ -z "${named[$1/${path%.c}]:-}" ] || return 0
	while [ "$path" != . ]; do
		[ -z "${named[$1/$path]:-}" ] || return 0
		path=$(dirname "$path")
	done
	return 1
}

forgotten=0
while read -r file; do
	case $file in
	.gitignore | configure.ac | Makefile.am | */Makefile.am | m4/*) continue ;;
	esac
	directory=${file%%/*}
	if [ -e "$directory/Makefile.am" ]; then
		is_named "$directory" "${file#*/}" && continue
	else
		directory=.
		is_named . "$file" && continue
	fi
	echo "$file is not in $directory/Makefile.am: add it to a _SOURCES or to EXTRA_DIST"
	forgotten=1
done < <(git ls-files)
[ "$forgotten" = 0 ] || fail "files that no tarball would have"
