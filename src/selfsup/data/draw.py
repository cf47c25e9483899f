"""Counter-based random numbers: every number is a pure function of (seed, epoch, row, stream name, index).

The generator is splitmix64 (Steele, Lea, Flood 2014, "Fast splittable pseudorandom number generators"), written
in plain torch on int64, so the same bits come out on every device, in every process and in any batch.
"""

from __future__ import annotations

import hashlib
import math

import torch
from torch import Tensor


def _int64(value: int) -> int:
    """The signed 64-bit integer with the bits of `value`."""
    value &= 0xFFFF_FFFF_FFFF_FFFF
    return value - (1 << 64) if value >= 1 << 63 else value


GAMMA = _int64(0x9E37_79B9_7F4A_7C15)
MIX_1 = _int64(0xBF58_476D_1CE4_E5B9)
MIX_2 = _int64(0x94D0_49BB_1331_11EB)


def _shift(x: Tensor, bits: int) -> Tensor:
    """Logical right shift; `>>` on int64 is arithmetic, so the copied sign bits are masked away."""
    return (x >> bits) & ((1 << (64 - bits)) - 1)


def _mix(x: Tensor) -> Tensor:
    """The finalizer of splitmix64."""
    x = (x ^ _shift(x, 30)) * MIX_1
    x = (x ^ _shift(x, 27)) * MIX_2
    return x ^ _shift(x, 31)


class Draw:
    """The random numbers of some rows in one epoch.

    Element i of a row's stream is the same whatever shape was asked for (permutations excepted) and whatever
    other rows stand in the batch. Ask for all the numbers of a purpose in one call: many small draws cost
    several times one large one.

    Attributes:
        seed: the seed of the run.
        epoch: epoch of training; -1 for validation.
        rows: (B,) int64, global row numbers.
    """

    def __init__(self, seed: int, epoch: int, rows: Tensor, prefix: str = "") -> None:
        self.seed, self.epoch, self.rows, self.prefix = seed, epoch, rows, prefix

    def stream(self, name: str) -> Tensor:
        """(B,) int64: the state of each row's stream, from which compiled code draws the same numbers."""
        words = f"{self.seed}/{self.epoch}/{self.prefix}{name}".encode()
        key = _int64(int.from_bytes(hashlib.blake2b(words, digest_size=8).digest(), "little"))
        return _mix(_mix(self.rows * GAMMA + key) + key)

    def _bits(self, name: str, shape: tuple[int, ...]) -> Tensor:
        """64 random bits an element: (B, *shape) int64."""
        index = torch.arange(1, math.prod(shape) + 1, device=self.rows.device)
        return _mix(self.stream(name)[:, None] + index * GAMMA).view(len(self.rows), *shape)

    def uniform(self, name: str, *shape: int) -> Tensor:
        """(B, *shape) float32 in [0, 1): 24 bits, because 53 would round to 1.0 in float32."""
        return _shift(self._bits(name, shape), 40).float() * 2.0**-24

    def integers(self, name: str, high: int | Tensor, *shape: int) -> Tensor:
        """(B, *shape) int64 in [0, high), a number or broadcast against the result; bias below high / 2^63."""
        return _shift(self._bits(name, shape), 1) % high

    def bernoulli(self, name: str, p: float | Tensor, *shape: int) -> Tensor:
        """(B, *shape) bool, true with probability p."""
        return self.uniform(name, *shape) < p

    def normal(self, name: str, *shape: int) -> Tensor:
        """(B, *shape) float32, standard normal (Box and Muller)."""
        bits = self._bits(name, shape)
        radius = torch.sqrt(-2 * torch.log((_shift(bits, 40).float() + 1) * 2.0**-24))
        angle = (bits & 0xFF_FFFF).float() * (2 * math.pi * 2.0**-24)
        return radius * torch.cos(angle)

    def permutation(self, name: str, n: int) -> Tensor:
        """(B, n) int64: a random order of n things for each row."""
        return self._bits(name, (n,)).argsort(dim=1, stable=True)

    def to(self, device: torch.device | str) -> Draw:
        """The same draw on another device."""
        return Draw(self.seed, self.epoch, self.rows.to(device), self.prefix)

    def __getitem__(self, rows: slice) -> Draw:
        """The draw of some of the rows; it gives them the numbers that they have here."""
        return Draw(self.seed, self.epoch, self.rows[rows], self.prefix)

    def part(self, name: str) -> Draw:
        """The same rows with streams of their own, for one part of a fused objective."""
        return Draw(self.seed, self.epoch, self.rows, f"{self.prefix}{name}/")

    def __len__(self) -> int:
        return len(self.rows)
