"""Counter-based randomness: every number is a function of (seed, epoch, image index, column, salt).

There is no generator state, so a draw does not depend on batch order, batch size, worker count or
device: only integer arithmetic modulo 2**64 is used, which gives the same bits everywhere.
"""

import torch
from torch import Tensor

_WORD = (1 << 64) - 1
_PER_IMAGE = 0x9E3779B97F4A7C15  # odd, so that multiples never collide modulo 2**64
_PER_COLUMN = 0xD1B54A32D192ED03
_MIX_1 = 0xBF58476D1CE4E5B9  # splitmix64's finaliser (Stafford's mix 13)
_MIX_2 = 0x94D049BB133111EB
_MAX_HIGH = 1 << 31


def keyed_uniform(seed: int, epoch: int, index: Tensor, columns: int, salt: int = 0) -> Tensor:
    """Uniform numbers in [0, 1) on the grid of 2**-24.

    `index` (N,) int64 names the images; the result is (N, columns) float32 on its device. Draws of
    the same key with another `columns` agree in the columns they share. Independent uses need
    different salts, and so does a use beside `keyed_integers`, which reads the same bits.
    """
    bits = _mixed(seed, epoch, index, columns, salt)
    return _top_bits(bits, 24).to(torch.float32).mul_(2.0**-24)


def keyed_integers(
    seed: int, epoch: int, index: Tensor, columns: int, high: int, salt: int = 0
) -> Tensor:
    """Integers in [0, high): (N, columns) int64, keyed as in `keyed_uniform`.

    Probabilities differ from 1 / high by less than 2**-32. Raises ValueError unless
    1 <= high <= 2**31.
    """
    if not 1 <= high <= _MAX_HIGH:
        raise ValueError(f"high must lie in 1..2**31, got {high}")
    bits = _mixed(seed, epoch, index, columns, salt)
    return _top_bits(bits, 32).mul_(high).bitwise_right_shift_(32)


def _mixed(seed: int, epoch: int, index: Tensor, columns: int, salt: int) -> Tensor:
    """(N,) int64 -> (N, columns) int64 whose upper 32 bits are well mixed."""
    start = _signed(_key(seed, epoch, salt))
    column = torch.arange(columns, dtype=torch.int64, device=index.device) * _signed(_PER_COLUMN)
    bits = (index * _signed(_PER_IMAGE) + start)[:, None] + column
    bits = (bits ^ _shifted(bits, 30)).mul_(_signed(_MIX_1))
    # splitmix64 ends with one more shift by 31, which leaves the upper 31 bits alone and changes
    # only bit 32 of the 32 that are read here.
    return (bits ^ _shifted(bits, 27)).mul_(_signed(_MIX_2))


def _key(seed: int, epoch: int, salt: int) -> int:
    key = 0
    for word in (seed, epoch, salt):
        key = _mix_word((key ^ (word & _WORD)) + _PER_IMAGE)
    return key


def _mix_word(word: int) -> int:
    word &= _WORD
    word = (word ^ (word >> 30)) * _MIX_1 & _WORD
    word = (word ^ (word >> 27)) * _MIX_2 & _WORD
    return word ^ (word >> 31)


def _signed(word: int) -> int:
    """The int64 with the same 64 bits."""
    return word - (1 << 64) if word >> 63 else word


def _shifted(bits: Tensor, by: int) -> Tensor:
    """Logical right shift: int64 shifts copy the sign bit, so the copies are masked off."""
    return (bits >> by).bitwise_and_((1 << (64 - by)) - 1)


def _top_bits(bits: Tensor, count: int) -> Tensor:
    return _shifted(bits, 64 - count)
