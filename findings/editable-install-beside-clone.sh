#!/usr/bin/env bash
# A package that is installed in editable mode by setuptools cannot be imported from the folder that holds its clone.
#
#     git clone …/demo_pkg            # a "flat layout": the clone demo_pkg/ holds the package demo_pkg/
#     pip install --editable ./demo_pkg
#     python -c "import demo_pkg; demo_pkg.x"
#
# Python asks sys.path's entries before it asks setuptools' finder, and one of these entries is the folder that it was
# started in. There it finds `demo_pkg`, the clone: a folder without __init__.py, so a namespace package, which is empty.
# (pypa/setuptools issue 3592.) hatchling's editable install is a plain entry of sys.path, where the real package is found
# first: a namespace package is only made when no entry of the path has a package of that name.
#
# Run by hand, with a package index at hand. Exit code 0: as told above, with the versions below.
set -euo pipefail

SETUPTOOLS=84.2.1
HATCHLING=1.33.0
PYTHON=${PYTHON:-python3}

place=$(mktemp --directory)
trap 'rm -rf "$place"' EXIT
cd "$place"

mkdir -p demo_pkg/demo_pkg
echo 'x = "found"' >demo_pkg/demo_pkg/__init__.py

# installed BACKEND REQUIREMENT: a fresh environment with demo_pkg in it, installed by that backend
install_with() {
    cat >demo_pkg/pyproject.toml <<END
[build-system]
requires = ["$2"]
build-backend = "$1"

[project]
name = "demo_pkg"
version = "1"
END
    "$PYTHON" -m venv --clear environment
    environment/bin/pip install --quiet --disable-pip-version-check --editable ./demo_pkg
}

# What importing demo_pkg gives in the folder $1: x, or how it fails.
import_in() {
    (cd "$1" && "$place/environment/bin/python" -c 'import demo_pkg; print(demo_pkg.x)' 2>&1 | tail -n 1)
}

expect() {
    echo "$1: $3"
    [[ $3 == $2 ]] || { echo "expected: $2"; exit 1; }
}

install_with setuptools.build_meta "setuptools==$SETUPTOOLS"
expect "setuptools $SETUPTOOLS, from another folder  " "found" "$(import_in /)"
expect "setuptools $SETUPTOOLS, beside the clone     " "AttributeError: module 'demo_pkg' has no attribute 'x'" "$(import_in .)"

install_with hatchling.build "hatchling==$HATCHLING"
expect "hatchling $HATCHLING, from another folder    " "found" "$(import_in /)"
expect "hatchling $HATCHLING, beside the clone       " "found" "$(import_in .)"
