#!/bin/sh
# Builds the kernels and tests/ops/kernels_test.cpp with sanitizers, and runs the tests on every
# instruction set of this machine: first for memory and undefined behaviour, on OpenMP; then for
# data races, on std::thread, because ThreadSanitizer does not see into the OpenMP runtime. The first
# of the two also runs Python on top: streams whose models change, tests/stream_changes.py.
# One test runs on each processor. Says nothing unless something fails. Takes some minutes, most of them to
# compile. BPTT_PYTHON names an interpreter with the package and nanobind; ./run sanitize passes its own.
# (The script calls itself for each test: --one BUILD KIND ISA.)
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)

fail() { printf '%s\n' "csrc/sanitize.sh: $1" >&2; exit 1; }

command -v cmake >/dev/null || fail "cmake was not found in PATH"
if command -v ninja >/dev/null; then generator=Ninja
elif command -v make >/dev/null; then generator='Unix Makefiles'
else fail "neither ninja nor make was found in PATH"; fi
python=${BPTT_PYTHON:-$root/.venv/bin/python}
[ "${1-}" = --one ] || "$python" -c 'import bptt, nanobind' 2>/dev/null ||
    fail "expected an interpreter with bptt and nanobind, received $python: call ./run sanitize, or set BPTT_PYTHON"

build=${2-}
[ "${1-}" = --one ] || build=$(mktemp -d)
log=$build/log-${3-}-${4-}  # of this test, or of what comes before the tests

# Runs a command; shows what it printed only if it fails.
quietly() {
    "$@" >"$log" 2>&1 || { cat "$log" >&2; return 1; }
}

# The same for a program with a sanitizer in it. ThreadSanitizer of older compilers cannot always
# place its shadow memory where the kernel randomizes addresses by many bits: try once without.
run() {
    if "$@" >"$log" 2>&1; then return; fi
    if grep -q 'unexpected memory mapping' "$log"; then quietly setarch -R "$@"
    else cat "$log" >&2; return 1; fi
}

export ASAN_OPTIONS=halt_on_error=1
export UBSAN_OPTIONS=halt_on_error=1:print_stacktrace=1
export TSAN_OPTIONS=halt_on_error=1
export OMP_WAIT_POLICY=passive  # more threads than cores: do not spin

# A Python program on the extension in a folder, in an interpreter that knows nothing of sanitizers:
# their runtime comes first, and with it the library whose exceptions it watches. What the interpreter
# itself never frees is not looked for.
sanitized_python() {
    module=$(ls "$build"/address,undefined/_native.*so)
    first=$(ldd "$module" | awk '/lib(asan|stdc\+\+)[.]/ {print $3}' | tr '\n' ':')
    case $first in *libasan*) ;; *) fail "expected the extension to load libasan, as GCC links it" ;; esac
    run env LD_PRELOAD="$first" ASAN_OPTIONS="$ASAN_OPTIONS:detect_leaks=0" \
        nice "$python" "$root/tests/stream_changes.py" "$module" "$@"
}

if [ "${1-}" = --one ]; then
    BPTT_ISA=$4
    export BPTT_ISA
    case $3 in
        streams) sanitized_python || fail "a stream failed after its model changed: $4" ;;
        *) run nice "$build/$3/bptt_kernel_tests" || fail "the tests failed: $3, $4" ;;
    esac
    exit
fi

trap 'rm -rf "$build"' EXIT
trap 'exit 1' HUP INT TERM
unset BPTT_ISA

for sanitizer in address,undefined thread; do
    folder=$build/$sanitizer
    case $sanitizer in thread) with_module=OFF ;; *) with_module=ON ;; esac
    # Release would add -O3, which takes far longer to compile with the checks in.
    quietly cmake -S "$root" -B "$folder" -G "$generator" -DBPTT_SANITIZE="$sanitizer" \
        -DBPTT_MODULE=$with_module -DPython_EXECUTABLE="$python" -DBPTT_DRIVER=ON -DCMAKE_BUILD_TYPE=None -DCMAKE_CXX_FLAGS=-O1 ||
        fail "cmake failed for $sanitizer"
    quietly nice cmake --build "$folder" || fail "the build failed for $sanitizer"
    run "$folder/bptt_kernel_tests" --isas || fail "the $sanitizer build does not start on this machine"
    for isa in $(cat "$log"); do
        printf '%s %s\n' "$sanitizer" "$isa" >> "$build/tests"
        [ "$with_module" = OFF ] || printf 'streams %s\n' "$isa" >> "$build/tests"
    done
done

# First that a write past the end of one of torch's tensors would be seen at all.
if (sanitized_python --overrun) 2>"$build/seen"; then fail "an overrun was not noticed"; fi
grep -q heap-buffer-overflow "$build/seen" || { cat "$build/seen" >&2; fail "an overrun was not named"; }

xargs -n 2 -P "$(getconf _NPROCESSORS_ONLN)" sh "$0" --one "$build" < "$build/tests" ||
    fail "a test failed, see above"
