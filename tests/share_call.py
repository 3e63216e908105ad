"""Started by the launcher: shares images that rank 0 has in each of three ways, and writes what this rank got.

python share_call.py OUTPUT FILE.npz
"""

from __future__ import annotations

import dataclasses
import json
import sys
from pathlib import Path

import torch

from gan_dist.config import Config, DataConfig
from gan_dist.data.images import ImageSet
from gan_dist.data.sources import load_images
from gan_dist.trainer.build import start_processes
from gan_dist.trainer.images import describe_images, share_images


def main(output: Path, file: Path) -> None:
    accelerator = start_processes(Config())
    config = DataConfig(name="arrays", root=file)
    expected = load_images(config, print)
    assert expected.mapped is not None
    elsewhere = dataclasses.replace(expected.mapped, identity=(0, 0, 0))  # as on a host that does not see the file
    got = {}
    for name, mapped in {"in memory": None, "visible": expected.mapped, "invisible": elsewhere}.items():
        described = dataclasses.replace(describe_images(expected), mapped=mapped)
        own: ImageSet | None = expected if accelerator.is_main_process else None
        images, access = share_images(own, described, config, accelerator, print)
        assert torch.equal(images.images, expected.images)
        assert images.labels is not None
        assert expected.labels is not None
        assert torch.equal(images.labels, expected.labels)
        assert images.spec == expected.spec
        got[name] = access
    (output / f"rank-{accelerator.process_index}.json").write_text(json.dumps(got))
    accelerator.end_training()


if __name__ == "__main__":
    main(*map(Path, sys.argv[1:]))
