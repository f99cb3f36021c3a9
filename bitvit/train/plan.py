"""What a training is going to do, and the folder where it is done: kept there, so that it can go on after a stop."""

import dataclasses
import json
from dataclasses import dataclass
from pathlib import Path

from bitvit.files import make_folder, read_json
from bitvit.train.checkpoint import write_bytes
from bitvit.train.settings import DECODER, Settings, TrainingError

__all__ = ["Plan", "RunFolder"]

PLAN, RESULT = "plan.json", "result.json"
FILES = (
    *(PLAN, RESULT, "state.pt", "log.csv", "results.png", "README.md", "unreadable.txt", "packed.safetensors"),
    *("model.safetensors", "config.json", "preprocessor_config.json"),
    *(f"teacher/{name}" for name in ("state.pt", "log.csv", "model.safetensors")),
)
"""What a run leaves in its folder, and what is left out or replaced where it begins anew."""


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
            if path.exists() and (not path.is_dir() or any(path.iterdir())):
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

    def begin(self, plan: Plan) -> None:
        """Make the folder and keep a new plan in it; what an earlier run left there goes.

        Raises BitvitError if it cannot be written.
        """
        make_folder(self.path)
        for name in FILES:
            (self.path / name).unlink(missing_ok=True)
        write_bytes(self.path / PLAN, (json.dumps(dataclasses.asdict(plan), indent=1) + "\n").encode())
