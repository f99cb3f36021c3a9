"""Which tests are a module's, the quickest first."""

__all__ = ["TESTS"]

_LAYERS = "tests/kernels/test_networks.py"
_SIMD = ("tests/kernels/test_simd.py", "tests/kernels/test_simd_memory.py")
_END = (_LAYERS, "tests/kernels/test_guarded.py")
_FOLDED = ("tests/test_fold.py", "tests/test_pack.py", "tests/test_forks.py", "tests/test_conversion.py")

TESTS: dict[str, tuple[str, ...]] = {
    "bitvit/kernels/attention.py": ("tests/kernels/test_attention.py", *_END),
    "bitvit/kernels/catalog.py": (
        *("tests/kernels/test_catalog.py", "tests/kernels/test_schedule.py", "tests/layers", "tests/bench"),
        *_END,
    ),
    "bitvit/kernels/downsample.py": _END,
    "bitvit/kernels/head.py": ("tests/kernels/test_head.py", *_END),
    "bitvit/kernels/inline.py": ("tests/jit/test_loader.py", _LAYERS),
    "bitvit/kernels/lookup.py": ("tests/kernels/test_matmul.py", "tests/bench/test_limits.py", *_END),
    "bitvit/kernels/matmul.py": ("tests/kernels/test_matmul.py", *_END),
    "bitvit/kernels/mixer.py": ("tests/kernels/test_mixer.py", *_END),
    "bitvit/kernels/mlp.py": _END,
    "bitvit/kernels/neon.py": ("tests/kernels/test_neon.py",),
    "bitvit/kernels/norm.py": ("tests/layers/test_norm.py", *_END),
    "bitvit/kernels/pixels.py": ("tests/kernels/test_pixels.py", *_END),
    "bitvit/kernels/quantizers.py": ("tests/kernels/test_attention.py", *_END),
    "bitvit/kernels/roofline.py": ("tests/kernels/test_roofline.py", "tests/bench/test_limits.py"),
    "bitvit/kernels/rows.py": ("tests/kernels/test_rows.py", *_END),
    "bitvit/kernels/schedule.py": (
        *("tests/kernels/test_schedule.py", "tests/tools/test_threads.py", "tests/bench/test_profile.py"),
        "tests/runtime",
    ),
    "bitvit/kernels/simd.py": (*_SIMD, *_END),
    "bitvit/kernels/stem.py": ("tests/kernels/test_stem.py", *_END),
    "bitvit/kernels/target.py": ("tests/kernels/test_tiles.py", "tests/kernels/test_targets.py"),
    "bitvit/kernels/tiles.py": ("tests/kernels/test_tiles.py", *_END),
    "bitvit/checkpoint/": ("tests/checkpoint", *_FOLDED),
    "bitvit/config.py": ("tests/test_config.py", "tests/checkpoint", *_FOLDED),
    "bitvit/conversion.py": ("tests/test_conversion.py", *_FOLDED),
    "bitvit/fold.py": _FOLDED,
    "bitvit/pack.py": _FOLDED,
}
"""Module, or the beginning of several modules' paths -> files and folders of tests."""
