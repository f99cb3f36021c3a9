"""The page at /: one file, and the policy that lets a browser run its own script and style and nothing else."""

import base64
import hashlib
import re
from functools import cache
from importlib.resources import files

from starlette.responses import Response

__all__ = ["page"]


@cache
def page() -> Response:
    """The page. Its inline script and style are allowed by their digests, so the file is never to be changed for it."""
    text = files("bitvit.serve").joinpath("page.html").read_text(encoding="utf-8")
    policy = "; ".join(
        [
            "default-src 'none'",
            f"script-src {_digests('script', text)}",
            f"style-src {_digests('style', text)}",
            "img-src 'self' blob: data:",
            "media-src 'self' blob: mediastream:",
            "connect-src 'self'",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )
    return Response(
        text,
        media_type="text/html",
        headers={
            "content-security-policy": policy,
            "cache-control": "no-cache",
            "permissions-policy": "camera=(self), microphone=(), geolocation=()",
            "referrer-policy": "no-referrer",
            "x-content-type-options": "nosniff",
        },
    )


def _digests(element: str, text: str) -> str:
    """The sources of a policy that allow the inline elements of a kind, or 'none'."""
    found = re.findall(rf"<{element}\b[^>]*>(.*?)</{element}>", text, re.DOTALL)
    digests = (base64.b64encode(hashlib.sha256(content.encode()).digest()).decode() for content in found)
    return " ".join(f"'sha256-{digest}'" for digest in digests) or "'none'"
