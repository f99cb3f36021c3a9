"""The page's policy: its own script and style, and nothing else."""

import base64
import hashlib
import re

from bitvit.serve.application import Application
from tests.support.serving import ask


def test_the_policy_allows_what_the_page_has_and_nothing_else(app: Application) -> None:
    answer = ask(app, "GET", "/")
    assert answer.headers["content-type"] == "text/html; charset=utf-8"
    policy = dict(part.split(" ", 1) for part in answer.headers["content-security-policy"].split("; "))
    assert policy["default-src"] == policy["frame-ancestors"] == "'none'"
    assert policy["connect-src"] == "'self'"
    text = answer.body.decode()
    for element in ("script", "style"):
        found = re.findall(rf"<{element}[^>]*>(.*?)</{element}>", text, re.DOTALL)
        digests = [base64.b64encode(hashlib.sha256(inside.encode()).digest()).decode() for inside in found]
        assert policy[f"{element}-src"] == (" ".join(f"'sha256-{digest}'" for digest in digests) or "'none'")
    assert "unsafe" not in str(policy)
    assert re.findall(r"(?:src|href)=[\"']?(?:https?:)?//", text) == []
