"""Bytes that were sound once."""

import random
from collections.abc import Iterator

from fuzz.targets import Target

MAX_BYTES = 1 << 20


def mutants(target: Target, seed: int) -> Iterator[bytes]:
    """Without end: a seed with a few changes, or one mutant on another."""
    rng = random.Random(f"{target.name}:{seed}")
    pool = list(target.seeds)
    while True:
        data = bytearray(rng.choice(pool))
        for _ in range(1 << rng.randrange(4)):
            _change(data, target, rng)
        mutant = bytes(data[:MAX_BYTES])
        if rng.random() < 0.05:
            pool[len(target.seeds) :] = [*pool[len(target.seeds) :][-20:], mutant]
        yield mutant


def _change(data: bytearray, target: Target, rng: random.Random) -> None:
    place = rng.randrange(len(data) + 1)
    end = min(len(data), place + (1 << rng.randrange(10)))
    match rng.randrange(8):
        case 0:
            data[place:place] = rng.randbytes(1 << rng.randrange(5))
        case 1:
            del data[place:end]
        case 2:
            data[place:place] = data[place:end] * rng.choice((1, 2, 50))
        case 3 if place < len(data):
            data[place] ^= 1 << rng.randrange(8)
        case 4 if place < len(data):
            data[place] = rng.choice((0, 1, 127, 128, 255))
        case 5:
            other = rng.choice(target.seeds)
            begin = rng.randrange(len(other) + 1)
            data[place:end] = other[begin : begin + (1 << rng.randrange(10))]
        case 6:
            del data[place:]
        case _:
            word = rng.choice(target.words or (b"\0",))
            data[place : place if rng.random() < 0.5 else end] = word * rng.choice((1, 1, 1, 3, 300))
