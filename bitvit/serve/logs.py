"""The log of `bitvit serve`: a JSON object a line, on stderr."""

import logging
import sys
import traceback
from datetime import datetime, timezone

import orjson

from bitvit.serve.application import ACCESS

__all__ = ["log_to_stderr"]


class _Lines(logging.Formatter):
    def format(self, record: logging.LogRecord) -> str:
        if record.name == ACCESS.name:  # is one already
            return record.getMessage()
        line: dict[str, object] = {
            "time": datetime.fromtimestamp(record.created, timezone.utc).isoformat(timespec="milliseconds"),
            "level": record.levelname.lower(),
            "message": record.getMessage().strip(),
        }
        if record.exc_info and record.exc_info[0] is not None:
            line["traceback"] = "".join(traceback.format_exception(*record.exc_info))
        return orjson.dumps(line).decode()


def log_to_stderr(*, access: bool) -> None:
    """access: also a line for each request."""
    handler = logging.StreamHandler(sys.stderr)
    handler.setFormatter(_Lines())
    for name, level in (("bitvit.serve", logging.WARNING), ("uvicorn.error", logging.ERROR)):
        log = logging.getLogger(name)
        log.handlers, log.propagate = [handler], False
        log.setLevel(level)
    logging.getLogger("python_multipart").setLevel(logging.CRITICAL)  # what it says of a form, its sender is told
    ACCESS.setLevel(logging.INFO if access else logging.WARNING)
