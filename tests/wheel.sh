#!/bin/sh
# Makes a wheel of this checkout and proves that it works where nothing can be compiled: looked at and, on
# Linux, given its tag by auditwheel; installed into a new environment, which has the dependencies of
# .venv and nothing else; run with an empty PATH. Leaves it in dist/. Called by ./run wheel. Half a minute of
# work for a processor, most of it to compile.
set -eu
root=$(CDPATH='' cd -- "$(dirname -- "$0")/.." && pwd)
tools=$root/.venv/bin
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT
trap 'exit 1' HUP INT TERM

fail() { printf '%s\n' "./run wheel: $1" >&2; exit 1; }

# A wheel without kernels would install and run in plain torch: here it is an error.
BPTT_REQUIRE_NATIVE=1 "$tools/python" -m pip wheel --quiet --disable-pip-version-check --no-deps \
    --wheel-dir "$work/built" "$root"
built=$(ls "$work/built"/bptt-*.whl)
if [ "$(uname -s)" = Linux ]; then
    # torch brings libgomp.so.1, and one pool of threads is better than two: it is not copied into the wheel.
    PATH=$tools:$PATH "$tools/python" -m auditwheel show "$built" > "$work/shown" 2>&1 ||
        { cat "$work/shown" >&2; fail "auditwheel could not read $built"; }
    PATH=$tools:$PATH "$tools/python" -m auditwheel repair --exclude libgomp.so.1 --wheel-dir "$work/wheel" \
        "$built" > "$work/repaired" 2>&1 ||
        { cat "$work/shown" "$work/repaired" >&2; fail "auditwheel found no tag for $built"; }
    case $(ls "$work/wheel") in *manylinux*) ;; *) fail "expected a manylinux tag, received $(ls "$work/wheel")" ;; esac
else
    mkdir "$work/wheel"
    cp "$built" "$work/wheel"
fi
wheel=$(ls "$work/wheel"/bptt-*.whl)

# pip installs without looking for dependencies; a .pth names where they are. An editable install of
# this checkout is not seen that way: its own .pth is not read from there.
"$tools/python" -m venv --without-pip "$work/empty"
"$tools/python" -m pip --disable-pip-version-check --python "$work/empty/bin/python" install --quiet \
    --no-deps --no-index "$wheel"
"$tools/python" -c 'import site, sys; print(*(p for p in sys.path if p.endswith("site-packages")), sep="\n")' \
    > "$("$work/empty/bin/python" -c 'import sysconfig; print(sysconfig.get_path("purelib"))')/dependencies.pth"
mkdir "$work/nothing"
(cd "$work" && env -i PATH="$work/nothing" HOME="$work" "$work/empty/bin/python" "$root/tests/wheel_works.py")

# Where the kernels cannot be compiled, and on Windows, the same checkout is a package in pure Python.
env -u BPTT_REQUIRE_NATIVE CC=false CXX=false "$tools/python" -m pip wheel --quiet --disable-pip-version-check \
    --no-deps --config-settings build-dir="$work/none" --wheel-dir "$work/pure" "$root" > "$work/said" 2>&1 ||
    { cat "$work/said" >&2; fail "expected a package in pure Python without a compiler, received none"; }
ls "$work/pure" | grep -q 'py3-none-any[.]whl$' ||
    fail "expected a pure wheel without a compiler, received $(ls "$work/pure")"

mkdir -p "$root/dist"
cp "$wheel" "$root/dist/"
printf '%s\n' "dist/$(basename "$wheel")"
