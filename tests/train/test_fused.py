"""bitvit/train/fused.py: values and gradients are those of PyTorch's operators in float64."""

import copy
from collections.abc import Callable
from functools import partial
from typing import Any

import pytest

torch = pytest.importorskip("torch")

from bitvit.train import fused, operators  # noqa: E402
from bitvit.train.layers import BatchNorm, LayerScale, RPReLU  # noqa: E402
from bitvit.train.network import BHViT  # noqa: E402
from bitvit.train.settings import Network  # noqa: E402

pytestmark = pytest.mark.filterwarnings("ignore::DeprecationWarning")  # PyTorch has its own

Chain = Callable[..., Any]
WIDTH = 4 * fused.LANES
LEADING = (2, 19, 19)  # more than two pieces, the last one not full


class Case:
    """Random inputs and modules of one chain, the same for every way of computing it."""

    def __init__(self, seed: int = 0) -> None:
        self.generator = torch.Generator().manual_seed(seed)
        self.inputs: list[Any] = []
        self.modules: list[Any] = []

    def random(self, *shape: int) -> Any:
        return torch.randn(shape, generator=self.generator, dtype=torch.float64)

    def array(self, width: int, *leading: int) -> int:
        self.inputs.append(self.random(*(leading or LEADING), width))
        return len(self.inputs) - 1

    def bits(self, width: int, *leading: int) -> int:
        """Signs, some of them 0."""
        values = self.random(*leading, width).sign()
        values[self.random(*leading, width) > 2] = 0
        self.inputs.append(values)
        return len(self.inputs) - 1

    def vector(self, width: int) -> int:
        self.inputs.append(0.5 * self.random(width))
        return len(self.inputs) - 1

    def module(self, module: Any) -> int:
        with torch.no_grad():
            for parameter in module.parameters():
                parameter.copy_(parameter + 0.4 * self.random(*parameter.shape))
        self.modules.append(module.double())
        return len(self.modules) - 1


def run(case: Case, chain: Chain, dtype: Any) -> tuple[list[Any], dict[str, Any]]:
    """The chain's results and all gradients, of a loss that weights every result at random."""
    inputs = [x.to(dtype if x.dim() > 1 else torch.promote_types(dtype, torch.float32)) for x in case.inputs]
    inputs = [x.clone().requires_grad_() for x in inputs]
    modules = [copy.deepcopy(m).to(torch.float64 if dtype == torch.float64 else torch.float32) for m in case.modules]
    results = [r for r in chain(inputs, modules) if r is not None]
    generator = torch.Generator().manual_seed(99)
    loss = sum(
        (r.double() * torch.randn(r.shape, generator=generator, dtype=torch.float64)).sum() / 100 for r in results
    )
    loss.backward()
    gradients = {f"input {k}": x.grad for k, x in enumerate(inputs)}
    for k, module in enumerate(modules):
        gradients |= {f"module {k} {name}": p.grad for name, p in module.named_parameters()}
        gradients |= {f"module {k} {name}": b for name, b in module.named_buffers()}
    return [r.detach().double() for r in results], {n: g.double() for n, g in gradients.items() if g is not None}


def norm_sign(case: Case, *, wanted: bool) -> Chain:
    x, move, norm = case.array(WIDTH), case.vector(WIDTH), case.module(BatchNorm(WIDTH))
    return lambda i, m: operators.norm_sign(i[x], m[norm], i[move], wanted=wanted)[0 if wanted else 1 :]


def move_sign(case: Case) -> Chain:
    x, move = case.array(WIDTH), case.vector(WIDTH)
    return lambda i, _m: [operators.move_sign(i[x], i[move])]


def expand(case: Case, tiles: int, copies: int, *, signed: bool) -> Chain:
    y, shortcut, move = case.array(WIDTH), case.array(WIDTH // tiles), case.vector(WIDTH)
    norm, rprelu = case.module(BatchNorm(WIDTH)), case.module(RPReLU(WIDTH))
    return lambda i, m: operators.expand(i[y], i[shortcut], m[norm], m[rprelu], i[move] if signed else None, copies)[
        0 if signed else 1 :
    ]


def contract(case: Case, *, scaled: bool) -> Chain:
    y, shortcut, x = case.array(WIDTH), case.array(WIDTH), case.array(WIDTH)
    norm, rprelu, scale = (case.module(m) for m in (BatchNorm(WIDTH), RPReLU(WIDTH), LayerScale(WIDTH, 0.7)))
    return lambda i, m: [operators.contract(i[y], i[shortcut], i[x], m[norm], m[rprelu], m[scale] if scaled else None)]


def mix(case: Case) -> Chain:
    arrays, biases = [case.array(WIDTH) for _ in range(4)], [case.vector(WIDTH) for _ in range(3)]
    norm, rprelus = case.module(BatchNorm(WIDTH)), [case.module(RPReLU(WIDTH)) for _ in range(3)]
    return lambda i, m: [
        operators.mix(
            i[arrays[0]], [i[k] for k in arrays[1:]], [i[k] for k in biases], [m[k] for k in rprelus], m[norm]
        )
    ]


def shift(case: Case, side: int) -> Chain:
    x, n, taps = case.array(WIDTH, 3, side, side), case.array(WIDTH, 3, side, side), case.array(WIDTH, 9)
    constant = case.vector(WIDTH)
    return lambda i, _m: [operators.shift(i[x], i[n], i[taps].to(i[constant].dtype), i[constant])]


def attend(case: Case, side: int, window: int, heads: int, highest: int) -> Chain:
    coarse = (side // window) ** 2
    query, key, value = (case.bits(WIDTH, 3, side * side + coarse) for _ in range(3))
    case.inputs += [torch.linspace(0.13, 0.41, heads).double(), torch.linspace(-0.2, 0.3, heads).double()]
    return lambda i, _m: [operators.attend(i[query], i[key], i[value], i[3], i[4], window * window, coarse, highest)]


CHAINS: dict[str, Callable[[Case], Chain]] = {
    "norm_sign": lambda case: norm_sign(case, wanted=True),
    "norm_sign, signs alone": lambda case: norm_sign(case, wanted=False),
    "move_sign": move_sign,
    "expand": lambda case: expand(case, 4, 4, signed=True),
    "expand by 2": lambda case: expand(case, 2, 2, signed=True),
    "expand, tiles other than copies": lambda case: expand(case, 2, 1, signed=True),
    "expand, no signs": lambda case: expand(case, 1, 1, signed=False),
    "contract": lambda case: contract(case, scaled=True),
    "contract, no layer scale": lambda case: contract(case, scaled=False),
    "mix": mix,
    **{f"shift on a side of {side}": partial(shift, side=side) for side in (1, 2, 3, 4, 7)},
    "attend, single pixels": lambda case: attend(case, 4, 1, 2, 3),
    "attend, one window": lambda case: attend(case, 3, 3, 4, 3),
    "attend, windows": lambda case: attend(case, 6, 3, 1, 3),
    "attend, one level": lambda case: attend(case, 2, 1, 4, 1),
}


@pytest.mark.parametrize("name", CHAINS)
def test_values_and_gradients_are_pytorchs(name: str, monkeypatch: pytest.MonkeyPatch) -> None:
    case = Case()
    chain = CHAINS[name](case)
    results, gradients = run(case, chain, torch.float32)
    monkeypatch.setattr(fused, "fits", lambda *_: False)
    monkeypatch.setattr(fused, "fits_heads", lambda *_: False)
    expected, slopes = run(case, chain, torch.float64)
    for result, value in zip(results, expected, strict=True):
        assert torch.allclose(result, value, rtol=1e-5, atol=1e-5)
    assert gradients.keys() == slopes.keys()
    for key, slope in slopes.items():
        # Float32 sums of a thousand terms; a gradient that ends at a norm sums to nothing.
        assert torch.allclose(gradients[key], slope, rtol=2e-4, atol=2e-4), key


@pytest.mark.parametrize("name", CHAINS)
def test_half_precision_is_the_same_but_for_rounding(name: str) -> None:
    case = Case()
    chain = CHAINS[name](case)
    case.inputs = [x.bfloat16().double() if x.dim() > 1 else x for x in case.inputs]
    expected, slopes = run(case, chain, torch.float32)
    results, gradients = run(case, chain, torch.bfloat16)
    for result, value in zip(results, expected, strict=True):
        assert torch.allclose(result, value, rtol=2**-6, atol=2**-6)
    for key, slope in slopes.items():
        error = (gradients[key] - slope).norm() / (slope.norm() + 0.1)
        assert error < 0.02, key


def test_results_do_not_depend_on_the_number_of_threads() -> None:
    case = Case()
    chain = CHAINS["expand"](case)
    before = torch.get_num_threads()
    try:
        torch.set_num_threads(1)
        alone = run(case, chain, torch.float32)
        torch.set_num_threads(3)
        shared = run(case, chain, torch.float32)
    finally:
        torch.set_num_threads(before)
    assert all(torch.equal(a, b) for a, b in zip(alone[0], shared[0], strict=True))
    assert all(torch.equal(alone[1][key], shared[1][key]) for key in alone[1])


def test_it_is_used_in_training_and_not_in_evaluation(monkeypatch: pytest.MonkeyPatch) -> None:
    calls: list[str] = []

    def count(name: str) -> Chain:
        own: Chain = getattr(fused, name)

        def counted(*arguments: Any, **keywords: Any) -> Any:
            calls.append(name)
            return own(*arguments, **keywords)

        return counted

    for name in ("norm_sign", "expand", "contract", "mix", "stencil", "attend"):
        monkeypatch.setattr(fused, name, count(name))
    width = fused.LANES
    model = BHViT(Network(image_size=32, widths=(width, width, width, 2 * width), heads=(1, 1, 1, 2)).config(3))
    pixels = torch.zeros(2, 3, 32, 32)
    model.train()(pixels)
    assert set(calls) == {"norm_sign", "expand", "contract", "mix", "stencil", "attend"}
    calls.clear()
    model.eval()(pixels)
    assert "expand" not in calls
    assert "norm_sign" not in calls


def test_other_arrays_are_left_to_pytorch() -> None:
    norm = BatchNorm(WIDTH)
    fitting = torch.zeros(2, WIDTH)
    assert fused.fits(norm, fitting)
    assert not fused.fits(norm.eval(), fitting)
    assert not fused.fits(torch.nn.LayerNorm(WIDTH), fitting)
    assert not fused.fits(None, fitting.double())
    assert not fused.fits(None, fitting.half())
    assert not fused.fits(None, torch.zeros(2, WIDTH + 1))
    assert not fused.fits(None, torch.zeros(2, WIDTH, device="meta"))
    assert not fused.fits_heads(fitting, WIDTH // fused.LANES * 2)


def test_half_precision_rounds_to_even() -> None:
    values = torch.tensor([1 + 2**-8, 1 + 3 * 2**-8, -1 - 2**-8, 1e-40, 3e38, 0] * 16)[: 2 * fused.LANES]
    taps = torch.zeros(9, fused.LANES)
    out = fused.stencil(
        values.view(2, 1, 1, -1), torch.zeros(2, 1, 1, fused.LANES, dtype=torch.bfloat16), taps, taps[0]
    )
    assert torch.equal(out.flatten(), values)
    halves = fused.move_sign(values.bfloat16().view(2, -1), torch.zeros(fused.LANES))
    assert torch.equal(halves.float().flatten(), values.bfloat16().float().sign())
