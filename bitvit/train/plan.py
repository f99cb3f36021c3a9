"""What a training is going to do, and the folder where it is done: kept there, so that it can go on after a stop."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from bitvit.files import make_folder, read_json
from bitvit.train.checkpoint import write_bytes
from bitvit.train.settings import DECODER, Settings, TrainingError

__all__ = ["PACKED", "Plan", "RunFolder"]

PLAN, RESULT, PACKED = "plan.json", "result.json", "packed.safetensors"
FILES = (
    *(RESULT, "state.pt", "log.csv", "results.png", "README.md", "unreadable.txt", PACKED),
    *("model.safetensors", "config.json", "preprocessor_config.json"),
    *(f"teacher/{name}" for name in ("state.pt", "log.csv", "model.safetensors")),
)
"""What a run leaves in its folder beside its plan, and what goes where another begins anew."""


@dataclass(frozen=True)
class Plan:
    """Everything that was chosen; what follows from the images and these is the same again."""

    arguments: dict[str, str]
    """What the user asked for, by option."""
    images: str
    """The digest of the folder's images."""
    settings: Settings
    teacher: Settings | None = None
    """Of a teacher that is trained first."""
    replaces: bool = False
    """Whether the output may be replaced."""


@dataclass(frozen=True)
class RunFolder:
    """The folder of a run."""

    path: Path
    kept: Plan | None = None
    """The plan that is in it."""

    @classmethod
    def open(cls, path: Path) -> "RunFolder":
        """A folder that is there, or is not yet. Raises TrainingError if it holds something else than a run."""
        place = path / PLAN
        if not place.exists():
            if path.exists() and not (path.is_dir() and all(map(_is_unfinished, path.iterdir()))):
                raise TrainingError(
                    f"{path}: is there already and is not the folder of a training; name another one with --run-folder"
                )
            return cls(path)
        found = read_json(place, TrainingError, "the plan of a training")
        return cls(path, DECODER.record(Plan, found, str(place)))

    @property
    def finished(self) -> bool:
        """Whether the run in it has come to its end."""
        return (self.path / RESULT).exists()

    def wrote(self, output: Path) -> bool:
        """Whether an output is what this run, which was killed right after that, has written."""
        packed = self.path / PACKED
        return packed.is_file() and output.is_file() and output.read_bytes() == packed.read_bytes()

    def begin(self, plan: Plan) -> None:
        """Make the folder and keep a new plan in it; what an earlier run left there goes.

        Its plan goes last: without one, nobody would know the folder for that of a training. Raises BitvitError if it
        cannot be written.
        """
        make_folder(self.path)
        for name in FILES:
            (self.path / name).unlink(missing_ok=True)
        write_bytes(self.path / PLAN, (json.dumps(dataclasses.asdict(plan), indent=1) + "\n").encode())


def _is_unfinished(path: Path) -> bool:
    """Whether it is the plan of a run that was killed while it wrote it (bitvit.files.replacing)."""
    return path.name.startswith(".bitvit.")
