"""convert: a training checkpoint -> a packed model file. Alone knows the authors' parameter names.

    authors (under vit.encoder.)                  model file (under stages.{s}.)
    layerA.{i}.layernorm_before, GC.move          blocks.{i}.mixer.norm
    layerA.{i}.GC.cov{k}, act{k}                  blocks.{i}.mixer.convs.{k-1}
    layerA.{i}.GC.norm                            blocks.{i}.mixer.out
    layerB.{i}.layernorm_before                   blocks.{i}.attention.norm
    layerB.{i}.attention.attention.token_FA       blocks.{i}.attention.max_share, token_norm
    ….{query,norm q,rprelu q,move q,move q2} …    blocks.{i}.attention.{query,key,value}
    ….att_prob_quantizer | att_prob_clip{,2,3}    blocks.{i}.attention.quantizer
    ….norm_context, rprelu_context, parm          blocks.{i}.attention.context, fine_share
    layerB.{i}.attention.output                   blocks.{i}.attention.output, out
    layer?.{i}.layernorm_after                    blocks.{i}.mlp.norm
    layer?.{i}.intermediate, output               blocks.{i}.mlp.fc1, fc2, out
    layer?.{i}.layerscale_{h,w,ch}{3,5}           blocks.{i}.mlp.taps (and out.bias)
    patch_embed{s}                                downsample

What is folded: batch norms into scale and bias; a move before a sign into a threshold; an RPReLU's outer move into
whatever comes next; layer scales into `out`; the shift residuals into one stencil; the outer norm and the positions of
a float downsampling into its weights and a row per token.
"""

import contextlib
import os
import time
import warnings
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any

import numpy as np
from numpy.typing import NDArray

from bitvit import bits
from bitvit.checkpoint import read_network
from bitvit.config import Config
from bitvit.errors import CheckpointError, ConfigError
from bitvit.fold import (
    Affine,
    Floats,
    ShiftGroup,
    batch_norm,
    binarize,
    pool_adjacent,
    shift_taps,
)
from bitvit.modelfile import MAX_VALUE, expected_tensors, save_model_file
from bitvit.preprocess import IMAGENET_MEAN, IMAGENET_STD, Preprocessing

MAX_ZERO_SHARE = 1e-5  # of the binary weights; trained ones have about 1e-10 (SPEC 8.2)


@dataclass(frozen=True)
class ConversionReport:
    """What `convert` wrote."""

    path: Path
    config: Config
    bytes: int
    binary_weights: int
    float_parameters: int  # in the file, after folding
    zero_weights: int  # centred weights that were exactly 0 and became -1
    warnings: list[str]
    seconds: float


def convert(
    checkpoint: str | os.PathLike[str],
    out: str | os.PathLike[str],
    *,
    config: str | os.PathLike[str] | Mapping[str, Any] | None = None,
    ema: bool = False,
    labels: Sequence[str] | None = None,
    mean: Sequence[float] | None = None,
    std: Sequence[float] | None = None,
    resize: int | str | None = "auto",
    pad: int = 0,
) -> ConversionReport:
    """Convert a BHViT checkpoint (.safetensors or .pth) into a packed model file.

    checkpoint: trained with the authors' code or any with the same parameter names (SPEC section 3).
    out: the file to write; never half-written.
    config: config.json of the training run, as a path or a dict; needed only for what shapes cannot tell.
    ema: take the exponential moving average of the weights (`model_ema`).
    labels: one name a class.
    mean, std: of R, G, B in [0, 1]; default ImageNet's.
    resize, pad: preprocessing of images, see Preprocessing.for_image_size.

    Raises CheckpointError, ConfigError or ModelFileError; nothing is written then.
    """
    start = time.perf_counter()
    source, target = Path(checkpoint), Path(out)
    with contextlib.suppress(OSError, ValueError):  # a name that no file can have is refused where it is written to
        if target.samefile(source):
            raise CheckpointError(f"{out}: is the checkpoint itself; choose another output file")
    if os.path.isdir(target):  # noqa: PTH112 - unlike Path.is_dir never raises
        raise CheckpointError(
            f"{out}: is a folder; name the model file to write, such as {target / 'model.safetensors'}"
        )
    network = read_network(source, config=config, ema=ema)
    loaded, shape = network.checkpoint, network.config
    names = _checked_labels(labels, shape)
    preprocessing = Preprocessing.for_image_size(
        shape.image_size,
        mean=_triple("mean", mean, IMAGENET_MEAN),
        std=_triple("std", std, IMAGENET_STD),
        resize=resize,
        pad=pad,
    )
    packer = _Packer(loaded.state, shape, str(source))
    packer.pack_all()
    notes = packer.zero_notes()
    for note in notes:
        warnings.warn(note, stacklevel=2)
    save_model_file(
        target,
        packer.out,
        config=shape,
        preprocessing=preprocessing,
        labels=names,
        source_sha256=loaded.sha256,
    )
    return ConversionReport(
        path=target,
        config=shape,
        bytes=target.stat().st_size,
        binary_weights=packer.binary_weights,
        float_parameters=sum(t.size for t in packer.out.values() if t.dtype == np.float32),
        zero_weights=packer.zero_weights,
        warnings=notes,
        seconds=time.perf_counter() - start,
    )


def _checked_labels(labels: Sequence[str] | None, config: Config) -> tuple[str, ...] | None:
    if labels is None:
        return None
    if len(labels) != config.num_classes:
        raise ConfigError(
            f"labels: {len(labels)} names for {config.num_classes} classes; give one name a class, in order"
        )
    names = tuple(str(label) for label in labels)
    try:
        "".join(names).encode()
    except UnicodeEncodeError as problem:
        raise ConfigError(
            f"labels: {problem.object[problem.start]!r} is half a letter; give names that are text"
        ) from None
    return names


def _triple(
    name: str, values: Sequence[float] | None, default: tuple[float, float, float]
) -> tuple[float, float, float]:
    if values is None:
        return default
    if len(values) == 1:
        values = [values[0]] * 3
    if len(values) != 3:
        raise ConfigError(f"{name}: {len(values)} values, expected one, or three for R, G, B")
    r, g, b = (float(v) for v in values)
    return r, g, b


@dataclass
class _Packer:
    """Folds a checked state dict into the tensors of a model file."""

    state: Mapping[str, NDArray[Any]]
    config: Config
    where: str
    out: dict[str, NDArray[Any]] = field(default_factory=dict)
    zeros: dict[str, int] = field(default_factory=dict)
    zero_weights: int = 0
    binary_weights: int = 0

    # ------------------------------------------------------------------------------------------------- helpers
    def get(self, name: str) -> Floats:
        """A float parameter, flattened to one dimension if it has only one longer than 1."""
        value = self.state[name].astype(np.float64)
        return value.reshape(-1) if value.size == max(value.shape, default=1) else value

    def put(self, name: str, value: Floats) -> None:
        with np.errstate(over="ignore"):
            folded = value.astype(np.float32)
        if not (np.abs(folded) <= MAX_VALUE).all():  # false for NaN
            raise CheckpointError(
                f"{self.where}: folding '{name}' gives NaN, infinity or numbers beyond {MAX_VALUE:.0e}; a norm's"
                " running_var is negative or a parameter is far out of range. Check the checkpoint's training log for"
                " divergence"
            )
        self.out[name] = folded

    def put_affine(self, prefix: str, affine: Affine) -> None:
        self.put(prefix, np.stack([affine.scale, affine.bias]))

    def norm(self, name: str) -> Affine:
        """The affine map of a norm: all of a batch norm, the part after normalisation of a layer norm."""
        weight, bias = self.get(f"{name}.weight"), self.get(f"{name}.bias")
        if self.config.norm == "layer":
            return Affine(weight, bias)
        with np.errstate(invalid="ignore", divide="ignore"):
            return batch_norm(weight, bias, self.get(f"{name}.running_mean"), self.get(f"{name}.running_var"))

    def put_bits(self, name: str, source: str, weight: NDArray[Any]) -> Floats:
        """Pack latent weights [out, in]; returns the row scales."""
        binary = binarize(weight)
        self.binary_weights += weight.size
        if binary.zeros:
            self.zeros[source] = binary.zeros
            self.zero_weights += binary.zeros
        self.out[name] = bits.pack(binary.positive)
        return binary.scale

    def put_binary(self, prefix: str, source: str, weight: NDArray[Any], norm: Affine, rprelu: str) -> None:
        """Planes, and the affine map and slope behind them; `norm.bias` holds what else is added before RPReLU."""
        row_scale = self.put_bits(f"{prefix}.bits", source, weight)
        norm, slope = norm.plus(-self.get(f"{rprelu}.move1")), self.get(f"{rprelu}.prelu.weight")
        if self.config.norm == "layer":
            self.put(f"{prefix}.affine", np.stack([norm.scale, norm.bias, slope, row_scale]))
        else:
            norm = norm.after(row_scale)
            self.put(f"{prefix}.affine", np.stack([norm.scale, norm.bias, slope]))

    def layer_scale(self, name: str, inner: Floats) -> Affine:
        """The map v -> LS(v + inner) of a layer scale (identity if the model has none); LS is alpha·v + move."""
        if not self.config.layer_scale:
            return Affine(np.ones_like(inner), inner)
        alpha, move = self.get(f"{name}.alpha"), self.get(f"{name}.move")
        return Affine(alpha, alpha * inner + move)

    # ---------------------------------------------------------------------------------------------------- parts
    def pack_all(self) -> None:
        self.stem()
        for s in range(4):
            if s:
                self.downsample(f"stages.{s}.downsample", f"vit.encoder.patch_embed{s}")
            for i in range(self.config.depths[s]):
                first = self.config.depths[s - 1] if s in (1, 3) else 0
                source = f"vit.encoder.{'layerA' if s < 2 else 'layerB'}.{first + i}"
                block = f"stages.{s}.blocks.{i}"
                if s < 2:
                    self.mixer(f"{block}.mixer", source)
                else:
                    self.attention(f"{block}.attention", source)
                self.mlp(f"{block}.mlp", source, s)
        self.head()
        expected = expected_tensors(self.config)
        wrong = {n for n, t in self.out.items() if n not in expected or t.shape != expected[n].shape}
        if wrong or expected.keys() != self.out.keys():  # a bug of this module, not of the user
            raise AssertionError(f"model file schema: {sorted(wrong | (expected.keys() ^ self.out.keys()))}")

    def stem(self) -> None:
        name = "vit.embeddings.patch_embeddings"
        weight, bias = self.state[f"{name}.proj.weight"].astype(np.float64), self.get(f"{name}.proj.bias")
        weight = weight.reshape(len(weight), -1)
        norm = self.norm(f"{name}.norm")
        if self.config.norm == "layer":
            self.put_affine("stem.norm", norm)
        else:
            weight, bias = weight * norm.scale[:, None], bias * norm.scale + norm.bias
        self.put("stem.weight", weight)
        self.put("stem.bias", bias)
        position = self.state["vit.embeddings.position_embeddings"].astype(np.float64)[0]
        self.put("stem.position", position.reshape(len(position), -1).T)

    def mixer(self, prefix: str, source: str) -> None:
        self.put_affine(
            f"{prefix}.norm", self.norm(f"{source}.layernorm_before").plus(self.get(f"{source}.GC.move.bias"))
        )
        shift: Floats = np.zeros(())
        for k in (1, 2, 3):
            weight, act = self.state[f"{source}.GC.cov{k}.weight"], f"{source}.GC.act{k}"
            # channels last, as the bits of a tap are adjacent
            rows = weight.transpose(0, 2, 3, 1).reshape(len(weight), -1)
            conv = f"{prefix}.convs.{k - 1}"
            scale = self.put_bits(f"{conv}.bits", f"{source}.GC.cov{k}.weight", rows)
            bias = self.get(f"{source}.GC.cov{k}.bias") - self.get(f"{act}.move1")
            self.put(f"{conv}.affine", np.stack([scale, bias, self.get(f"{act}.prelu.weight")]))
            shift = shift + self.get(f"{act}.move2")
        norm = self.norm(f"{source}.GC.norm")
        if self.config.norm == "layer":
            self.put(f"{prefix}.shift", shift)
            self.put_affine(f"{prefix}.out", norm)
        else:
            self.put_affine(f"{prefix}.out", norm.plus(norm.scale * shift))

    def attention(self, prefix: str, source: str) -> None:
        inner = f"{source}.attention.attention"
        self.put_affine(f"{prefix}.norm", self.norm(f"{source}.layernorm_before"))
        self.put(f"{prefix}.max_share", self.get(f"{inner}.token_FA.a1"))
        token_norm = Affine(self.get(f"{inner}.token_FA.norm.weight"), self.get(f"{inner}.token_FA.norm.bias"))
        self.put_affine(f"{prefix}.token_norm", token_norm)
        moved: Floats = np.zeros(())
        for z, name in (("q", "query"), ("k", "key"), ("v", "value")):
            self.put(f"{prefix}.{name}.threshold", -self.get(f"{inner}.move{z}"))
            weight, rprelu = f"{inner}.{name}.weight", f"{inner}.rprelu{z}"
            self.put_binary(f"{prefix}.{name}", weight, self.state[weight], self.norm(f"{inner}.norm{z}"), rprelu)
            move2, move = self.get(f"{rprelu}.move2"), self.get(f"{inner}.move{z}2")
            self.refuse_structural_zeros(rprelu, move2 + move)
            self.put(f"{prefix}.{name}.out_threshold", -(move2 + move))
            moved = moved + move2
        self.quantizer(f"{prefix}.quantizer", inner)
        context = self.norm(f"{inner}.norm_context").plus(moved - self.get(f"{inner}.rprelu_context.move1"))
        slope = self.get(f"{inner}.rprelu_context.prelu.weight")
        self.put(f"{prefix}.context", np.stack([context.scale, context.bias, slope]))
        self.put(f"{prefix}.fine_share", self.get(f"{inner}.parm"))
        # The context's outer move passes through fine/coarse mixing unchanged: p·(F + m) + (1 - p)·(K + m).
        moved = self.get(f"{inner}.rprelu_context.move2")
        out = f"{source}.attention.output"
        self.put(f"{prefix}.output.threshold", -(moved + self.get(f"{out}.move")))
        norm = self.norm(f"{out}.norm").plus(moved)
        self.put_binary(
            f"{prefix}.output", f"{out}.dense.weight", self.state[f"{out}.dense.weight"], norm, f"{out}.rprelu"
        )
        self.put_affine(f"{prefix}.out", self.layer_scale(f"{out}.layerscale", self.get(f"{out}.rprelu.move2")))

    def quantizer(self, prefix: str, inner: str) -> None:
        if self.config.quantizer == "levels":
            alpha, zero_point = (self.get(f"{inner}.att_prob_quantizer.{name}") for name in ("alpha", "zero_point"))
            self.put(prefix, np.stack([alpha, zero_point]))
            return
        clip = np.array([self.state[f"{inner}.att_prob_clip{k}"] for k in ("", "2", "3")], np.float64).reshape(3)
        if clip[0] == 0:
            raise CheckpointError(
                f"{self.where}: '{inner}.att_prob_clip' is exactly 0, and probabilities are divided by it; the model"
                " is degenerate. Convert an earlier checkpoint of the run"
            )
        self.put(prefix, clip)

    def mlp(self, prefix: str, source: str, s: int) -> None:
        width, hidden = self.config.hidden_sizes[s], self.config.intermediate_sizes[s]
        norm = self.norm(f"{source}.layernorm_after")
        self.put_affine(f"{prefix}.norm", norm)
        fc1, fc2 = f"{source}.intermediate", f"{source}.output"
        self.put(f"{prefix}.fc1.threshold", -self.get(f"{fc1}.move"))
        weight = f"{fc1}.dense.weight"
        self.put_binary(f"{prefix}.fc1", weight, self.state[weight], self.norm(f"{fc1}.norm"), f"{fc1}.rprelu")
        move2, move = self.get(f"{fc1}.rprelu.move2"), self.get(f"{fc2}.move")
        self.refuse_structural_zeros(f"{fc1}.rprelu", move2 + move)
        self.put(f"{prefix}.fc2.threshold", -(move2 + move))
        weight = f"{fc2}.dense.weight"
        after = self.norm(f"{fc2}.norm").plus(pool_adjacent(move2, hidden // width))
        self.put_binary(f"{prefix}.fc2", weight, self.state[weight], after, f"{fc2}.rprelu")
        out = self.layer_scale(f"{fc2}.layerscale", self.get(f"{fc2}.rprelu.move2"))
        self.put_affine(f"{prefix}.out", out.plus(self.shifts(prefix, source, width, norm)))

    def shifts(self, prefix: str, source: str, width: int, norm: Affine) -> Floats:
        """Write the stencil; returns the shift residuals' constant part per channel."""
        groups, constant = [], np.zeros(width)
        for reach, present in ((1, self.config.shift3), (2, self.config.shift5)):
            if not present:
                continue
            names = [f"{source}.layerscale_{way}{2 * reach + 1}" for way in ("h", "w", "ch")]
            groups.append(ShiftGroup(reach, *(self.get(f"{name}.alpha") for name in names)))
            constant += sum(self.get(f"{name}.move") for name in names)
        if not groups:
            return constant
        taps = shift_taps(groups, width)
        if self.config.norm == "batch":  # the stencil of N2 = scale·x + bias reads x itself
            constant += taps.sum(axis=0) * norm.bias
            taps = taps * norm.scale
        self.put(f"{prefix}.taps", taps)
        return constant

    def downsample(self, prefix: str, source: str) -> None:
        norm0, norm = self.norm(f"{source}.norm0"), self.norm(f"{source}.norm")
        weight = self.state[f"{source}.proj.weight"].transpose(0, 2, 3, 1)  # [out, 2, 2, in]
        flat = weight.reshape(len(weight), -1)
        position = self.state[f"{source}.position_embeddings"].astype(np.float64)[0]
        self.put_affine(f"{prefix}.norm", norm0)
        if self.config.downsampling == "binary":
            self.put(f"{prefix}.threshold", -self.get(f"{source}.move"))
            self.put_binary(prefix, f"{source}.proj.weight", flat, norm, f"{source}.rprelu")
            self.put(f"{prefix}.position", position + self.get(f"{source}.rprelu.move2"))
            return
        wide = flat.astype(np.float64)
        if self.config.norm == "layer":
            self.put_affine(f"{prefix}.out_norm", norm)
        else:
            position, wide = position + norm.bias, norm.scale[:, None] * wide
        self.put(f"{prefix}.weight", wide)
        self.put(f"{prefix}.position", position)

    def head(self) -> None:
        self.put_affine("head.norm", self.norm("vit.layernorm"))
        if self.config.num_classes:
            self.put("head.weight", self.state["classifier.weight"].astype(np.float64))
            self.put("head.bias", self.get("classifier.bias"))

    # ---------------------------------------------------------------------------------------------------- zeros
    def refuse_structural_zeros(self, rprelu: str, offset: Floats) -> None:
        """sgn(0) = 0 has no bit, and a slope of 0 with no offset behind it turns every negative input into 0."""
        count = int(((self.get(f"{rprelu}.prelu.weight") == 0) & (offset == 0)).sum())
        if count:
            raise CheckpointError(
                f"{self.where}: {count} channels of '{rprelu}' have slope 0 and no offset behind it, so their signs"
                " would often be exactly 0, which one bit cannot hold (SPEC 8.2). Train with a nonzero slope or move"
            )

    def zero_notes(self) -> list[str]:
        """A warning about zero weights, or CheckpointError if they are too many to be an accident."""
        if not self.zero_weights:
            return []
        named = ", ".join(f"{name} ({count})" for name, count in list(self.zeros.items())[:4])
        what = f"{self.where}: {self.zero_weights} of {self.binary_weights} centred weights are exactly 0: {named}"
        if self.zero_weights > MAX_ZERO_SHARE * self.binary_weights:
            raise CheckpointError(
                f"{what}. Such weights ignore their input (SPEC 8.2), which one bit cannot hold, and these are too"
                " many to be an accident of rounding; was the model pruned, or trained in float16?"
            )
        return [f"{what}; they became -1, so the answers differ a little from PyTorch's"]
