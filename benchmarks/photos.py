"""JPEGs for benchmarks: smooth noise of several scales, which takes as long to decode as photographs."""

from __future__ import annotations

from pathlib import Path

import numpy as np
from PIL import Image

SIDE = 256  # pixels
BASES = 64  # pictures of noise that are mixed


def write_photos(folder: Path, count: int) -> int:
    """Write JPEGs, no two alike; returns their total size in bytes."""
    folder.mkdir()
    rng = np.random.default_rng(0)
    bases = [smooth_noise(rng) for _ in range(BASES)]
    size = 0
    for i in range(count):
        first, second = rng.choice(BASES, 2, replace=False)
        shifted = np.roll(bases[first], tuple(rng.integers(0, SIDE, 2)), (0, 1))
        picture = np.clip(127 + 0.75 * shifted + 0.65 * bases[second][:, ::-1], 0, 255).astype(np.uint8)
        file = folder / f"{i:06d}.jpg"
        Image.fromarray(picture).save(file, quality=90)
        size += file.stat().st_size
    return size


def smooth_noise(rng: np.random.Generator) -> np.ndarray:
    """(SIDE, SIDE, 3) float32 around 0: noise of several scales, more of the coarse ones, mostly of equal channels."""
    total = np.zeros((SIDE, SIDE, 3), np.float32)
    for octave in range(1, 9):
        cells = min(2**octave + 1, SIDE)
        noise = rng.normal(0, 90 * 0.66**octave, (cells, cells, 3)).astype(np.float32)
        noise = 0.7 * noise.mean(-1, keepdims=True) * 3**0.5 + 0.3 * noise
        for channel in range(3):
            image = Image.fromarray(noise[..., channel]).resize((SIDE, SIDE), Image.Resampling.BICUBIC)
            total[..., channel] += np.asarray(image)
    return total
