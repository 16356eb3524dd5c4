#!/usr/bin/env bash
# Regenerates requirements/cpu.lock: every package of the CPU stack, pinned, for Python 3.11 on Linux x86-64.
#
#   requirements/update_lock.sh                      keep the versions that still fit, add and drop what changed
#   requirements/update_lock.sh --upgrade            newest versions of everything not pinned by hand
#   requirements/update_lock.sh -P ruff              newest version of one package
#
# Arguments go to `uv pip compile`, so a package source of your own can be named too (--find-links, --index, ...).
# It is never written into the lock. PYTHON names the interpreter that hosts uv (default python3); UV an installed uv.
set -euo pipefail
cd "$(dirname "$0")/.."

lock=requirements/cpu.lock
work=$(mktemp -d)
trap 'rm -rf "$work"' EXIT

if [ -z "${UV:-}" ]; then
    echo "Installing uv into a temporary environment"
    "${PYTHON:-python3}" -m venv "$work/venv"
    "$work/venv/bin/python" -m pip install --quiet --disable-pip-version-check uv
    UV=$work/venv/bin/uv
fi

[ ! -f "$lock" ] || cp "$lock" "$work/cpu.lock" # uv prefers the versions it finds in its output file
"$UV" pip compile pyproject.toml requirements/cpu.in --extra cpu --extra dev \
    --overrides requirements/cpu.overrides --python-version 3.11 --python-platform x86_64-manylinux_2_28 \
    --no-header --no-emit-index-url --no-emit-find-links --no-annotate \
    --output-file "$work/cpu.lock" "$@" >/dev/null

# torch's builds differ in a local version (+cpu), which a pin must not name, and a CUDA build drags in its libraries.
sed -E -e 's/^(torch==[^+ ]+)\+[^ ]+/\1/' -e '/^(nvidia|cuda)-/d' "$work/cpu.lock" >"$work/clean.lock"
if grep -nE '://| @ |\+|^-|^(torchvision|torchaudio|torchcodec|triton)==' "$work/clean.lock"; then
    echo "The lines above do not belong into $lock; it was left as it is." >&2
    exit 1
fi
{
    echo "# Made by requirements/update_lock.sh; do not edit. Python 3.11, Linux x86-64."
    echo "# Install with: pip install --no-deps -r requirements/cpu.lock (after a CPU build of torch; see the Makefile)"
    cat "$work/clean.lock"
} >"$work/new.lock"
diff "$lock" "$work/new.lock" || true
cp "$work/new.lock" "$lock"
echo "$lock: $(grep -c == "$lock") packages"
