"""How a command says what its arguments and options are, where typer need not be imported for it.

They stand where typer's own would, in `Annotated[int, Option("--top-k", "-k", min=1)]`, and take the same settings.
application.py gives them to typer; quick.py reads plain command lines by them.
"""

from typing import Any

__all__ = ["Argument", "Declared", "Option"]


class Declared:
    """The names and settings of an argument or option."""

    def __init__(self, *names: str, **settings: Any) -> None:
        self.names = names
        self.settings = settings


class Argument(Declared):
    """What typer.Argument is made of."""


class Option(Declared):
    """What typer.Option is made of; for the quick reading it needs all its names."""
