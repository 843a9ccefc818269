#!/usr/bin/env bash
# Installs what the tests need and runs them: lint, types, tests. Arguments go to pytest: ./launch/test.sh tests/data -x
# Tests marked slow are left out; ./launch/test.sh --slow runs those alone, and ./launch/test.sh -m "" all.
# PYTHON=python3.12 ./launch/test.sh uses that Python. MMJAX_COCO_DIR names a COCO folder for the tests on real images.
set -euo pipefail
cd "$(dirname "${BASH_SOURCE[0]}")/.."
. launch/environment.sh
which="not slow"
if [ "${1:-}" = --slow ]; then
    which=slow
    shift
fi
make_environment test

stage "ruff"
python -m ruff check .
stage "mypy"
python -m mypy
stage "pytest with $(python --version)"
# Whole files go to one of two processes, so that what a file's tests share is made once; tests/conftest.py orders them.
exec python -m pytest -n 2 --dist loadfile --no-loadscope-reorder -m "$which" "$@"
