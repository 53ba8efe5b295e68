#!/usr/bin/env bash
# What each step of a GPU run does: steps.bash NAME. run calls it, in the repository's root, with what it exports.
# shellcheck disable=SC2154 # run exports them
set -euo pipefail

missing() {
    printf '%s\n' "$*"
    exit 77
}
note() { printf '%s\n' "$*" >"$STEP_NOTE"; }
fail() {
    note "$*"
    printf 'error: %s\n' "$*"
    exit 1
}

# A tool that a GPU machine may do without, one that it needs, and PyTorch, which it needs too.
want() { command -v "$1" >/dev/null || missing "no $1"; }
need() { command -v "$1" >/dev/null || lacking "no $1"; }
need_pytorch() { [[ $device == standin ]] || python3 -c 'import torch' || lacking "no PyTorch"; }
lacking() { if [[ $device == standin ]]; then missing "$@"; else fail "$@"; fi; }

# Whether a file is there that an earlier step should have made.
made() { [[ -e $1 ]] || missing "no ${1#"$PWD/"}, see the steps before"; }

environment() {
    uname -a
    nproc
    nvidia-smi || true
    for tool in nvcc ptxas clang++-19 clang++ cmake ninja c++ compute-sanitizer ncu python3; do
        printf '\n-- %s: ' "$tool"
        command -v "$tool" && "$tool" --version | head -n 4 || echo none
    done
    python3 -c 'import torch, triton; print(torch.__version__, torch.version.cuda, triton.__version__)' || true
    if command -v nvidia-smi >/dev/null; then note "$(nvidia-smi --query-gpu=name,driver_version --format=csv,noheader | head -n 1)"; fi
}

unpack() {
    [[ -f $archive ]] || missing "no ${archive#"$PWD/"}, which bench/gpu/pack makes"
    mkdir -p "$unpacked"
    # Python where there is no xz.
    tar -C "$unpacked" -xJf "$archive" || python3 -m tarfile -e "$archive" "$unpacked"
    note "$(cat "$unpacked/commit")"
}

# build IMAGE FOLDER: all that can be built, even where one file fails. No warning costs the run: the compiler may be new to these sources.
build() {
    cmake -S . -B "$2" -G Ninja -DCMAKE_BUILD_TYPE=Release -DAUXCORE_DEVICE_IMAGE="$1" -DAUXCORE_WARNINGS_AS_ERRORS=OFF
    cmake --build "$2" --target auxcore # what is timed comes first
    cmake --build "$2" -- -k 0
}

build_nvcc() {
    need nvcc
    build NVCC "$nvcc_build"
}

build_clang() {
    command -v clang++-19 >/dev/null || command -v clang++ >/dev/null || missing "no clang++"
    build CLANG "$clang_build"
}

ptxas_check() {
    need ptxas
    local file architecture
    for file in "$ptx"/*.ptx; do
        made "$file"
        for architecture in 80 90; do
            printf -- '-- %s for sm_%s\n' "$file" "$architecture"
            ptxas -v -arch="sm_$architecture" "$file" -o "$scratch/${file##*/}.$architecture.cubin"
        done
    done
    note "$(find "$scratch" -name '*.cubin' | wc -l) images"
}

# on_device BUILD IMAGE [LIBRARY]: the tests labelled "device", with a library other than the build's own where one is named. A test that
# skips itself, or that got another image, is a failure here.
on_device() {
    made "$1/library/libauxcore.so"
    if [[ -n ${3:-} ]]; then
        made "$3"
        export LD_PRELOAD=$3 # by its soname it takes the place of the one that the tests were linked with
    fi
    local output status=0
    output=$(ctest --test-dir "$1" -L device --no-tests=error -V) || status=$?
    printf '%s\n' "$output"
    ((status == 0)) || fail "ctest: exit code $status"
    grep -q 'tests passed' <<<"$output" || fail "no test ran"
    ! grep -qiE 'Skipped|Not Run' <<<"$output" || fail "tests were skipped"
    grep -q "image: $2" <<<"$output" || fail "the device code was not that of $2"
    note "$(grep -m 1 'image: ' <<<"$output" | sed 's/^[0-9]*: //')"
}

ctest_nvcc() { on_device "$nvcc_build" nvcc; }

# The library that was carried here, in the tests that were built here; without an archive, what clang built here.
ctest_clang() {
    if [[ -e $unpacked/native/libauxcore.so && -e $nvcc_build/library/libauxcore.so ]]; then
        on_device "$nvcc_build" clang "$unpacked/native/libauxcore.so"
    else
        on_device "$clang_build" clang
    fi
}

# The programs behind the tests labelled "device", but for those that take many elements of what others check with few. Errors that the
# tests provoke and handle are not reported.
sanitizer() {
    want compute-sanitizer
    made "$nvcc_build/library/libauxcore.so"
    local programs program
    programs=$(ctest --test-dir "$nvcc_build" -L device -E large --show-only=json-v1 |
        python3 -c 'import json, sys
for test in json.load(sys.stdin)["tests"]:
    if "command" in test: print(test["command"][0])')
    [[ -n $programs ]] || fail "no test labelled device was built"
    while IFS= read -r program; do
        compute-sanitizer --tool "$1" --report-api-errors no --error-exitcode 9 "$program" </dev/null
    done <<<"$programs"
    note "$(wc -l <<<"$programs") programs"
}

memcheck() { sanitizer memcheck; }
racecheck() { sanitizer racecheck; }
initcheck() { sanitizer initcheck; }
synccheck() { sanitizer synccheck; }

python_tests() {
    made "$library"
    AUXCORE_LIBRARY=$library python3 -m unittest discover -s bench/gpu/tests -t bench/gpu
}

# The archive's tests on this machine's own library, as it is what is timed, and on its own driver.
dotnet_tests() {
    local folder=$unpacked/tests output status=0
    [[ -x $folder/AuxCore.Tests ]] || missing "no ${archive#"$PWD/"}, which bench/gpu/pack makes"
    made "$library"
    cp "$library" "$folder/runtimes/linux-x64/native/libauxcore.so"
    cp -r data "$folder"
    rm -rf "$folder/standin"
    mkdir -p "$rows"
    output=$(AUXCORE_GPU_ROWS=$rows "$folder/AuxCore.Tests" -noColor -noLogo) || status=$?
    printf '%s\n' "$output"
    note "$(grep -o 'Total: .*' <<<"$output" | tail -n 1)"
    if ((status != 0)); then
        grep -A 8 '\[FAIL\]' <<<"$output" || true # last, because a failed step shows the end of its log
        local -a tests
        mapfile -t tests < <(sed -n 's/^ *\(.*\) \[FAIL\].*/\1/p' <<<"$output")
        note "$(cat "$STEP_NOTE")$(printf '; %s' "${tests[@]:0:3}")"
        ! grep -q 'libtorch-cpu' <<<"$output" || echo "Tests that call libtorch are marked [RequiresLibtorch]."
        exit "$status"
    fi
    grep -q 'this build has no libtorch' <<<"$output" || fail "no test was skipped for want of libtorch"
    ! grep -q 'no CUDA here' <<<"$output" || fail "tests of CUDA were skipped"
    # TorchSharp puts libtorch there when somebody calls it.
    [[ ! -e $folder/cpu ]] || fail "something asked for libtorch"
}

timing() {
    made "$library"
    need_pytorch
    # Some seconds for the start, and for a case that takes longer than its share.
    python3 -u bench/gpu/main.py --device "$device" --library "$library" --out "$results" --rows "$rows" --commit "$commit" \
        --seconds $((STEP_SECONDS - 25))
}

counters() {
    want ncu
    made "$library"
    need_pytorch
    local cases
    for cases in many-small 100m; do
        ncu --clock-control none --set basic --kernel-name regex:auxcore_ --launch-count 12 --csv --log-file "$logs/ncu-$cases.csv" \
            python3 -u bench/gpu/main.py --device "$device" --library "$library" --out "$scratch/counters" --verify --ours "$cases"
    done
    note "$(cat "$logs"/ncu-*.csv | grep -c '"auxcore_') lines in ncu-*.csv"
}

export PYTHONDONTWRITEBYTECODE=1
mkdir -p "$scratch"
"$1"
