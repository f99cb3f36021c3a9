"""The oracle: BHViT inference in plain NumPy, straight from SPEC sections 7 and 8.

It takes a training checkpoint's own tensors and does what the text says, in its order: no packing, no folding, no
shortcut, and nothing from the rest of bitvit. Everything else is judged by it. Top to bottom it is the paper's figure:

    pixels -> stem -> GC blocks, down, GC blocks, down, ViT blocks, down, ViT blocks -> head -> logits

    GC block    x' = x + GC(norm(x))                     y = x' + MLP(norm(x')) + SHIFT(norm(x'))
    ViT block   x' = x + OUT(ATT(norm(x)))               y = x' + MLP(norm(x')) + SHIFT(norm(x'))

Arrays
    Maps are [B, S, S, C] and token sequences [B * windows, N, C]: channels last, whatever the checkpoint holds.
    Every function computes in the dtype of its input map; the public ones cast their input to `dtype` first. Float64
    is the oracle; float32 is one sample of what honest single precision gives.
    Binarised tensors hold -1, 0, +1 in that dtype, so their products are exact integers (below 2**24) in any order.

Arguments that recur
    state   checkpoint tensors under the names of SPEC section 3, without a `module.` prefix
    prefix  path of a module in it; a trailing name is appended with a dot
    trace   called as trace(name, array) for intermediate results, named by module path as in the golden traces:
            floats in `dtype`, bits and levels int8, scores int16. The arrays are the oracle's own: not to be written.

What the state dict tells by the presence of a key is read from there, where it is used: batch or layer norm, float or
binary downsampling, the probability quantizer, layer scales, shifts, the classifier (SPEC section 4); and of what forks
have added (SPEC 7.9) the image norm, the coordinates, sinusoidal positions and attention pooling. A missing tensor is a
`KeyError`; shapes are the caller's to check.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from typing import Any, TypeAlias

import numpy as np
from numpy.typing import DTypeLike, NDArray

__all__ = ["block", "forward", "head", "schedule", "stem"]

Array: TypeAlias = NDArray[Any]
State: TypeAlias = Mapping[str, Array]
Trace: TypeAlias = Callable[[str, Array], None]

EPS = 1e-5  # in every norm, whatever config.json says (SPEC 7.0)
GSB_FLOOR = float(np.float32(1e-5))
PATCH = 4  # side of the stem's patches
GROUPS = 4  # of the token mixer's convolutions
DILATIONS = (1, 3, 5)


# ---------------------------------------------------------------------------------------------------- the network


def forward(
    state: State,
    pixels: Array,
    *,
    depths: Sequence[int],
    num_heads: Sequence[int],
    window_size: int,
    padding: int | None = None,
    top_tokens: int = 0,
    dtype: DTypeLike = np.float64,
    trace: Trace | None = None,
) -> Array:
    """Whole network (SPEC 7.2).

    Args:
        state: checkpoint tensors.
        pixels: [B, 3, S, S], any float dtype, already normalised (SPEC 6).
        depths: 4 block counts.
        num_heads: 4 head counts; the first two are unused, those stages have no attention.
        window_size: side of the attention windows, a divisor of the sides of the last two stages.
        padding: of the merged tokens' cells; default half the window (SPEC 7.9.6).
        top_tokens: if not 0, the head takes the mean of so many tokens (SPEC 7.9.5).
        dtype: float type of all arithmetic.
        trace: see the module's docstring.

    Returns:
        Logits [B, L] in `dtype`; the pooled features [B, C3] if the checkpoint has no classifier.
    """
    x = stem(state, pixels, dtype=dtype, trace=trace)
    for prefix, stage in schedule(depths):
        heads = num_heads[stage]
        x = block(state, prefix, x, num_heads=heads, window_size=window_size, padding=padding, dtype=dtype, trace=trace)
    return head(state, x, top_tokens=top_tokens, dtype=dtype, trace=trace)


def schedule(depths: Sequence[int]) -> list[tuple[str, int]]:
    """The order of execution between stem and head: (prefix, stage) of every block and downsampling (SPEC 7.2).

    A downsampling counts to the stage it leaves. Each entry's input map is the output of the entry before it.
    """
    d0, d1, d2, d3 = depths
    path = "vit.encoder"
    return [
        *[(f"{path}.layerA.{i}", 0) for i in range(d0)],
        (f"{path}.patch_embed1", 0),
        *[(f"{path}.layerA.{i}", 1) for i in range(d0, d0 + d1)],
        (f"{path}.patch_embed2", 1),
        *[(f"{path}.layerB.{i}", 2) for i in range(d2)],
        (f"{path}.patch_embed3", 2),
        *[(f"{path}.layerB.{i}", 3) for i in range(d2, d2 + d3)],
    ]


def stem(state: State, pixels: Array, *, dtype: DTypeLike = np.float64, trace: Trace | None = None) -> Array:
    """Pixels [B, 3, S, S] -> map [B, S0, S0, C0], S0 = S // 4: convolution, norm, GELU, positions (SPEC 7.1)."""
    path = "vit.embeddings"
    pixels = np.asarray(pixels, dtype)
    size = pixels.shape[-1]
    side = size // PATCH
    weight = state[f"{path}.patch_embeddings.proj.weight"].astype(dtype)  # [C0, 3 or 5, 4, 4]
    if f"{path}.stain_norm.inorm.weight" in state:
        pixels = image_norm(state, f"{path}.stain_norm.inorm", pixels)
    if weight.shape[1] == 5:
        pixels = np.concatenate([pixels, np.broadcast_to(coordinates(size), (len(pixels), 2, size, size))], axis=1)
    batch, channels = pixels.shape[:2]
    cut = pixels[:, :, : side * PATCH, : side * PATCH]  # pixels beyond the last whole patch are ignored
    patches = cut.reshape(batch, channels, side, PATCH, side, PATCH).transpose(0, 2, 4, 1, 3, 5)  # [B, y, x, c, i, j]
    x = patches.reshape(batch, side, side, -1) @ weight.reshape(len(weight), -1).T
    x = x + vector(state, f"{path}.patch_embeddings.proj.bias", x)
    emit(trace, f"{path}.patch_embeddings.proj", x)
    x = gelu(norm(state, f"{path}.patch_embeddings.norm", x))
    if f"{path}.position_embeddings" in state:
        positions = state[f"{path}.position_embeddings"]  # [1, C0, S0, S0], the only one channels first
    else:
        positions = sinusoidal_positions(x.shape[-1], side)[None]
    x = x + positions.astype(dtype).transpose(0, 2, 3, 1)
    emit(trace, path, x)
    return x


def image_norm(state: State, prefix: str, pixels: Array) -> Array:
    """Instance norm: each channel of each image by its own mean and variance, [B, 3, S, S] (SPEC 7.9.1)."""
    centred = pixels - pixels.mean(axis=(2, 3), keepdims=True)
    normed = centred / np.sqrt(np.square(centred).mean(axis=(2, 3), keepdims=True) + EPS)
    weight, bias = vector(state, f"{prefix}.weight", pixels), vector(state, f"{prefix}.bias", pixels)
    return normed * weight[:, None, None] + bias[:, None, None]


def coordinates(size: int) -> Array:
    """Channels y and x of an image, from -1 to 1, float32 [2, S, S] (SPEC 7.9.2)."""
    along = line(size)
    return np.stack(np.meshgrid(along, along, indexing="ij"))


def sinusoidal_positions(channels: int, side: int) -> Array:
    """Positions of the stem that are not learned, float32 [C0, S0, S0] (SPEC 7.9.3)."""
    angles = line(side)[:, None] * np.arange(1, channels // 4 + 1, dtype=np.float32)
    waves = [wave(angles.astype(np.float64)).astype(np.float32) for wave in (np.sin, np.cos)]  # [S0, C0/4] each
    along_y = [np.repeat(wave[:, None], side, axis=1) for wave in waves]
    along_x = [np.repeat(wave[None], side, axis=0) for wave in waves]
    return np.concatenate([*along_y, *along_x], axis=-1).transpose(2, 0, 1)


def line(count: int) -> Array:
    """`count` >= 2 float32 numbers from -1 to 1, as PyTorch's linspace has them (SPEC 7.9.2).

    The step is rounded to float32; each number is counted from the nearer end, and rounded once.
    """
    steps, step = np.arange(count), float(np.float32(2) / np.float32(count - 1))
    from_left, from_right = steps * step - 1, 1 - steps[::-1] * step  # float64: exact
    return np.where(steps < count // 2, from_left, from_right).astype(np.float32)


def block(
    state: State,
    prefix: str,
    x: Array,
    *,
    num_heads: int,
    window_size: int,
    padding: int | None = None,
    dtype: DTypeLike = np.float64,
    trace: Trace | None = None,
) -> Array:
    """One encoder block or one downsampling alone, as `prefix` says (SPEC 7.3, 7.4, 7.7).

    Args:
        state: checkpoint tensors.
        prefix: an entry of `schedule`: `vit.encoder.layerA.{i}`, `...layerB.{i}` or `...patch_embed{k}`.
        x: [B, S, S, C], any float dtype: the output map of the entry before.
        num_heads: of this stage; used by layerB only.
        window_size, padding: used by layerB only; see `forward`.
        dtype: float type of all arithmetic.
        trace: see the module's docstring.

    Returns:
        [B, S, S, C], or [B, S // 2, S // 2, Cout] after a downsampling, in `dtype`.
    """
    x = np.asarray(x, dtype)
    if ".patch_embed" in prefix:
        x = downsample(state, prefix, x, trace)
    elif ".layerA." in prefix:
        x = gc_block(state, prefix, x, trace)
    else:
        windows = window_size, window_size // 2 if padding is None else padding
        x = vit_block(state, prefix, x, num_heads, windows, trace)
    emit(trace, prefix, x)
    return x


def head(
    state: State, x: Array, *, top_tokens: int = 0, dtype: DTypeLike = np.float64, trace: Trace | None = None
) -> Array:
    """Map [B, S3, S3, C3] -> logits [B, L], or the pooled features [B, C3] without a classifier (SPEC 7.2)."""
    x = norm(state, "vit.layernorm", np.asarray(x, dtype))
    emit(trace, "vit.layernorm", x)
    pooled = pool_tokens(state, x.reshape(len(x), -1, x.shape[-1]), top_tokens)
    emit(trace, "pooled", pooled)
    if "classifier.weight" not in state:
        return pooled
    logits = pooled @ state["classifier.weight"].astype(dtype).T + vector(state, "classifier.bias", x)
    emit(trace, "logits", logits)
    return logits


def pool_tokens(state: State, tokens: Array, top_tokens: int) -> Array:
    """Tokens [B, N, C3] -> [B, C3]: their mean, or as SPEC 7.9.4 and 7.9.5 say."""
    if "pool.att.weight" in state:
        scores = tokens @ vector(state, "pool.att.weight", tokens) + vector(state, "pool.att.bias", tokens)
        return (softmax(scores)[:, None] @ tokens)[:, 0]
    if top_tokens:
        order = np.argsort(-np.square(tokens).sum(axis=-1), axis=-1, kind="stable")[:, :top_tokens]
        tokens = np.take_along_axis(tokens, order[..., None], axis=1)
    return tokens.mean(axis=1)


# --------------------------------------------------------------------------------------------------------- blocks


def gc_block(state: State, prefix: str, x: Array, trace: Trace | None) -> Array:
    """Convolutional block of stages 0 and 1, [B, S, S, C] -> [B, S, S, C] (SPEC 7.3)."""
    normed = norm(state, f"{prefix}.layernorm_before", x)
    emit(trace, f"{prefix}.layernorm_before", normed)
    x = x + token_mixer(state, f"{prefix}.GC", normed, trace)
    return x + feed_forward(state, prefix, x, trace)


def vit_block(
    state: State, prefix: str, x: Array, num_heads: int, windows: tuple[int, int], trace: Trace | None
) -> Array:
    """Attention block of stages 2 and 3, [B, S, S, C] -> [B, S, S, C]; windows: size and padding (SPEC 7.4)."""
    normed = norm(state, f"{prefix}.layernorm_before", x)
    emit(trace, f"{prefix}.layernorm_before", normed)
    attended = attention(state, f"{prefix}.attention.attention", normed, num_heads, windows, trace)
    x = x + attention_output(state, f"{prefix}.attention.output", attended, trace)
    return x + feed_forward(state, prefix, x, trace)


def feed_forward(state: State, prefix: str, x: Array, trace: Trace | None) -> Array:
    """The second half that both blocks share, MLP(norm(x)) + SHIFT(norm(x)), [B, S, S, C] (SPEC 7.3, 7.4)."""
    normed = norm(state, f"{prefix}.layernorm_after", x)
    emit(trace, f"{prefix}.layernorm_after", normed)
    return mlp(state, prefix, normed, trace) + shifts(state, prefix, normed)


# ------------------------------------------------------------------------------------------------- token mixer (GC)


def token_mixer(state: State, prefix: str, x: Array, trace: Trace | None) -> Array:
    """Three dilated binary convolutions of one bit map, [B, S, S, C] -> [B, S, S, C] (SPEC 7.3)."""
    bits = binarise(x, vector(state, f"{prefix}.move.bias", x), f"{prefix}.bits", trace)
    total = np.zeros_like(x)
    for k, dilation in enumerate(DILATIONS, start=1):
        y = binary_convolution(state, f"{prefix}.cov{k}", bits, dilation)
        emit(trace, f"{prefix}.cov{k}", y)
        total += rprelu(state, f"{prefix}.act{k}", y)
    mixed = norm(state, f"{prefix}.norm", total)
    emit(trace, prefix, mixed)
    return mixed


def binary_convolution(state: State, prefix: str, bits: Array, dilation: int) -> Array:
    """3x3 correlation of 4 groups, stride 1, same size, with bias, [B, S, S, C] -> [B, S, S, C] (SPEC 7.3).

    The *bits* are padded with zeros: a tap outside the map adds nothing, neither +1 nor -1.
    """
    scale, signs = binary_weight(state[f"{prefix}.weight"], bits.dtype)  # [C], [C, C/4, 3, 3]
    side, width = bits.shape[1], signs.shape[1]
    margin = (dilation, dilation)
    padded = np.pad(bits, ((0, 0), margin, margin, (0, 0)))
    dot = np.zeros_like(bits)
    for i in range(3):
        for j in range(3):
            rows = slice(i * dilation, i * dilation + side)
            columns = slice(j * dilation, j * dilation + side)
            for group in range(GROUPS):
                channels = slice(group * width, (group + 1) * width)
                dot[..., channels] += padded[:, rows, columns, channels] @ signs[channels, :, i, j].T
    return scale * dot + vector(state, f"{prefix}.bias", bits)


# ------------------------------------------------------------------------------------------------------- attention


def attention(
    state: State, prefix: str, x: Array, num_heads: int, windows: tuple[int, int], trace: Trace | None
) -> Array:
    """Windowed binary attention with merged tokens, [B, S, S, C] -> [B, S, S, C] (SPEC 7.4.1 to 7.4.8)."""
    tokens = token_set(state, f"{prefix}.token_FA", x, windows, trace)
    query, query_bits = projection(state, prefix, "query", tokens, trace)
    key, key_bits = projection(state, prefix, "key", tokens, trace)
    value, value_bits = projection(state, prefix, "value", tokens, trace)
    context = binary_attention(state, prefix, query_bits, key_bits, value_bits, num_heads, trace)
    emit(trace, f"{prefix}.context", context)
    mixed = norm(state, f"{prefix}.norm_context", context) + query + key + value
    mixed = rprelu(state, f"{prefix}.rprelu_context", mixed)
    emit(trace, f"{prefix}.rprelu_context", mixed)
    fused = fuse(mixed, vector(state, f"{prefix}.parm", x), x.shape[1], windows[0])
    emit(trace, prefix, fused)
    return fused


def token_set(state: State, prefix: str, x: Array, windows: tuple[int, int], trace: Trace | None) -> Array:
    """Map [B, S, S, C] -> [B * windows, w * w + M, C]: each window's pixels, then its image's M merged tokens.

    Normalised by a layer norm, also in batch-norm models (SPEC 7.4.3).
    """
    merged = merged_tokens(x, vector(state, f"{prefix}.a1", x), *windows)
    emit(trace, f"{prefix}.merged", merged)
    fine = split_windows(x, windows[0])
    coarse = np.repeat(merged, len(fine) // len(x), axis=0)  # images are outermost in the windows' order
    tokens = norm(state, f"{prefix}.norm", np.concatenate([fine, coarse], axis=1))
    emit(trace, prefix, tokens)
    return tokens


def split_windows(x: Array, window_size: int) -> Array:
    """Map [B, S, S, C] -> [B * n * n, w * w, C], windows and the tokens inside them row-major (SPEC 7.4.1)."""
    batch, side, _, channels = x.shape
    n, w = side // window_size, window_size
    windows = x.reshape(batch, n, w, n, w, channels).transpose(0, 1, 3, 2, 4, 5)
    return windows.reshape(batch * n * n, w * w, channels)


def join_windows(tokens: Array, side: int, window_size: int) -> Array:
    """The inverse of `split_windows`, [B * n * n, w * w, C] -> [B, S, S, C]."""
    n, w, channels = side // window_size, window_size, tokens.shape[-1]
    windows = tokens.reshape(-1, n, n, w, w, channels)
    return windows.transpose(0, 1, 3, 2, 4, 5).reshape(-1, side, side, channels)


def merged_tokens(x: Array, a1: Array, window_size: int, padding: int) -> Array:
    """Pooled cells of w x w pixels, a1 * max + (1 - a1) * average, [B, S, S, C] -> [B, n * n, C] (SPEC 7.4.2).

    Cell i covers the rows w * i - padding ... of the map: its grid is shifted against the windows, so the first cells
    reach out of the map and the last rows and columns belong to none. `a1` is [C].
    """
    batch, side, _, channels = x.shape
    n, w, shift = side // window_size, window_size, padding

    def cells(fill: float) -> Array:
        shifted = np.full_like(x, fill)
        shifted[:, shift:, shift:] = x[:, : side - shift, : side - shift]
        return shifted.reshape(batch, n, w, n, w, channels)

    average = cells(0.0).sum(axis=(2, 4)) / (w * w)  # for the average, pixels outside the map count as zeros
    maximum = cells(-np.inf).max(axis=(2, 4))  # for the maximum, they do not count
    merged = a1 * maximum + (1 - a1) * average
    return merged.reshape(batch, n * n, channels)


def projection(state: State, prefix: str, name: str, tokens: Array, trace: Trace | None) -> tuple[Array, Array]:
    """Query, key or value of tokens [W, N, C]: the real values and their bits, both [W, N, C] (SPEC 7.4.4)."""
    z = name[0]
    bits = binarise(tokens, vector(state, f"{prefix}.move{z}", tokens), f"{prefix}.{name}.input_bits", trace)
    y = norm(state, f"{prefix}.norm{z}", binary_linear(state, f"{prefix}.{name}", bits)) + tokens
    y = rprelu(state, f"{prefix}.rprelu{z}", y)
    emit(trace, f"{prefix}.rprelu{z}", y)
    return y, binarise(y, vector(state, f"{prefix}.move{z}2", y), f"{prefix}.{name}_bits", trace)


def binary_attention(
    state: State, prefix: str, query: Array, key: Array, value: Array, num_heads: int, trace: Trace | None
) -> Array:
    """Context of the bits of query, key and value, each [W, N, C] -> [W, N, C] (SPEC 7.4.5 to 7.4.7).

    Window by window, because the scores of all windows together can be large; they are kept for `trace` only.
    """
    head_dim = query.shape[-1] // num_heads
    contexts: list[Array] = []
    kept: dict[str, list[Array]] = {"scores": [], "levels": [], "probs": []}
    for window in zip(query, key, value, strict=True):
        q, k, v = (split_heads(bits, num_heads) for bits in window)  # [heads, N, d]
        scores = q @ k.swapaxes(1, 2)  # [heads, N, N], integers
        levels, probs = quantise(state, prefix, softmax(scores / math.sqrt(head_dim)))
        contexts.append(join_heads(probs @ v))
        if trace is not None:
            kept["scores"].append(scores.astype(np.int16))
            kept["probs"].append(probs)
            if levels is not None:
                kept["levels"].append(levels.astype(np.int8))
    for name, arrays in kept.items():
        if arrays:
            emit(trace, f"{prefix}.{name}", np.stack(arrays))
    return np.stack(contexts)


def split_heads(x: Array, num_heads: int) -> Array:
    """[N, C] -> [heads, N, d]; head e owns the channels e * d ... e * d + d - 1 (SPEC 7.4.4)."""
    return x.reshape(len(x), num_heads, -1).transpose(1, 0, 2)


def join_heads(x: Array) -> Array:
    """The inverse of `split_heads`, [heads, N, d] -> [N, C]."""
    return x.transpose(1, 0, 2).reshape(x.shape[1], -1)


def softmax(x: Array) -> Array:
    """Softmax over the last axis."""
    e = np.exp(x - x.max(axis=-1, keepdims=True))
    return e / e.sum(axis=-1, keepdims=True)


def quantise(state: State, prefix: str, probs: Array) -> tuple[Array | None, Array]:
    """Probabilities [heads, N, N] -> (levels 0..3, or None with gsb; quantised probabilities A) (SPEC 7.4.6)."""
    if f"{prefix}.att_prob_clip" in state:
        clips = [vector(state, f"{prefix}.att_prob_clip{i}", probs) for i in ("", "2", "3")]
        return None, gsb(probs, *clips)
    alpha = vector(state, f"{prefix}.att_prob_quantizer.alpha", probs)[:, None, None]
    zero_point = vector(state, f"{prefix}.att_prob_quantizer.zero_point", probs)[:, None, None]
    levels = quantised_levels(probs, alpha, zero_point)
    return levels, levels * alpha


def quantised_levels(probs: Array, alpha: Array, zero_point: Array) -> Array:
    """Default quantizer: levels 0, 1, 2, 3 in the dtype of `probs`; arguments broadcast (SPEC 7.4.6).

    `alpha` is used as stored, whatever its sign, and `zero_point` is not subtracted again. Ties go to even.
    """
    return np.clip(np.rint(3 * probs / alpha + zero_point), 0, 3)


def gsb(probs: Array, a: Array, a2: Array, a3: Array) -> Array:
    """The gsb quantizer over the last axis of `probs`; `a`, `a2`, `a3` broadcast (SPEC 7.4.6).

    `a` divides as it is; the floors apply to the multipliers only. `base - t1` may be -1.
    """
    q = probs / a
    largest = q.max(axis=-1, keepdims=True)
    base = np.clip(np.rint(q), 0, 1)
    t2 = (q > 0.9 * largest).astype(q.dtype)
    t1 = (q > 0.7 * largest).astype(q.dtype)
    step, m2, m3 = (np.maximum(multiplier, GSB_FLOOR) for multiplier in (a, a2, a3))
    return ((base - t1) + (t1 - t2) * m2 + t2 * m3) * step


def fuse(mixed: Array, parm: Array, side: int, window_size: int) -> Array:
    """Tokens [B * n * n, w * w + M, C] -> map [B, S, S, C]: parm * fine + (1 - parm) * coarse (SPEC 7.4.8).

    Coarse: each merged token's mean over the image's windows, repeated over the w x w pixels of *window* i, although
    it was pooled from a cell shifted against it. `parm` is [C].
    """
    n, w, channels = side // window_size, window_size, mixed.shape[-1]
    fine = join_windows(mixed[:, : w * w], side, w)
    grid = mixed[:, w * w :].reshape(-1, n * n, n, n, channels).mean(axis=1)  # [B, n, n, C]
    coarse = grid.repeat(w, axis=1).repeat(w, axis=2)
    return parm * fine + (1 - parm) * coarse


def attention_output(state: State, prefix: str, x: Array, trace: Trace | None) -> Array:
    """Output projection with its own shortcut, [B, S, S, C] -> [B, S, S, C] (SPEC 7.4.9)."""
    bits = binarise(x, vector(state, f"{prefix}.move", x), f"{prefix}.bits", trace)
    y = binary_linear(state, f"{prefix}.dense", bits)
    emit(trace, f"{prefix}.dense", y)
    y = rprelu(state, f"{prefix}.rprelu", norm(state, f"{prefix}.norm", y) + x)
    y = layer_scale(state, f"{prefix}.layerscale", y)
    emit(trace, prefix, y)
    return y


# -------------------------------------------------------------------------------------------------- MLP and shifts


def mlp(state: State, prefix: str, x: Array, trace: Trace | None) -> Array:
    """Two binary linear layers, each with a shortcut, [..., C] -> [..., C]; `prefix` is the block's (SPEC 7.5)."""
    inner, outer = f"{prefix}.intermediate", f"{prefix}.output"

    bits = binarise(x, vector(state, f"{inner}.move", x), f"{inner}.bits", trace)
    hidden = binary_linear(state, f"{inner}.dense", bits)
    emit(trace, f"{inner}.dense", hidden)
    hidden = norm(state, f"{inner}.norm", hidden)
    hidden = rprelu(state, f"{inner}.rprelu", hidden + tile(x, hidden.shape[-1]))
    emit(trace, inner, hidden)

    bits = binarise(hidden, vector(state, f"{outer}.move", x), f"{outer}.bits", trace)
    y = binary_linear(state, f"{outer}.dense", bits)
    emit(trace, f"{outer}.dense", y)
    y = norm(state, f"{outer}.norm", y)
    y = rprelu(state, f"{outer}.rprelu", y + pool(hidden, y.shape[-1]))
    y = layer_scale(state, f"{outer}.layerscale", y)
    emit(trace, outer, y)
    return y


def tile(x: Array, features: int) -> Array:
    """[..., C] -> [..., features]: whole copies side by side; feature i is channel i mod C (SPEC 7.5)."""
    return np.concatenate([x] * (features // x.shape[-1]), axis=-1)


def pool(x: Array, features: int) -> Array:
    """[..., I] -> [..., features]: the mean of each run of I / features adjacent channels (SPEC 7.5)."""
    return x.reshape(*x.shape[:-1], features, -1).mean(axis=-1)


def shifts(state: State, prefix: str, x: Array) -> Array:
    """The sum of the shift residuals that the checkpoint has, [B, S, S, C] -> [B, S, S, C] (SPEC 7.6).

    Per reach: the mean over 2 * reach + 1 circular shifts along y (h), along x (w), and shifted channel quarters (ch).
    """
    total = np.zeros_like(x)
    for size, reach in ((3, 1), (5, 2)):
        if f"{prefix}.layerscale_h{size}.alpha" in state:
            total += layer_scale(state, f"{prefix}.layerscale_h{size}", rolled_mean(x, reach, axis=1))
            total += layer_scale(state, f"{prefix}.layerscale_w{size}", rolled_mean(x, reach, axis=2))
            total += layer_scale(state, f"{prefix}.layerscale_ch{size}", rolled_quarters(x, reach))
    return total


def rolled_mean(x: Array, reach: int, axis: int) -> Array:
    """Mean of x rolled by -reach ... reach along an axis, circularly; the shape of x (SPEC 7.6)."""
    steps = range(-reach, reach + 1)
    total = np.zeros_like(x)
    for step in steps:
        total += np.roll(x, step, axis)
    return total / len(steps)


def rolled_quarters(x: Array, reach: int) -> Array:
    """Channel quarters of x [B, S, S, C] rolled down, up, right, left by `reach`; the shape of x (SPEC 7.6)."""
    quarter = math.ceil(x.shape[-1] / 4)
    moves = ((reach, 1), (-reach, 1), (reach, 2), (-reach, 2))  # np.roll(x, +r)[y] is x[y - r]
    rolled = [np.roll(x[..., i * quarter : (i + 1) * quarter], *move) for i, move in enumerate(moves)]
    return np.concatenate(rolled, axis=-1)


# ---------------------------------------------------------------------------------------------------- downsampling


def downsample(state: State, prefix: str, x: Array, trace: Trace | None) -> Array:
    """2x2 convolution of stride 2, real or binary, [B, s, s, Cin] -> [B, s // 2, s // 2, Cout] (SPEC 7.7)."""
    x = norm(state, f"{prefix}.norm0", x)
    weight = state[f"{prefix}.proj.weight"]  # [Cout, Cin, 2, 2]
    if f"{prefix}.rprelu.move1" in state:
        bits = binarise(x, vector(state, f"{prefix}.move", x), f"{prefix}.bits", trace)
        scale, signs = binary_weight(weight, x.dtype)
        y = scale * convolve_patches(bits, signs)
        emit(trace, f"{prefix}.proj", y)
        average = split_patches(x).mean(axis=3)
        y = norm(state, f"{prefix}.norm", y) + tile(average, len(weight))
        y = rprelu(state, f"{prefix}.rprelu", y)
    else:
        y = convolve_patches(x, weight.astype(x.dtype))
        emit(trace, f"{prefix}.proj", y)
        y = norm(state, f"{prefix}.norm", y)
    positions = state[f"{prefix}.position_embeddings"].astype(x.dtype)  # [1, S * S, Cout], tokens row-major
    return y + positions.reshape(1, *y.shape[1:])


def split_patches(x: Array) -> Array:
    """[B, s, s, C] -> [B, s // 2, s // 2, 4, C]; the four pixels row-major; a trailing odd row or column is dropped."""
    batch, side, _, channels = x.shape
    half = side // 2
    cut = x[:, : 2 * half, : 2 * half].reshape(batch, half, 2, half, 2, channels)
    return cut.transpose(0, 1, 3, 2, 4, 5).reshape(batch, half, half, 4, channels)


def convolve_patches(x: Array, weight: Array) -> Array:
    """2x2 convolution of stride 2 without bias, [B, s, s, Cin] by [Cout, Cin, 2, 2] -> [B, s // 2, s // 2, Cout]."""
    patches = split_patches(x)
    matrix = weight.transpose(0, 2, 3, 1).reshape(len(weight), -1)  # [Cout, (i, j, c)]
    return patches.reshape(*patches.shape[:3], -1) @ matrix.T


# ------------------------------------------------------------------------------------------------------- operators


def binarise(x: Array, offset: Array, name: str, trace: Trace | None) -> Array:
    """sgn(x + offset) as -1, 0, +1 in the dtype of x; sgn(0) = sgn(-0) = 0; traced under `name` (SPEC 8.2)."""
    bits = np.sign(x + offset)
    if trace is not None:
        trace(name, bits.astype(np.int8))
    return bits


def binary_weight(weight: Array, dtype: DTypeLike) -> tuple[Array, Array]:
    """Latent weight [O, ...] -> scale [O] and signs [O, ...], whose product is the binary weight (SPEC 8.1).

    The scale is the row's mean absolute value before centring, the sign is taken after; a weight equal to its row's
    mean has sign 0. In float64 whatever `dtype` is: a sum of float32 values of like size is then exact, hence also
    which weights equal their mean.
    """
    rows = weight.reshape(len(weight), -1).astype(np.float64)
    scale = np.abs(rows).mean(axis=1)
    signs = np.sign(rows - rows.mean(axis=1, keepdims=True))
    return scale.astype(dtype), signs.reshape(weight.shape).astype(dtype)


def binary_linear(state: State, prefix: str, bits: Array) -> Array:
    """Bits [..., K] by the binarised `weight` [O, K] -> [..., O]; never a bias (SPEC 1, BLIN)."""
    scale, signs = binary_weight(state[f"{prefix}.weight"], bits.dtype)
    return scale * (bits @ signs.T)


def norm(state: State, prefix: str, x: Array) -> Array:
    """Batch norm if the checkpoint has running statistics here, else layer norm over the channels (SPEC 7.0)."""
    if f"{prefix}.running_mean" in state:
        mean = vector(state, f"{prefix}.running_mean", x)
        variance = vector(state, f"{prefix}.running_var", x)
    else:
        mean = x.mean(axis=-1, keepdims=True)
        variance = np.square(x - mean).mean(axis=-1, keepdims=True)
    normed = (x - mean) / np.sqrt(variance + EPS)
    return normed * vector(state, f"{prefix}.weight", x) + vector(state, f"{prefix}.bias", x)


def rprelu(state: State, prefix: str, x: Array) -> Array:
    """PReLU between two moves, per channel of x [..., C]; the slope may be negative or above 1 (SPEC 1)."""
    t = x - vector(state, f"{prefix}.move1", x)
    return np.where(t > 0, t, vector(state, f"{prefix}.prelu.weight", x) * t) + vector(state, f"{prefix}.move2", x)


def layer_scale(state: State, prefix: str, x: Array) -> Array:
    """x * alpha + move per channel of x [..., C]; x itself if the checkpoint has no such layer scale (SPEC 1)."""
    if f"{prefix}.alpha" not in state:
        return x
    return x * vector(state, f"{prefix}.alpha", x) + vector(state, f"{prefix}.move", x)


def gelu(x: Array) -> Array:
    """Exact GELU, x / 2 * (1 + erf(x / sqrt 2)); NumPy has no erf, the standard library's is exact (SPEC 7.1)."""
    erf = np.vectorize(math.erf, otypes=[np.float64])(x / math.sqrt(2)).astype(x.dtype)
    return x * 0.5 * (1 + erf)


def vector(state: State, name: str, like: Array) -> Array:
    """A per-channel parameter, stored as [C], [1, C, 1, 1], [1, 1, C] or a scalar: [C] (or [1]), dtype of `like`."""
    return state[name].reshape(-1).astype(like.dtype)


def emit(trace: Trace | None, name: str, array: Array) -> None:
    """Hand an intermediate result to the observer, if there is one."""
    if trace is not None:
        trace(name, array)
