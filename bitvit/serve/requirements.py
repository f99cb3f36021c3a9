"""The packages of bitvit[serve]."""

from bitvit.extras import require

__all__ = ["require_packages"]

PACKAGES = ("starlette", "orjson", "prometheus_client", "python_multipart")
SERVER = ("uvicorn", "httptools")


def require_packages(*, server: bool = False) -> None:
    """Raises BitvitError, with the command that installs them, if one is missing. server: also those of the server."""
    for package in (*PACKAGES, *(SERVER if server else ())):
        require(package, "serving", "serve")
