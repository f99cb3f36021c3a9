"""The bit convention: every bit at its place, round trips, tail bits."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from numpy.typing import NDArray

from bitvit import bits

derandomized = settings(derandomize=True, deadline=None, database=None)


def random_signs(rows: int, features: int, seed: int) -> NDArray[np.bool_]:
    return np.random.default_rng(seed).random((rows, features)) < 0.5


@pytest.mark.parametrize(("features", "words"), [(0, 0), (1, 1), (63, 1), (64, 1), (65, 2), (128, 2), (129, 3)])
def test_number_of_words(features: int, words: int) -> None:
    assert bits.words(features) == words


@derandomized
@given(rows=st.integers(0, 9), features=st.integers(1, 300), seed=st.integers(0, 2**32 - 1))
def test_unpack_inverts_pack(rows: int, features: int, seed: int) -> None:
    positive = random_signs(rows, features, seed)
    packed = bits.pack(positive)
    assert packed.dtype == np.uint64
    assert packed.shape == (rows, bits.words(features))
    assert packed.flags.c_contiguous
    unpacked = bits.unpack(packed, features)
    assert unpacked.dtype == np.bool_
    np.testing.assert_array_equal(unpacked, positive)


@derandomized
@given(rows=st.integers(1, 5), words=st.integers(1, 4), seed=st.integers(0, 2**32 - 1))
def test_pack_inverts_unpack(rows: int, words: int, seed: int) -> None:
    packed = np.random.default_rng(seed).integers(0, 2**64, (rows, words), dtype=np.uint64)
    np.testing.assert_array_equal(bits.pack(bits.unpack(packed, 64 * words)), packed)


@pytest.mark.parametrize("features", [1, 7, 63, 64, 65, 130])
def test_feature_i_is_bit_i_mod_64_of_word_i_div_64(features: int) -> None:
    for i in range(features):
        positive = np.zeros((3, features), bool)
        positive[1, i] = True
        packed = bits.pack(positive)
        assert np.argwhere(packed).tolist() == [[1, i // 64]]
        assert int(packed[1, i // 64]) == 1 << i % 64
        np.testing.assert_array_equal(bits.unpack(packed, features), positive)


@pytest.mark.parametrize("features", [1, 31, 32, 33, 63, 64, 65, 127, 200])
def test_tail_bits_are_zero(features: int) -> None:
    packed = bits.pack(np.ones((2, features), bool))
    assert not bits.has_tail_bits(packed, features)
    assert int(np.unpackbits(packed.view(np.uint8)).sum()) == 2 * features


@pytest.mark.parametrize("features", [1, 33, 63, 65, 127, 130])
def test_any_tail_bit_is_found(features: int) -> None:
    for bit in range(features % 64, 64):
        packed = bits.pack(np.zeros((4, features), bool))
        packed[2, -1] |= np.uint64(1) << np.uint64(bit)
        assert bits.has_tail_bits(packed, features)


@pytest.mark.parametrize("features", [64, 128])
def test_whole_words_have_no_tail(features: int) -> None:
    assert not bits.has_tail_bits(np.full((2, features // 64), 2**64 - 1, np.uint64), features)


def test_pack_takes_any_memory_order() -> None:
    positive = random_signs(70, 130, 0)
    np.testing.assert_array_equal(bits.pack(np.asfortranarray(positive)), bits.pack(positive))
    np.testing.assert_array_equal(bits.pack(positive[::-2, ::3]), bits.pack(positive[::-2, ::3].copy()))
    packed = bits.pack(positive)
    np.testing.assert_array_equal(bits.unpack(packed[::-1], 130), positive[::-1])


def test_words_are_little_endian_in_memory() -> None:
    positive = np.zeros((1, 64), bool)
    positive[0, 8] = True
    assert bits.pack(positive).astype("<u8").tobytes() == bytes([0, 1, 0, 0, 0, 0, 0, 0])
    np.testing.assert_array_equal(bits.unpack(bits.pack(positive).astype(">u8"), 64), positive)
