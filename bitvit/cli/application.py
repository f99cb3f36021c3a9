"""The commands as typer has them."""

from collections.abc import Callable
from types import FunctionType
from typing import Annotated, Any, get_args

import typer
from typer.core import TyperCommand, TyperGroup

from bitvit.cli.bench import bench
from bitvit.cli.bundle import bundle
from bitvit.cli.classify import classify
from bitvit.cli.convert import convert
from bitvit.cli.declare import Declared, Option
from bitvit.cli.ending import told
from bitvit.cli.evaluate import evaluate
from bitvit.cli.inspect import inspect
from bitvit.cli.push import push
from bitvit.cli.serve import serve
from bitvit.cli.train import train
from bitvit.cli.verify import verify
from bitvit.cli.warmup import warmup

__all__ = ["app", "paragraphs", "with_typers"]


def _without_types(parameters: list[Any]) -> list[Any]:
    """The same parameters, whose help has no Python types: newer typers write <bool> behind a flag, and <list[Path]>
    behind an argument's metavar."""
    for parameter in parameters:
        if parameter.param_type_name == "argument":
            parameter.display_type_rich = lambda ctx: None  # noqa: ARG005
        elif getattr(parameter, "is_flag", False):
            parameter.metavar = ""
    return parameters


class _Command(TyperCommand):
    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))


class _Commands(TyperGroup):
    def get_params(self, ctx: Any) -> list[Any]:
        return _without_types(super().get_params(ctx))

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        """Refuse an empty argument, which as a path would be the working folder."""
        if "" in args:
            before = args[args.index("") - 1] if args[0] else "bitvit"
            raise typer.BadParameter(
                f"the argument after {before!r} is empty, perhaps from a variable of the shell that is not set; name a "
                "file or folder, or leave it out",
                ctx=ctx,
            )
        return super().parse_args(ctx, args)

    def invoke(self, ctx: Any) -> Any:
        with told():
            return super().invoke(ctx)


class _EvaluateCommand(_Command):
    """Says what is missing: the parser takes a single argument for DATA, and misses MODEL."""

    def parse_args(self, ctx: Any, args: list[str]) -> list[str]:
        try:
            return super().parse_args(ctx, args)
        except typer.BadParameter as problem:
            if problem.param is None or problem.param.name != "models":
                raise
            raise typer.BadParameter(
                "expected a model, or several, and after them the labelled images: a folder with a folder for each "
                "class, or a CSV file",
                ctx=ctx,
                param_hint="MODEL DATA",
            ) from None


def paragraphs(docstring: str) -> str:
    """A docstring with each paragraph on one line, for typer keeps line breaks where a terminal should set them."""
    return "\n\n".join(" ".join(part.split()) for part in docstring.split("\n\n"))


def with_typers(command: Callable[..., None]) -> Callable[..., None]:
    """The same function with typer's arguments and options in place of those that declare.py has."""
    copy = FunctionType(command.__code__, command.__globals__, command.__name__, command.__defaults__)
    copy.__annotations__ = {name: _with_typers(hint) for name, hint in command.__annotations__.items()}
    return copy


def _with_typers(hint: Any) -> Any:
    kind, *said = get_args(hint) or (hint,)
    if len(said) != 1 or not isinstance(said[0], Declared):
        return hint
    make = typer.Option if isinstance(said[0], Option) else typer.Argument
    return Annotated[kind, make(*said[0].names, **said[0].settings)]


app = typer.Typer(
    cls=_Commands,
    name="bitvit",
    no_args_is_help=True,
    pretty_exceptions_enable=False,
    context_settings={"help_option_names": ["-h", "--help"]},
)
for command in (convert, classify, evaluate, inspect, verify, warmup, bench, bundle, serve, push, train):
    app.command(cls=_EvaluateCommand if command is evaluate else _Command, help=paragraphs(command.__doc__ or ""))(
        with_typers(command)
    )


def _print_version(wanted: bool) -> None:
    if wanted:
        from bitvit.version import __version__

        print(f"bitvit {__version__}")
        raise typer.Exit


@app.callback()
def _options(
    version: Annotated[
        bool, typer.Option("--version", callback=_print_version, is_eager=True, help="Print the version and exit.")
    ] = False,
) -> None:
    """Classify images on the CPU with BHViT, a binarized vision transformer."""
