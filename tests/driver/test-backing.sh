#!/bin/bash
# Backing files: what an image names is opened read-only, by its format, below the image's directory or a
# configured one, and nothing else.
. "${srcdir:-.}/functions.sh"
. "$srcdir/driver/functions.sh"

read -ra cc <<<"${CC:-cc}"
"${cc[@]}" --version >/dev/null 2>&1 || skip "no compiler"
# A driver by the side of a sanitizer needs what the others have.
flags=()
[ -z "${SANITIZE:-}" ] || flags=("-fsanitize=${SANITIZE#,}")
export RD_DRIVERS=$tmp/drivers
mkdir "$RD_DRIVERS"
cp "$drivers/raw.so" "$RD_DRIVERS/"
"${cc[@]}" "${flags[@]}" -shared -fPIC -o "$RD_DRIVERS/chain.so" -I "$top_srcdir/core/include" "$srcdir/driver/chain.c"

here=$(realpath "$tmp")
mkdir -p "$here/i/sub" "$here/templates/sub" "$here/outside"
for dir in i i/sub templates templates/sub outside; do
	printf '%4096s' '' | tr ' ' "${dir:0:1}" >"$here/$dir/base"
done
letter_i=0x69 letter_t=0x74

# image TEXT: an image with this content; reads NAME BYTE: it opens, and has that byte.
image()
{
	printf '%s\n' "$1" >"$here/i/top"
}

reads()
{
	image "$1"
	"$img" -r "chain:$here/i/top" read 0 4096 "$2" || fail "$1: cannot be read"
}

refused()
{
	image "$1"
	says "$2" "$img" -r "chain:$here/i/top" info
	grep -q "i/top" "$tmp/says" || fail "$1: the message does not name the image"
}

# --- where it may lie

reads "raw base" $letter_i
reads "raw ./base" $letter_i
reads "raw sub/../base" $letter_i
reads "raw sub/base" $letter_i
reads "raw $here/i/base" $letter_i
reads "raw $here/i/sub/../base" $letter_i
reads "raw $here/i//sub/./base" $letter_i
outside="lies outside of the image's directory"
refused "raw ../outside/base" "$outside"
refused "raw $here/outside/base" "$outside"
refused "raw sub/../../outside/base" "$outside"
refused "raw $here/i/../outside/base" "$outside"
refused "raw $here/ix/base" "$outside"
refused "raw /etc/passwd" "$outside"
refused "raw /proc/self/exe" "$outside"
refused "raw none" "No such file"

# The image's own path may go through links, and be relative.
ln -s i "$here/link"
image "raw base"
"$img" -r "chain:$here/link/top" read 0 4096 $letter_i
image "raw $here/link/base"
"$img" -r "chain:$here/link/top" read 0 4096 $letter_i
image "raw $here/i/base"
"$img" -r "chain:$here/link/top" read 0 4096 $letter_i
image "raw base"
img_abs=$(realpath "$img")
(cd "$here/i" && RD_DRIVERS=$here/drivers "$img_abs" -r chain:top read 0 4096 $letter_i)

# --- links on the way stay inside

ln -s base "$here/i/good"
ln -s sub "$here/i/dir"
ln -s ../outside/base "$here/i/bad"
ln -s ../outside "$here/i/baddir"
ln -s "$here/i/base" "$here/i/absolute"
reads "raw good" $letter_i
reads "raw dir/base" $letter_i
refused "raw bad" "$outside"
refused "raw baddir/base" "$outside"
refused "raw $here/i/bad" "$outside"
refused "raw absolute" "$outside"

# --- directories of the configuration

export RD_BACKING_DIRS=$here/none:$here/templates
reads "raw $here/templates/base" $letter_t
reads "raw $here/templates/sub/base" $letter_t
reads "raw ../templates/base" $letter_t
reads "raw base" $letter_i
refused "raw $here/templates/../outside/base" "$outside"
refused "raw $here/templatesx" "$outside"
ln -s ../outside/base "$here/templates/bad"
refused "raw $here/templates/bad" "$outside"
# What a template names lies below its own directory.
printf 'raw sub/base\n' >"$here/templates/mid"
reads "chain $here/templates/mid" $letter_t
printf 'raw %s\n' "$here/i/base" >"$here/templates/mid"
image "chain $here/templates/mid"
says "$outside" "$img" -r "chain:$here/i/top" info
ln -s templates "$here/tlink"
export RD_BACKING_DIRS=$here/tlink/
reads "raw $here/templates/base" $letter_t
reads "raw $here/tlink/base" $letter_t
unset RD_BACKING_DIRS

# --- names and formats

for name in json:{} nbd:localhost:10809 http://example.org/a ssh://x/y file:base rbd:a/b host_device:/dev/sda 'fat:rw:.'; do
	refused "raw $name" "protocol names (\"${name%%:*}:\")"
done
cp "$here/i/base" "$here/i/a:b"
refused "raw a:b" 'protocol names ("a:")'
reads "raw ./a:b" $letter_i
refused "- base" "does not say its format"
refused "vmdk base" 'no driver for its format "vmdk"'
refused "../raw base" "no driver"
refused "raw " "the name is empty"

# --- what it may be

mkfifo "$here/i/fifo"
refused "raw fifo" "neither a file nor a block device"
refused "raw sub" "neither a file nor a block device"
refused "raw ." "neither a file nor a block device"
mknod "$here/i/null" c 1 3 2>/dev/null && refused "raw null" "neither a file nor a block device"

# --- only for reading, also below an image that is written

image "raw base"
before=$(sum <"$here/i/base")
expect_fail "$img" "chain:$here/i/top" write 0 512 7 2>"$tmp/err"
same "nothing is written below" "$before" "$(sum <"$here/i/base")"
chmod 0400 "$here/i/base"
"$img" "chain:$here/i/top" read 0 512 $letter_i
# Two overlays share it.
cp "$here/i/top" "$here/i/other"
hold "chain:$here/i/top"
"$img" "chain:$here/i/other" read 0 512 $letter_i
release

# --- chains

refused "chain top" "go round in a circle: $here/i/top -> $here/i/top"
printf 'chain b\n' >"$here/i/a"
printf 'chain c\n' >"$here/i/b"
printf 'chain a\n' >"$here/i/c"
says "circle: $here/i/a -> $here/i/b -> $here/i/c -> $here/i/a" "$img" -r "chain:$here/i/a" info
ln "$here/i/a" "$here/i/hard"
printf 'chain hard\n' >"$here/i/c"
says "circle:" "$img" -r "chain:$here/i/a" info

printf 'raw base\n' >"$here/i/n1"
for ((i = 2; i <= 128; i++)); do
	printf 'chain n%d\n' $((i - 1)) >"$here/i/n$i"
done
"$img" -r "chain:$here/i/n127" read 0 4096 $letter_i || fail "128 images on each other do not open"
says "more than 128 images" "$img" -r "chain:$here/i/n128" info
