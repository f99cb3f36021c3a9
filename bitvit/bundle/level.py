"""The kernels of a model and its weights for one level: what the process does that compiles for it."""

import json
import sys
from pathlib import Path
from typing import TypedDict

__all__ = ["Program", "Step", "object_name", "write_level"]


class Step(TypedDict):
    """A row of the program."""

    kernel: str
    layer: str
    pieces: int
    arguments: dict[str, int]


class Program(TypedDict):
    """What bitvit_program.c has to say of a level; counts of units are of 4 bytes."""

    kernels: list[str]
    """With scheduling functions behind them."""
    steps: list[Step]
    state_units: int
    scratch_units: int
    output_at: int
    outputs: int


def object_name(kernel: str, suffix: str) -> str:
    """Another one for each level: an archive keeps one of several members of a name."""
    return f"{kernel}_{suffix}.o"


def write_level(model: str, digest: str, place: str, suffix: str, team: bool, part: int, parts: int) -> None:
    """Compile a share of a model's kernels for the target of this process, into a folder.

    model: path of the packed model, whose bytes have this digest. suffix: of the kernels' names. team: whether with the
    functions that share an image among threads. part, parts: every `parts`-th kernel from `part` on. Part 0 writes the
    weights too, into the file weights.bin of the folder, and prints the Program as JSON.
    """
    from bitvit.errors import ModelFileError
    from bitvit.jit.compiler import compile_for_library
    from bitvit.kernels.catalog import Function, run_steps
    from bitvit.model import Network
    from bitvit.modelfile import load_model_file

    folder, file = Path(place), load_model_file(model)
    if file.digest != digest:
        raise ModelFileError(f"{model}: has changed meanwhile; run bitvit bundle again")
    program = Network.read(file.config, file.tensors).program()
    functions: list[Function] = program.functions if team else [*program.kernels, run_steps]
    for function in functions[part::parts]:
        code = compile_for_library(function, f"bitvit_{function.name}_{suffix}")
        (folder / object_name(function.name, suffix)).write_bytes(code)
    if part > 0:
        return
    program.const.tofile(folder / "weights.bin")
    description: Program = {
        "kernels": [function.name for function in functions],
        "steps": [
            {
                "kernel": step.kernel.name,
                "layer": step.layer,
                "pieces": step.pieces,
                "arguments": {name: int(step.arguments[name]) for name in step.arguments.dtype.names or ()},
            }
            for step in program.steps
        ],
        "state_units": program.state_size,
        "scratch_units": program.scratch_size,
        "output_at": program.output.offset,
        "outputs": program.outputs,
    }
    json.dump(description, sys.stdout)
