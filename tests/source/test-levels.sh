#!/bin/bash
# The source keeps to the levels of DESIGN.md.
. "${srcdir:-.}/functions.sh"

"$srcdir/check-levels" "$top_srcdir"
