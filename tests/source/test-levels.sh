#!/bin/bash
# The source keeps to the levels of HACKING.md.
. "${srcdir:-.}/functions.sh"

"$srcdir/check-levels" "$top_srcdir"
