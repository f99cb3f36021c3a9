#!/usr/bin/env bash
# clang's ThreadSanitizer does not see a race on a vector of 32 or 64 bytes.
#
# Two threads that store to the same place are a data race whatever the width of the store, so one expects a report for
# AVX as for SSE. But the sanitizer puts a call before accesses of 1, 2, 4, 8 and 16 bytes alone; a wider one stays as it
# is, without a word. A kernel with 16-byte vectors is checked; the same source compiled for AVX2 or AVX-512 passes because
# nobody looked: a green run says nothing about it. So check such code as it is compiled for SSE.
#
# What is looked at is the assembly of three stores, which tells without a race having to happen.
#
# Run by hand, with a package index at hand. Exit code 0: as told above, with the version below.
set -euo pipefail

ZIGLANG=0.13.0  # has clang 18
PYTHON=${PYTHON:-python3}

place=$(mktemp --directory)
trap 'rm -rf "$place"' EXIT
cd "$place"
export ZIG_GLOBAL_CACHE_DIR=$place/cache

"$PYTHON" -m venv environment
environment/bin/pip install --quiet --disable-pip-version-check "ziglang==$ZIGLANG"

cat >stores.c <<'END'
typedef float v4 __attribute__((vector_size(16), aligned(16)));
typedef float v8 __attribute__((vector_size(32), aligned(32)));
typedef float v16 __attribute__((vector_size(64), aligned(64)));
void store_16_bytes(v4 *to, const v4 *from) { *to = *from; }
void store_32_bytes(v8 *to, const v8 *from) { *to = *from; }
void store_64_bytes(v16 *to, const v16 *from) { *to = *from; }
END
environment/bin/python -m ziglang cc -S -O2 -target x86_64-linux-gnu -mcpu=x86_64_v4 -fsanitize=thread stores.c -o stores.s
environment/bin/python -m ziglang cc --version | head -1

environment/bin/python - <<'END'
import re
import sys

parts = re.split(r"^(store_\d+_bytes):", open("stores.s").read(), flags=re.MULTILINE)
calls = {name: sorted(set(re.findall(r"__tsan_(?:read|write)\w+", text.split(".cfi_endproc")[0])))
         for name, text in zip(parts[1::2], parts[2::2])}
print(*(f"{name}: {', '.join(found) or 'nothing is called'}" for name, found in calls.items()), sep="\n")
sys.exit(calls != {"store_16_bytes": ["__tsan_read16", "__tsan_write16"], "store_32_bytes": [], "store_64_bytes": []})
END
echo "as told above"
