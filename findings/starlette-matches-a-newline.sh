#!/usr/bin/env bash
# Starlette's routes match a path that ends in a newline: /admin%0A is answered by the route of /admin.
#
# A path's pattern ends in $, which Python lets match before a newline at the end, and it is matched against the decoded
# path. So one expects 404, as for any other character behind a path, and gets the handler, whose path is another text
# than what a check in front of it compared. bitvit's application puts a slash behind such a path before it is routed.
#
# Run by hand, with a package index at hand. Exit code 0: as told above, with the version below.
set -euo pipefail

STARLETTE=1.10.0
PYTHON=${PYTHON:-python3}

place=$(mktemp --directory)
trap 'rm -rf "$place"' EXIT
cd "$place"

"$PYTHON" -m venv environment
environment/bin/pip install --quiet --disable-pip-version-check "starlette==$STARLETTE"

cat >ask.py <<'END'
import asyncio

from starlette.applications import Starlette
from starlette.responses import PlainTextResponse
from starlette.routing import Route

app = Starlette(routes=[Route("/admin", lambda request: PlainTextResponse(repr(request.scope["path"])))])


async def ask(path):
    sent = []

    async def send(message):
        sent.append(message)

    scope = {"type": "http", "method": "GET", "path": path, "query_string": b"", "root_path": "", "headers": []}
    await app(scope, None, send)
    return sent[0]["status"], sent[1]["body"].decode()


found = {path: asyncio.run(ask(path)) for path in ("/admin", "/admin\n", "/admin\t")}
for path, (status, body) in found.items():
    print(f"{path!r:10} {status} {body}")
raise SystemExit([status for status, _ in found.values()] != [200, 200, 404])
END
environment/bin/python ask.py
