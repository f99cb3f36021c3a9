"""Mutations of any file: numbers at the limits of their types; bytes flipped, removed, repeated and inserted."""

from random import Random

_NUMBERS = (
    *(0, 1, 2, 3, 4, 5, 7, 8, 9, 15, 16, 31, 32, 63, 64, 65, 127, 128, 255, 256, 257, 1000, 4096),
    *(2**k + d for k in (15, 16, 20, 24, 30, 31, 32, 33, 40, 48, 53, 60, 61, 62, 63, 64) for d in (-1, 0, 1)),
    *(10**9, 10**18, 10**19, 10**30, 2**1023, 2**1024),
)


def number(rng: Random) -> int:
    """An integer at or near which something may overflow; one in ten is negative."""
    value = rng.choice(_NUMBERS)
    return -value if rng.random() < 0.1 else value


def damage(rng: Random, data: bytes) -> bytes:
    """Flip, replace, remove, repeat or insert a few bytes."""
    changed = bytearray(data)
    for _ in range(rng.choice((1, 1, 1, 2, 3, 8))):
        at = rng.randrange(len(changed) + 1)
        match rng.randrange(8):
            case 0 | 1 if at < len(changed):
                changed[at] ^= 1 << rng.randrange(8)
            case 2 if at < len(changed):
                changed[at] = rng.choice((0, 1, 0x7F, 0x80, 0xFF, rng.randrange(256)))
            case 3:
                del changed[at : at + rng.choice((1, 2, 4, 8, 100))]
            case 4:
                changed[at:at] = changed[at : at + rng.randint(1, 16)]
            case 5:
                changed[at:at] = bytes(rng.randrange(256) for _ in range(rng.randint(1, 8)))
            case 6:
                del changed[at:]
            case _:
                size = rng.choice((1, 2, 4, 8))
                changed[at : at + size] = (number(rng) & (1 << 8 * size) - 1).to_bytes(size, "little")
    return bytes(changed)
