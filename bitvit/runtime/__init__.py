"""Running a program on images: a team of threads, the memory of each, and a look inside.

Importing the package alone imports nothing: what is offered here is found when first asked for.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from bitvit.runtime.runner import Runner
    from bitvit.runtime.workspace import Workspace

__all__ = ["Runner", "Workspace"]


def __getattr__(name: str) -> Any:
    if name == "Runner":
        from bitvit.runtime.runner import Runner

        return Runner
    if name == "Workspace":
        from bitvit.runtime.workspace import Workspace

        return Workspace
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
