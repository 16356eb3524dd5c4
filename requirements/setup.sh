#!/usr/bin/env bash
# Makes the environment of the CPU stack: a virtual environment with the packages of cpu.lock and this package, editable.
# Called by `make setup`, which skips it when nothing changed. pip and its configuration are the user's own.
#
#   requirements/setup.sh <venv>
#
# PYTHON           the Python 3.11 to use (default: python3.11, else a python3 that is 3.11)
# TORCH_INDEX_URL  where pip finds torch's CPU build, if it is not where pip looks by itself; used for torch only
set -euo pipefail
cd "$(dirname "$0")/.."

venv=${1:?usage: requirements/setup.sh <venv>}
lock=requirements/cpu.lock

fail() {
    echo "setup: $*" >&2
    exit 1
}

find_python() {
    local candidate
    for candidate in ${PYTHON:-python3.11 python3}; do
        if "$candidate" -c 'import sys, ensurepip, venv; sys.exit(sys.version_info[:2] != (3, 11))' 2>/dev/null; then
            command -v "$candidate"
            return
        fi
    done
    fail "${PYTHON:-neither python3.11 nor python3} must be a Python 3.11 with the venv module;" \
        "install one and name it: make setup PYTHON=/path/to/python3.11"
}

# pip unpacks for a minute or more without a word
report_progress() {
    local total
    total=$(grep -c == "$lock")
    while sleep 10 >/dev/null 2>&1; do
        echo "setup: $(find "$venv/lib" -maxdepth 3 -name '*.dist-info' ! -name 'pip-*' | wc -l) of $total packages in place, ${SECONDS} s"
    done
}

[ "$(uname -sm)" = "Linux x86_64" ] || fail "$lock is for Linux on x86-64; got $(uname -sm). Use a container or such a machine."

if ! "$venv/bin/python" -m pip --version >/dev/null 2>&1; then
    python=$(find_python)
    echo "setup: making $venv with $python"
    "$python" -m venv "$venv"
fi
py=$venv/bin/python
"$py" -c 'import sys; sys.exit(sys.version_info[:2] != (3, 11))' ||
    fail "$venv must hold Python 3.11; got $("$py" --version). Remove it (rm -rf $venv) and run make setup again."

torch=$(grep -E '^torch==' "$lock")
torch_index=(${TORCH_INDEX_URL:+--index-url "$TORCH_INDEX_URL"})
if ! "$py" requirements/check_env.py torch >/dev/null 2>&1; then
    echo "setup: installing $torch (CPU build) from ${TORCH_INDEX_URL:-where pip is configured to look}"
    report=$(mktemp)
    trap 'rm -f "$report"' EXIT
    # asks which build it would be before hundreds of megabytes are unpacked
    "$py" -m pip install --dry-run --ignore-installed --no-deps "${torch_index[@]}" --report "$report" "$torch" ||
        fail "pip cannot get $torch (its message is above). Check the network, pip's configuration and TORCH_INDEX_URL."
    "$py" requirements/check_env.py report "$report"
    "$py" -m pip install --force-reinstall --no-deps "${torch_index[@]}" "$torch" || fail "pip could not install $torch (see above)."
fi

echo "setup: installing the $(grep -c == "$lock") packages of $lock (about 2 minutes, longer on a slow line)"
report_progress &
progress=$!
trap 'kill "$progress" 2>/dev/null || true; rm -f "${report:-}"' EXIT
"$py" -m pip install --no-deps -r "$lock" || fail "pip could not install $lock (its message is above)."
kill "$progress" 2>/dev/null || true

echo "setup: installing verl_multiattempt, editable"
"$py" -m pip install --quiet --no-deps --no-build-isolation -e .
"$py" requirements/check_env.py all
echo "setup: $venv is ready after ${SECONDS} s"
