"""huggingface_hub: imported when it is needed, and what it raises said in one line each."""

import contextlib
import importlib
from collections.abc import Iterator
from typing import Any

from bitvit.errors import BitvitError, HubError
from bitvit.extras import require

__all__ = ["is_unreachable", "library", "told_plainly"]

LOG_IN = "log in with `hf auth login`, or set HF_TOKEN"


def library(name: object) -> Any:
    """The package huggingface_hub, with the modules of it that are used here. name: what it is needed for.

    Raises BitvitError if it is not installed.
    """
    hub = require("huggingface_hub", f"{name}: the Hugging Face Hub", "hub")
    for module in ("constants", "errors", "utils"):  # the package itself imports nothing
        importlib.import_module(f"huggingface_hub.{module}")
    return hub


def is_unreachable(hub: Any, problem: Exception) -> bool:
    """Whether there was no answer, or one that says that the Hub is out of order."""
    status = _status(problem)
    return status >= 500 if status else not isinstance(problem, hub.errors.HfHubHTTPError | BitvitError | ValueError)


@contextlib.contextmanager
def told_plainly(hub: Any, name: object, *, reading: bool = False) -> Iterator[None]:
    """Raise a HubError in place of whatever is raised inside, which must be calls of huggingface_hub alone.

    name: of what was asked for. reading: a file of the cache would have done, and there is none. Their exceptions
    stem from OSError, ValueError and those of an HTTP client that depends on the version; so none is let through.
    """
    try:
        yield
    except BitvitError:
        raise
    except Exception as problem:
        if isinstance(problem, RuntimeError) and isinstance(problem.__cause__, Exception):
            problem = problem.__cause__  # it says no more than which file was being uploaded
        raise HubError(f"{name}: {_said(hub, problem, reading)}") from None


def _status(problem: Exception) -> int:
    """The status of the answer; 0: there was none."""
    return int(getattr(getattr(problem, "response", None), "status_code", 0))


def _said(hub: Any, problem: Exception, reading: bool) -> str:
    errors, endpoint, status = hub.errors, hub.constants.ENDPOINT, _status(problem)
    if isinstance(problem, errors.GatedRepoError):
        return f"its owners let only those in whom they know; ask them on its page at {endpoint}, then {LOG_IN}"
    if isinstance(problem, errors.RevisionNotFoundError):
        return "the repository has no such branch, tag or commit; check what is behind the @"
    if isinstance(problem, errors.EntryNotFoundError) and status:
        return "no such file in the repository; check the name"
    if isinstance(problem, errors.RepositoryNotFoundError) or status in (401, 404):
        if "Invalid credentials" in str(problem):
            return f"{endpoint} refuses the token; {LOG_IN}"
        if not reading and status == 401:
            return f"{endpoint} lets nobody write without a token; {LOG_IN}"
        return f"no such repository at {endpoint}, or it is private; check the name, or {LOG_IN}"
    if status == 403:
        return f"{endpoint} forbids it to this token ({_line(problem)}); take one with the right to it: {LOG_IN}"
    if status:
        return f"{endpoint} answers {status} ({_line(problem)}); try again later, or see what its page says"
    missing = f", and it is not in the cache {hub.constants.HF_HUB_CACHE}" if reading else ""
    if isinstance(problem, errors.OfflineModeIsEnabled):
        return f"HF_HUB_OFFLINE is set{missing}; unset it for once"
    if isinstance(problem, ValueError):
        return f"{_line(problem)}; check names and card"
    return (
        f"{endpoint} cannot be reached ({type(problem).__name__}: {_line(problem)}){missing}; check network and proxy"
    )


def _line(problem: Exception) -> str:
    """What the server or the library says, on one line."""
    text = getattr(problem, "server_message", None) or str(problem)
    return " ".join(text.split())[:200].rstrip(".")
