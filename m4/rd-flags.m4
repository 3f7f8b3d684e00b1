# RD_TRY_CFLAG(VARIABLE, FLAG): add FLAG to VARIABLE if the compiler takes it without a complaint.
AC_DEFUN([RD_TRY_CFLAG], [
	AS_VAR_PUSHDEF([CACHE], [rd_cv_cflag_$2])dnl
	AC_CACHE_CHECK([whether $CC takes $2], [CACHE], [
		rd_saved_CFLAGS=$CFLAGS
		CFLAGS="$CFLAGS -Werror $2"
		AC_COMPILE_IFELSE([AC_LANG_PROGRAM()], [AS_VAR_SET([CACHE], [yes])],
			[AS_VAR_SET([CACHE], [no])])
		CFLAGS=$rd_saved_CFLAGS])
	AS_VAR_IF([CACHE], [yes], [AS_VAR_APPEND([$1], [" $2"])])
	AS_VAR_POPDEF([CACHE])])

# RD_TRY_LDFLAG(VARIABLE, FLAG): the same for a link.
AC_DEFUN([RD_TRY_LDFLAG], [
	AS_VAR_PUSHDEF([CACHE], [rd_cv_ldflag_$2])dnl
	AC_CACHE_CHECK([whether the linker takes $2], [CACHE], [
		rd_saved_LDFLAGS=$LDFLAGS
		LDFLAGS="$LDFLAGS -Werror $2"
		AC_LINK_IFELSE([AC_LANG_PROGRAM()], [AS_VAR_SET([CACHE], [yes])],
			[AS_VAR_SET([CACHE], [no])])
		LDFLAGS=$rd_saved_LDFLAGS])
	AS_VAR_IF([CACHE], [yes], [AS_VAR_APPEND([$1], [" $2"])])
	AS_VAR_POPDEF([CACHE])])
