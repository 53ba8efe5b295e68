# Steps with time limits, sourced by run. start SECONDS FOLDER begins; step NAME LEAST MOST COMMAND… runs one; summary ends.
#
# All steps together keep to SECONDS. A step gets MOST seconds, or what is left of the whole if that is less; with less than LEAST left it
# is not run. `reserved` seconds are kept from steps, for a later one that matters more. A failed step hides no later one.
#
# A command exits with 77 where something that it needs is not there; its last line says what. It may leave a remark in the file $STEP_NOTE.
# shellcheck shell=bash

MISSING=77
GRACE=3 # seconds between the request to end and the end

start() {
    deadline=$((SECONDS + $1)) logs=$2/logs steps=$2/steps.txt reserved=0 running=
    ok=0 failed=0 missing=0 not_run=0
    mkdir -p "$logs"
    : >"$steps"
    trap 'stop_running; exit 143' TERM INT
}

step() {
    local name=$1 least=$2 most=$3 limit status=0 begin=$SECONDS
    shift 3
    limit=$((deadline - SECONDS - reserved - GRACE))
    if ((limit < least)); then
        not_run=$((not_run + 1))
        report "$name" 'not run: time' 0 "it takes $least s, $((limit > 0 ? limit : 0)) are left"
        return
    fi
    if ((limit > most)); then limit=$most; fi
    local log=$logs/$name.log
    : >"$log"
    # In the background, so that a signal to us is acted on at once.
    STEP_NOTE=$logs/$name.note STEP_SECONDS=$limit timeout -k "$GRACE" "$limit" "$@" </dev/null >>"$log" 2>&1 &
    running=$!
    if [[ -n ${LIVE:-} ]]; then tail -n +1 -f --pid="$running" "$log" & fi
    wait "$running" 2>/dev/null || status=$? # without the shell's own word on a killed job
    running=
    if [[ -n ${LIVE:-} ]]; then wait || true; fi
    case $status in
    0)
        ok=$((ok + 1))
        report "$name" ok $((SECONDS - begin)) "$(cat "$logs/$name.note" 2>/dev/null)"
        ;;
    "$MISSING")
        missing=$((missing + 1))
        report "$name" missing $((SECONDS - begin)) "$(tail -n 1 "$log")"
        ;;
    *)
        failed=$((failed + 1))
        local why="exit code $status"
        if ((status == 124 || status == 137)); then why="its $limit s are over"; fi
        report "$name" FAILED $((SECONDS - begin)) "$why; $(cat "$logs/$name.note" 2>/dev/null)"
        if [[ -z ${LIVE:-} ]]; then tail -n 15 "$log" | cut -c 1-200 | sed 's/^/    | /'; fi
        ;;
    esac
}

report() {
    printf '%-13s %-14s %4d s  %s\n' "$1" "$2" "$3" "${4%; }" | sed 's/ *$//' | tee -a "$steps"
}

stop_running() {
    if [[ -n $running ]]; then kill "$running" 2>/dev/null || true; fi
    running=
}

# The exit code: 0 where nothing failed.
summary() {
    printf '\n== Summary\n'
    cat "$steps"
    printf '%d ok, %d failed, %d missing, %d not run\n' "$ok" "$failed" "$missing" "$not_run" | tee -a "$steps"
    ((failed == 0))
}
