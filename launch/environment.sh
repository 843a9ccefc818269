# Sourced by the scripts beside it: picks a Python, makes a virtual environment at the project root, installs mmjax.
# PYTHON=python3.12 chooses the Python; the environment is then .venv, or .venv-3.12 where .venv has another version.

fail() { echo "error: $*" >&2; exit 1; }
stage() { echo "==> $*"; }

# The Pythons that all dependencies have wheels for, the newest first.
PYTHONS="python3.13 python3.12 python3.11"

# Prints "3.12" for a Python that runs, is one of those and can make environments: a shim on the PATH may do none of it.
python_version() {
    "$1" -c 'import ensurepip, sys, venv; (3, 11) <= sys.version_info < (3, 14) or sys.exit(1); print("%d.%d" % sys.version_info[:2])' 2>/dev/null
}

# find_python NAME: prints the path of the first that works, on the PATH or among those that pyenv has installed.
find_python() {
    local candidate
    while read -r candidate; do
        if [ -x "$candidate" ] && python_version "$candidate" >/dev/null; then echo "$candidate"; return; fi
    done < <(type -aP "$1"; printf '%s\n' "${PYENV_ROOT:-${HOME:-}/.pyenv}"/versions/*/bin/"$1")
    return 1
}

pick_python() {
    local name found
    if [ -n "${PYTHON:-}" ]; then
        found=$(find_python "$PYTHON") ||
            fail "PYTHON=$PYTHON does not run as Python 3.11, 3.12 or 3.13 with the venv module; give the path of one that does"
        PYTHON=$found
        return
    fi
    for name in $PYTHONS python3; do
        if PYTHON=$(find_python "$name"); then return; fi
    done
    fail "found no Python 3.11, 3.12 or 3.13 with the venv module; install one (on Debian: apt-get install python3 python3-venv)"
}

# make_environment EXTRAS: installs mmjax[EXTRAS] in $VENV unless that was done already, here and from the same setup.cfg.
make_environment() {
    local extras=$1 version log stamp wanted asked=${PYTHON:-}
    VENV=$PWD/.venv
    if [ -n "$asked" ] || [ ! -x "$VENV/bin/python" ]; then
        pick_python
        version=$(python_version "$PYTHON")
        if [ -n "$asked" ] && [ -x "$VENV/bin/python" ] && [ "$(python_version "$VENV/bin/python")" != "$version" ]; then
            VENV=$PWD/.venv-$version
        fi
    fi
    if ! "$VENV/bin/python" -m pip --version >/dev/null 2>&1; then
        pick_python
        stage "making ${VENV#"$PWD"/} with $("$PYTHON" --version)"
        "$PYTHON" -m venv --clear "$VENV" || fail "could not make $VENV"
    fi
    stamp=$VENV/installed-${extras:-core}
    wanted=$(pwd; cat setup.cfg pyproject.toml)
    if [ "$(cat "$stamp" 2>/dev/null)" != "$wanted" ]; then
        log=$VENV/install.log
        stage "installing mmjax${extras:+[$extras]} in ${VENV#"$PWD"/} (the first time takes minutes; log: $log)"
        "$VENV/bin/python" -m pip install --quiet --disable-pip-version-check --editable ".${extras:+[$extras]}" >"$log" 2>&1 ||
            { tail -n 5 "$log" >&2; fail "pip could not install mmjax; see $log"; }
        echo "$wanted" >"$stamp"
    fi
    PATH=$VENV/bin:$PATH
}
