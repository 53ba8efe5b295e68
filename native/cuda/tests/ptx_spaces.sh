#!/bin/sh
# ptx_spaces.sh PTX: every load and store of our device code names the memory that it is of. A generic one is slower, and comes about where
# the compiler cannot see what a pointer from a table points to (device.cuh: global). Nothing is kept on the stack either.
generic=$(grep -nE '^[[:space:]]*(@%p[0-9]+ )?(ld|st|atom|red)\.' "$1" |
    grep -vE '(ld|st|atom|red)\.(volatile\.)?(global|shared|param|const)\.')
[ -z "$generic" ] || {
    printf '%s: generic or local accesses:\n%s\n' "$1" "$generic"
    exit 1
}
grep -cE 'ld\.global' "$1" || {
    printf '%s: no loads at all\n' "$1"
    exit 1
}
