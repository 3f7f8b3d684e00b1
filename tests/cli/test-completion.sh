#!/bin/bash
# What a tab brings in bash (and in zsh, where it is installed): verbs, options, the daemon's disks, keys of settings.
. "${srcdir:-.}/functions.sh"
. "$srcdir/cli/functions.sh"

start_fake_daemon
PATH=$(dirname "$ringdisk"):$PATH
"$ringdisk" completion bash >"$tmp/bash"
bash -n "$tmp/bash"
# shellcheck disable=SC1091
. "$tmp/bash"

# tab WORD...: what the last word may become, sorted, in one line.
tab()
{
	COMP_WORDS=(ringdisk "$@")
	COMP_CWORD=$#
	COMPREPLY=()
	_ringdisk || true
	printf '%s\n' "${COMPREPLY[@]}" | LC_ALL=C sort | tr '\n' ' ' | sed 's/ $//'
}

same "a verb" "detach" "$(tab det)"
same "two verbs" "shutdown stats" "$(tab --json s | tr ' ' '\n' | grep -E '^s(h|t)' | tr '\n' ' ' | sed 's/ $//')"
same "every verb" "$("$ringdisk" --help | sed -n '/^Verbs/,/^$/s/^  \([a-z-]*\) .*/\1/p' | LC_ALL=C sort | tr '\n' ' ' |
	sed 's/ $//')" "$(tab '')"
same "options" "--settings --socket=" "$(tab list --s)"
same "a verb's own option" "--histogram" "$(tab stats --hi)"
same "disks" "5/xvda 5/xvdb 5/xvdc 5/xvdd" "$(tab pause -s "$sock" 5/)"
same "disks by another way" "5/xvdb" "$(tab "--socket=$sock" pause 5/xvdb)"
same "keys" "iops-read= iops-write= iops=" "$(tab -s "$sock" set 5/xvda iops)"
same "a shell" "zsh" "$(tab completion z)"
same "no daemon" "" "$(tab pause -s "$tmp/nobody" 5/)"

"$ringdisk" completion zsh >"$tmp/_ringdisk"
ctl 2 completion fish
if command -v zsh >/dev/null; then
	zsh -n "$tmp/_ringdisk"
	# Only the function that offers: what it is called with is what zsh would show.
	cat >"$tmp/try.zsh" <<'END'
compadd() { local name=${@[-1]}; print -l -- ${(P)name}; }
_files() { :; }
source $1
shift
words=(ringdisk "$@")
CURRENT=$(($# + 1))
_ringdisk
END
	ztab()
	{
		zsh -f "$tmp/try.zsh" "$tmp/_ringdisk" "$@" | grep . | LC_ALL=C sort | tr '\n' ' ' | sed 's/ $//'
	}
	same "zsh: every verb" "$(tab '')" "$(ztab '')"
	same "zsh: options" "--settings" "$(ztab list --s | tr ' ' '\n' | grep -x -e --settings)"
	same "zsh: disks" "5/xvda 5/xvdb 5/xvdc 5/xvdd" "$(ztab pause -s "$sock" '')"
	same "zsh: keys" "iops=" "$(ztab -s "$sock" set 5/xvda '' | tr ' ' '\n' | grep -x iops=)"
fi
