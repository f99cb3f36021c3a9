"""bitvit serve: classifiers over HTTP."""

from pathlib import Path
from typing import Annotated

from bitvit.cli.console import compiling_status, print_warning
from bitvit.cli.declare import Argument, Option
from bitvit.errors import BitvitError

__all__ = ["serve"]

LOOPBACK = ("127.", "localhost", "::1")


def serve(
    models: Annotated[
        list[str],
        Argument(
            metavar="MODEL...",
            help="Packed models, also hf://owner/name, or NAME=PATH; a name is the file's, without its ending.",
        ),
    ],
    host: Annotated[
        str, Option("--host", metavar="ADDRESS", help="Where to listen; 0.0.0.0: everywhere.")
    ] = "127.0.0.1",
    port: Annotated[int, Option("--port", "-p", min=0, max=65535, metavar="N", help="0: any that is free.")] = 8000,
    uds: Annotated[
        Path | None, Option("--uds", metavar="FILE", help="Listen at a Unix socket instead of a port.")
    ] = None,
    workers: Annotated[
        int | None,
        Option("--workers", "-w", min=1, metavar="N", help="Requests computed at once; default: all CPUs."),
    ] = None,
    queue: Annotated[
        int, Option("--queue", min=0, metavar="N", help="Requests that may wait; the next is answered 503.")
    ] = 32,
    max_body: Annotated[
        int, Option("--max-body", min=1, metavar="MIB", help="Largest body of a request, unpacked.")
    ] = 64,
    timeout: Annotated[
        float, Option("--timeout", min=1, metavar="SECONDS", help="For sending a request, and for reading its answer.")
    ] = 20,
    grace: Annotated[
        int, Option("--grace", min=1, metavar="SECONDS", help="For answers to open requests when it is told to end.")
    ] = 30,
    exif: Annotated[
        bool, Option("--exif", help="Turn images upright as their EXIF data says, which is ignored otherwise.")
    ] = False,
    allow_load: Annotated[
        bool,
        Option(
            "--allow-load", help="Let clients have a model's file read again: POST /v2/repository/models/NAME/load."
        ),
    ] = False,
    no_access_log: Annotated[bool, Option("--no-access-log", help="Log errors alone, not each request.")] = False,
) -> None:
    """Answer requests over HTTP: Open Inference Protocol v2, Hugging Face's image classification, and a page.

    Each model has one thread a request, and as many requests are computed at once as there are CPUs. The address is
    printed on stdout when it listens; a JSON object for each request and each error on stderr.

    SIGTERM and Ctrl-C answer what has been asked, and end. SIGHUP reads the models' files again.
    """
    from bitvit.serve.requirements import require_packages

    require_packages(server=True)
    named = _named(models)
    from bitvit.serve import Limits, app
    from bitvit.serve.logs import log_to_stderr
    from bitvit.serve.server import Address
    from bitvit.serve.server import serve as run

    limits = Limits(queue=queue, body=max_body << 20, bodies=4 * max_body << 20, seconds=timeout)
    with compiling_status():
        application = app(named, workers=workers, limits=limits, exif=exif, allow_load=allow_load)
    if uds is None and not host.startswith(LOOPBACK):
        print_warning(f"{host} can be reached by other machines; the server asks nobody who they are")
    log_to_stderr(access=not no_access_log)
    names = ", ".join(served.name for served in application.registry)
    run(application, Address(host, port, uds), grace, lambda url: print(f"{names} at {url}", flush=True))


def _named(models: list[str]) -> dict[str, str]:
    """name -> path. Raises BitvitError for a name that will not do, or is there twice."""
    from bitvit.hub import is_hub_name, model_name
    from bitvit.serve.registry import check_name

    found: dict[str, str] = {}
    for argument in models:
        name, equals, path = argument.partition("=")
        if not equals or is_hub_name(argument) or Path(argument).exists():
            name, path = model_name(argument), argument
        try:
            check_name(name)
        except ValueError as problem:
            raise BitvitError(f"{argument}: {problem}") from None
        if not path:
            raise BitvitError(f"{argument}: names no file behind the =; expected NAME=PATH")
        if name in found:
            raise BitvitError(f"two models are called {name}: {found[name]} and {path}; give one a name, as NAME=PATH")
        found[name] = path
    return found
