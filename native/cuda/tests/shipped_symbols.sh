#!/bin/sh
# shipped_symbols.sh LIBRARY EXPORTED: a library that is shipped exports only what the pattern matches, and loads on glibc 2.34 whatever
# libstdc++ there is. Exit code 77 where there is no objdump.
library=$1 exported=$2 status=0
command -v objdump >/dev/null || {
    echo "skipped: there is no objdump here"
    exit 77
}
symbols=$(objdump -T "$library") || exit 1
problem() {
    printf '%s: %s:\n%s\n' "$library" "$1" "$2"
    status=1
}

names=$(printf '%s\n' "$symbols" | awk '/ g  / && !/\*UND\*/ { print $NF }')
[ -n "$names" ] || problem "exports nothing" ""
others=$(printf '%s\n' "$names" | grep -vE "^($exported)\$") && problem "exports what it should not" "$others"

versions=$(printf '%s\n' "$symbols" | sed -n 's/.*[( ]\(GLIBC\(XX\)\{0,1\}_[0-9.]*\|CXXABI_[0-9.]*\).*/\1/p' | sort -uV)
newest=$(printf '%s\nGLIBC_2.34\n' "$versions" | grep '^GLIBC_' | sort -V | tail -n 1)
[ "$newest" = GLIBC_2.34 ] || problem "needs a newer glibc than 2.34" "$newest"
cxx=$(printf '%s\n' "$versions" | grep -E '^(GLIBCXX|CXXABI)') && problem "needs libstdc++" "$cxx"

needed=$(objdump -p "$library" | awk '$1 == "NEEDED" { print $2 }' | grep -vE '^(libc|libgcc_s|libcuda|ld-linux-x86-64)\.so\.[0-9]+$') &&
    problem "needs other libraries" "$needed"
paths=$(objdump -p "$library" | grep -E 'RPATH|RUNPATH') && problem "has a search path of the machine that built it" "$paths"

[ "$status" = 0 ] && printf '%s: %s symbols, newest %s\n' "${library##*/}" "$(printf '%s\n' "$names" | wc -l)" \
    "$(printf '%s\n' "$versions" | grep '^GLIBC_' | tail -n 1)"
exit "$status"
