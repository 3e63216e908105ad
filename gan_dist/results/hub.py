"""Generators on the Hugging Face hub."""

from __future__ import annotations

import contextlib
from pathlib import Path

from gan_dist.config import InputError, package_version
from gan_dist.config.extras import require_packages
from gan_dist.files import first_line

FILE = "generator.safetensors"
PACKAGE = "huggingface_hub"


def download_generator(model: str, revision: str | None, max_bytes: int) -> Path:
    """Download a generator's file into the cache of huggingface_hub, unless it is there already.

    What is in the file is not checked.

    Args:
        model: USER/NAME.
        revision: a branch, tag or commit; None: the main branch.
        max_bytes: maximum size of the file. A larger one is not downloaded.

    Returns:
        Its path.

    Raises:
        InputError: it can't be downloaded, or is too large.
    """
    where = f"hf://{model}" + (f"@{revision}" if revision else "")
    require_packages(where, "hub", [PACKAGE])
    from huggingface_hub import HfApi, hf_hub_url

    api = HfApi(library_name="gan_dist", library_version=package_version())
    # Errors are also those of the HTTP library, which depends on the version of huggingface_hub.
    try:
        size = api.get_hf_file_metadata(url=hf_hub_url(model, FILE, revision=revision)).size
    except Exception as error:
        with contextlib.suppress(Exception):
            return Path(api.hf_hub_download(model, FILE, revision=revision, local_files_only=True))
        raise InputError(f"{where} can't be downloaded ({first_line(error)}), and is not in the cache") from error
    if size is not None and size > max_bytes:
        raise InputError(f"{where} has a {FILE} of {size:,} bytes; the maximum is {max_bytes:,}")
    try:
        return Path(api.hf_hub_download(model, FILE, revision=revision))
    except Exception as error:
        raise InputError(f"{where} can't be downloaded ({first_line(error)}); try again") from error
