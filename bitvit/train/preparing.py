"""What is asked for, and what is chosen for the rest: from a folder of images to the plan of a training."""

import dataclasses
import hashlib
import json
from collections.abc import Callable
from dataclasses import dataclass, replace
from pathlib import Path
from statistics import median

from PIL import Image

from bitvit.conversion import check_target
from bitvit.messages import listing, plural
from bitvit.preprocess import Preprocessing
from bitvit.train.choosing import TEACHER_SHARE, Facts, Wishes, choose, choose_teacher, network_fields
from bitvit.train.imagefolder import digest_of, read_folder
from bitvit.train.plan import Plan, RunFolder
from bitvit.train.settings import DECODER, Settings, TrainingError, changed, read_fields
from bitvit.train.source import Source
from bitvit.train.speed import faster_precision, seconds_an_image
from bitvit.train.start import StartingPoint, read_start
from bitvit.train.teacher import load_teacher

__all__ = ["HOLD_OUT", "Prepared", "Request", "prepare"]

HOLD_OUT = 0.2
LOOKED_AT = 200  # images whose sizes are read
FINE_TUNED = 0.5  # of the learning rate, where weights are not random
VIEWS = 16  # variants of each image that a teacher answers to
MANY, FEWER_VIEWS = 5000, 6


@dataclass(frozen=True, kw_only=True)
class Request:
    """What the user asks for."""

    folder: Path
    output: Path
    run_folder: Path | None = None
    """None: beside the output, named as it is with .run at its end."""
    wishes: Wishes = Wishes()  # noqa: RUF009 - it is frozen
    hold_out: float = HOLD_OUT
    """Share of each class that is held out, where no folder says which images are."""
    config: Path | None = None
    """A file of settings; None: they are chosen."""
    changes: tuple[str, ...] = ()
    """Settings as NAME=VALUE."""
    start: Path | None = None
    teacher: str = "auto"
    """Or "none", or a file."""
    force: bool = False
    threads: int | None = None
    """None: one or all, whichever is faster at the time; with a number of them a run has the same bits twice."""

    @property
    def place(self) -> Path:
        """The folder of the run."""
        return self.run_folder or self.output.with_suffix(".run")

    def options(self) -> list[tuple[str, str]]:
        """What decides about the result, as options of the command."""
        wishes = self.wishes
        given: list[tuple[str, object]] = [
            ("--size", wishes.size),
            ("--window", wishes.window),
            ("--width", wishes.width),
            ("--epochs", wishes.epochs),
            ("--batch-size", wishes.batch_size),
            ("--minutes", wishes.minutes),
            ("--seed", wishes.seed or None),
            ("--hold-out", None if self.hold_out == HOLD_OUT else self.hold_out),
            ("--config", self.config),
            *(("--set", change) for change in self.changes),
            ("--from", self.start),
            ("--teacher", None if self.teacher == "auto" else self.teacher),
        ]
        return [
            (name, f"{value:g}" if isinstance(value, float) else str(value))
            for name, value in given
            if value is not None
        ]

    def arguments(self) -> dict[str, str]:
        """The same with folder and output, as they are kept to know the training again."""
        found = {"the folder": str(self.folder.absolute()), "the output": str(self.output.absolute())}
        for name, value in self.options():
            found[name] = f"{found[name]} {value}" if name in found else value
        if self.config is not None:
            found["the content of --config"] = _digest(self.config)
        return found


@dataclass(frozen=True)
class Prepared:
    """A training that is ready to begin, or to go on."""

    request: Request
    source: Source
    facts: Facts
    sizes: str
    """Of the images, in words."""
    plan: Plan
    folder: RunFolder
    start: StartingPoint | None
    resumed: bool

    @property
    def preprocessing(self) -> Preprocessing:
        """How images are resized and cropped; mean and standard deviation are yet to be measured, unless the model to
        start from has some."""
        if self.start is not None and self.start.preprocessing is not None:
            return self.start.preprocessing
        size = self.plan.settings.network.image_size
        return Preprocessing.for_image_size(size, resize=size)


def prepare(request: Request, say: Callable[[str], None] = lambda _text: None) -> Prepared:
    """Look at the images and choose; nothing is written. Raises BitvitError."""
    check_target(request.output)
    if not request.output.absolute().parent.is_dir():
        raise TrainingError(f"{request.output}: cannot be written: its folder does not exist; make it first")
    if not 0 < request.hold_out < 1:
        raise TrainingError(f"--hold-out {request.hold_out:g}: expected a share between 0 and 1, such as 0.2")
    folder = RunFolder.open(request.place)
    kept = _to_go_on(request, folder)
    say("looking at the images")
    source = read_folder(request.folder, request.hold_out, request.wishes.seed)
    digest = digest_of(source)
    if kept is not None and kept.images != digest:
        raise TrainingError(
            f"{request.place}: the images of {request.folder} are not those that this training was begun with; put "
            "them back, or begin anew with --force"
        )
    facts, sizes = _look(source)
    start = None if request.start is None else read_start(request.start)
    if request.teacher not in ("auto", "none"):
        load_teacher(Path(request.teacher), len(source.labels))  # better known now than after reading all images
    if kept is None:
        settings, teacher = _choose(request, facts, start, say)
        plan = Plan(request.arguments(), digest, settings, teacher, replaces=request.force)
    else:
        plan = kept
    return Prepared(request, source, facts, sizes, plan, folder, start, resumed=kept is not None)


def _to_go_on(request: Request, folder: RunFolder) -> Plan | None:
    """The plan of a training that was stopped and is to go on. Raises TrainingError if another one is in the way."""
    output, kept = request.output, folder.kept
    if request.force:
        return None
    goes_on = kept is not None and not folder.finished
    if output.exists() and not (kept is not None and goes_on and (kept.replaces or folder.wrote(output))):
        raise TrainingError(f"{output}: is there already; name another output, or replace it with --force")
    if kept is None:
        return None
    if folder.finished:
        raise TrainingError(
            f"{folder.path}: holds a training that is finished; train anew with --force, or name another --run-folder"
        )
    asked = request.arguments()
    other = [name for name in {**kept.arguments, **asked} if kept.arguments.get(name) != asked.get(name)]
    if other:
        said = listing(other, show=lambda name: f"{name} {kept.arguments.get(name, 'not given')}")
        raise TrainingError(
            f"{folder.path}: holds a training that was begun with other arguments ({said}); repeat that command, begin "
            "anew with --force, or name another --run-folder"
        )
    return kept


def _look(source: Source) -> tuple[Facts, str]:
    """What is known of the images without reading them all. Raises TrainingError if none can be read."""
    paths = [path for path, _ in source.train]
    found = []
    for path in paths[:: max(1, len(paths) // LOOKED_AT)]:
        try:
            with Image.open(path) as image:
                found.append(image.size)
        except Exception:  # damaged files raise nearly anything; what is wrong is told when they are read
            continue
    if not found:
        raise TrainingError(
            f"{paths[0]}: cannot be read as an image, nor can the others; expected JPEG, PNG or the like"
        )
    sides = round(median(min(size) for size in found))
    typical = sorted(found, key=min)[len(found) // 2]
    same = len(set(found)) == 1
    sizes = f"{'all' if same else 'typically'} {typical[0]} x {typical[1]} pixels"
    return Facts(len(paths), source.labels, sides), sizes


# ---------------------------------------------------------------------------------------------------------- choosing


def _choose(
    request: Request, facts: Facts, start: StartingPoint | None, say: Callable[[str], None]
) -> tuple[Settings, Settings | None]:
    """Settings of the network, and of a teacher if one is to be trained first."""
    wishes, classes = request.wishes, len(facts.labels)

    def speed(settings: Settings) -> float:
        say(f"measuring how fast {settings.network.image_size} px, width {settings.network.widths[0]} train here")
        return seconds_an_image(settings, classes, request.threads)

    if start is not None:
        asked = [f"--{name}" for name in ("size", "window", "width") if getattr(wishes, name) is not None]
        if asked:
            raise TrainingError(f"{listing(asked, show=str)}: comes from the model that --from names; leave it out")
        network = start.network
        wishes = replace(wishes, size=network.image_size, window=network.window_size, width=network.widths[0])
    if request.config is not None:
        fields = read_fields(request.config)
        fields = _with_wishes(fields, wishes)
    else:
        chosen = choose(facts, wishes, speed, faster_precision())
        if start is not None:
            chosen = replace(chosen, network=start.network, learning_rate=FINE_TUNED * chosen.learning_rate)
        fields = chosen.to_dict()
    if start is not None:
        fields["network"] = dataclasses.asdict(start.network)
    settings = _settings(fields, request.changes, request.config)
    if not settings.exportable:
        raise TrainingError(
            "settings: the engine does not know this network; expected network.kind bhvit with attention_levels 3"
        )
    settings.network.config(classes)  # raises ConfigError for what BHViT does not allow
    if settings.batch_size > facts.images:
        raise TrainingError(
            f"batch_size {settings.batch_size}: there are only {plural(facts.images, 'image')} to train on"
        )
    if request.teacher == "none" or not settings.distillation:
        return settings, None
    teacher = choose_teacher(facts, settings, speed) if request.teacher == "auto" else None
    if (teacher is not None or request.teacher != "auto") and request.config is None:
        settings = replace(settings, views=min(settings.epochs, VIEWS if facts.images < MANY else FEWER_VIEWS))
    if teacher is not None and settings.minutes:
        settings = replace(settings, minutes=round((1 - TEACHER_SHARE) * settings.minutes, 3))
    return settings, teacher


def _settings(fields: dict[str, object], changes: tuple[str, ...], config: Path | None) -> Settings:
    plain = json.loads(json.dumps(fields))  # lists in place of tuples, as in a file
    return DECODER.record(Settings, changed(plain, changes), "settings" if config is None else str(config))


def _with_wishes(fields: dict[str, object], wishes: Wishes) -> dict[str, object]:
    """The fields of a file, with what was asked for besides."""
    network = fields.get("network", {})
    if (wishes.size or wishes.width) and isinstance(network, dict):
        widths = network.get("widths") or [32]
        shape = network_fields(wishes.size or network.get("image_size", 32), wishes.window, wishes.width or widths[0])
        kept = () if wishes.width else ("widths", "heads")
        network = {**network, **{name: value for name, value in shape.items() if name not in kept}}
    if wishes.window and isinstance(network, dict):
        network = {**network, "window_size": wishes.window}
    given = {"epochs": wishes.epochs, "batch_size": wishes.batch_size, "minutes": wishes.minutes}
    given["seed"] = wishes.seed or None
    return {**fields, "network": network, **{name: value for name, value in given.items() if value is not None}}


def _digest(path: Path) -> str:
    try:
        return hashlib.sha256(path.read_bytes()).hexdigest()[:16]
    except OSError:
        return ""  # read_fields says what is wrong
