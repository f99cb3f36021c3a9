#!/usr/bin/env bash
# In Numba, a literal argument is no longer a literal once `*others` follows it in the call.
#
# A function that asks for the value of an integer at compile time (numba.literally, or an intrinsic that makes a type of
# it, such as a register tile's height) is happy with
#
#     tile(0, 7, c)                   and with            tile(0, height=7, c=others[0])
#
# so one expects the same of tile(0, 7, *others) with a tuple of one int. Numba builds one tuple of all the arguments for
# such a call, in which 7 is an int64, and the request for the literal ends in a message about something else: that
# the callee's first argument is missing. Without the request the same call compiles and is right.
#
# Run by hand, with a package index at hand. Exit code 0: as told above, with the versions below.
set -euo pipefail

NUMBA=0.68.1
LLVMLITE=0.50.0
NUMPY=2.4.6
PYTHON=${PYTHON:-python3}

place=$(mktemp --directory)
trap 'rm -rf "$place"' EXIT
cd "$place"

"$PYTHON" -m venv environment
environment/bin/pip install --quiet --disable-pip-version-check "numba==$NUMBA" "llvmlite==$LLVMLITE" "numpy==$NUMPY"

cat >calls.py <<'END'
from numba import literally, njit
from numba.core.errors import NumbaError


@njit
def tile(m, height, c):
    literally(height)
    return m + height + c


@njit
def relaxed(m, height, c):
    return m + height + c


@njit
def positions(others):
    return tile(0, 7, others[0])


@njit
def keywords(others):
    return tile(0, height=7, c=others[0])


@njit
def star(others):
    return tile(0, 7, *others)


@njit
def relaxed_star(others):
    return relaxed(0, 7, *others)


for call in (positions, keywords, star, relaxed_star):
    try:
        print(f"{call.__name__}: {call((1,))}")
    except NumbaError as error:
        print(f"{call.__name__}: {type(error).__name__}: {str(error).splitlines()[1]}")
END

cat >expected <<'END'
positions: 8
keywords: 8
star: TypingError: Cannot bind 'args=[] kws={}' to signature '(m, height, c)' due to "TypeError: missing a required argument: 'm'".
relaxed_star: 8
END
echo "numba $NUMBA, llvmlite $LLVMLITE, numpy $NUMPY"
environment/bin/python calls.py | tee seen
diff expected seen
