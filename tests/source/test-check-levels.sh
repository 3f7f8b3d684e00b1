#!/bin/bash
# check-levels finds each kind of violation: every case breaks a small good tree in one way.
. "${srcdir:-.}/functions.sh"

tree=$tmp/tree

# A tree that keeps to the rules.
good_tree()
{
	rm -rf "$tree"
	mkdir -p "$tree/core/base" "$tree/core/include/ringdisk" "$tree/drivers/null"
	echo '#include <stdint.h>' >"$tree/core/base/list.h"
	echo '#include "base/list.h"' >"$tree/core/log.h"
	echo '#include <stdint.h>' >"$tree/core/include/ringdisk/driver.h"
	echo '#include "log.h"' >"$tree/core/hyp.h"
	printf '%s\n' '#include "hyp.h"' '#include <xengnttab.h>' >"$tree/core/hyp-xen.c"
	printf '%s\n' '#include <xen/io/ring.h>' 'BACK_RING_INIT(r, sring, 1);' >"$tree/core/ring.c"
	echo '#include "hyp.h"' >"$tree/core/device.h"
	printf '%s\n' '#include <stdlib.h>' '#include <ringdisk/driver.h>' >"$tree/drivers/null/null.c"
}

# breaks TEXT: check-levels must fail, and say TEXT.
breaks()
{
	expect_fail "$srcdir/check-levels" "$tree" >"$tmp/out" 2>&1
	grep -qF -e "$1" "$tmp/out" || { cat "$tmp/out"; fail "does not say: $1"; }
	good_tree
}

good_tree
"$srcdir/check-levels" "$tree"

echo '#include "device.h"' >>"$tree/core/log.h"
breaks 'core/log.h (level 0) includes device.h (level 6)'

echo '# include  <ringdisk/driver.h>' >>"$tree/core/base/list.h"
breaks 'core/base/list.h (level 0) includes ringdisk/driver.h (level 1)'

echo '#include "hyp.h"' >>"$tree/core/include/ringdisk/driver.h"
breaks 'core/include/ringdisk/driver.h: includes "hyp.h", but may include only libc'

touch "$tree/core/novel.c"
breaks 'core/novel.c is in no level'

echo '#include "novel.h"' >>"$tree/core/device.h"
breaks 'novel.h is in no level'

echo '#include <xenstore.h>' >>"$tree/core/device.h"
breaks 'core/device.h: includes <xenstore.h>: only core/hyp-xen.c may'

echo 'x = RING_GET_REQUEST(r, i);' >>"$tree/core/device.h"
breaks 'core/device.h: touches the shared ring'

echo '/* only ring.c may use RING_GET_REQUEST */' >>"$tree/core/device.h"
"$srcdir/check-levels" "$tree"

echo '#include "log.h"' >>"$tree/drivers/null/null.c"
breaks 'drivers/null/null.c: includes "log.h"'

echo '#include <xen/xen.h>' >>"$tree/drivers/null/null.c"
breaks 'drivers/null/null.c: includes <xen/xen.h>'
