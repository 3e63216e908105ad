"""What CUDA's generator draws, computed on the CPU: Philox4x32-10, as torch and cuRAND use it.

A draw of n numbers starts a thread for each if the GPU executes that many at once. Thread i uses the sequence i of the
generator, and takes the first numbers at the position of the draw. Each draw of up to four numbers per thread moves the
position by four numbers, which is one block of Philox.

Sources: Salmon et al. 2011, Parallel random numbers: as easy as 1, 2, 3; cuRAND's curand_philox4x32_x.h and
curand_uniform.h, curand_normal.h; torch's ATen/native/cuda/DistributionTemplates.h.
"""

from __future__ import annotations

import numpy as np

MULTIPLIERS = np.uint64(0xD2511F53), np.uint64(0xCD9E8D57)
KEY_STEPS = np.uint32(0x9E3779B9), np.uint32(0xBB67AE85)
ROUNDS = 10


def philox(counter: np.ndarray, seed: int) -> np.ndarray:
    """Blocks of Philox4x32-10.

    Args:
        counter: (n, 4) uint32.
        seed: the key, below 2^64.

    Returns:
        (n, 4) uint32.
    """
    a, b, c, d = (counter[:, i].astype(np.uint32) for i in range(4))
    low, high = np.uint32(seed & 0xFFFFFFFF), np.uint32(seed >> 32)
    with np.errstate(over="ignore"):  # the key wraps around
        for _ in range(ROUNDS):
            first, second = MULTIPLIERS[0] * a.astype(np.uint64), MULTIPLIERS[1] * c.astype(np.uint64)
            upper_first, upper_second = ((product >> np.uint64(32)).astype(np.uint32) for product in (first, second))
            a, b, c, d = (
                upper_second ^ b ^ low,
                second.astype(np.uint32),
                upper_first ^ d ^ high,
                first.astype(np.uint32),
            )
            low, high = low + KEY_STEPS[0], high + KEY_STEPS[1]
    return np.stack([a, b, c, d], 1)


def drawn(seed: int, count: int, draw: int) -> np.ndarray:
    """The random bits of a draw, (count, 4) uint32: those of each thread.

    Args:
        seed: of the generator.
        count: of numbers; not more than the GPU executes threads at once.
        draw: how many draws there were since the seed.
    """
    counter = np.zeros((count, 4), np.uint32)
    counter[:, 0], counter[:, 2] = draw, np.arange(count)
    return philox(counter, seed)


def uniform(seed: int, count: int, draw: int = 0) -> np.ndarray:
    """What `tensor.uniform_(generator=...)` draws, (count,) float32, bit for bit. Arguments as in `drawn`."""
    scaled = drawn(seed, count, draw)[:, 0].astype(np.float32) * np.float32(2**-32) + np.float32(2**-33)
    return np.where(scaled == 1, np.float32(0), scaled)  # (0, 1] becomes [0, 1)


def normal(seed: int, count: int, draw: int = 0) -> np.ndarray:
    """What `tensor.normal_(generator=...)` draws, (count,) float64: the GPU's logarithm and sine round differently."""
    bits = drawn(seed, count, draw).astype(np.float64)
    radius = np.sqrt(-2 * np.log(bits[:, 0] * 2.0**-32 + 2.0**-33))
    return radius * np.sin(2 * np.pi * (bits[:, 1] * 2.0**-32 + 2.0**-33))
