"""Finds the rows of a Hugging Face data set: in a copy under data.root, or in the cache of the package `datasets`.

The package is used in another process. What it says is kept in a file of the user's cache, so that later starts need
neither the process nor a network.
"""

from __future__ import annotations

import hashlib
import importlib.util
import json
import math
import os
import sys
from pathlib import Path
from typing import Any

import gan_dist
from gan_dist.config import DataConfig, InputError
from gan_dist.data.cache import cache_file, write_cached
from gan_dist.data.readers.child import DownloadError, Script, plain_reason, run_script
from gan_dist.data.readers.huggingface_rows import HubData, parse
from gan_dist.data.readers.names import is_hidden, quoted
from gan_dist.data.readers.reader import Context
from gan_dist.files import MAX_JSON_BYTES, BadFile, parse_json_object, read_file

FORMAT = 1
PACKAGE = "datasets"
GET_PACKAGE = "pip install 'gan_dist[datasets]'"

_SCRIPT = """
import json
sys.path[:] = json.loads(sys.argv.pop(1))
from gan_dist.data.readers.huggingface_load import main
main()
"""
_ENVIRONMENT = {
    "HF_DATASETS_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_PROGRESS_BARS": "1",
    "HF_HUB_DISABLE_TELEMETRY": "1",
    "HF_DATASETS_TRUST_REMOTE_CODE": "0",
    **dict.fromkeys(("USE_TORCH", "USE_TF", "USE_JAX"), "0"),  # or it would look for them
}
_CACHES = ("HF_HOME", "HF_DATASETS_CACHE", "HF_HUB_CACHE", "XDG_CACHE_HOME")


def check(config: DataConfig, name: str) -> None:
    """As `Reader.check`, for the data set with an id."""
    spec = importlib.util.find_spec(PACKAGE)
    if spec is None or spec.origin is None:  # without an origin, it is any folder of that name
        raise InputError(f"data.name={config.name} needs the package {PACKAGE}: {GET_PACKAGE}")
    if config.source == "local" and find_copy(config, name) is None and not os.path.exists(_record(name, None)):
        raise InputError(
            f"data.root={quoted(config.root)} holds no copy of {name}: looked for {quoted(config.root / name)}; "
            "save one there with save_to_disk, or use --data.source auto"
        )


def find_copy(config: DataConfig, name: str) -> Path | None:
    """The folder under the root that holds a copy, ROOT/USER/SET or ROOT/SET; None if there is none."""
    folders = (config.root / name, config.root / name.rpartition("/")[2])
    return next((folder.absolute() for folder in folders if os.path.isdir(folder)), None)


def find(config: DataConfig, name: str, copy: Path | None, context: Context) -> HubData:
    """Find a data set, and download it if it may be.

    Args:
        config: source and download_timeout.
        name: the id.
        copy: of `find_copy`; None: what is in the cache of `datasets`, else a download.
        context: for stops.

    Raises:
        InputError: it can't be loaded, or has no pictures.
        Stopped: a stop was requested.
    """
    record = _record(name, copy)
    version = "" if copy is None else _version(copy)
    if copy is not None or config.source != "download":
        known = _read_record(record, version)
        if known is not None:
            return known
        if copy is None and config.source == "local":
            raise InputError(
                f"data.source=local, but the files of {name} are no longer in the cache of {PACKAGE}, or have changed; "
                "use --data.source auto"
            )
    described = _load(config, name, copy, context)
    try:
        found = parse(described)
    except BadFile as error:
        raise InputError(f"{_shown(config, copy)} {error}; pass another --data.name") from error
    content = json.dumps({"format": FORMAT, "version": version, "data": described}).encode()
    write_cached(record, content, context.announce)
    return found


def _load(config: DataConfig, name: str, copy: Path | None, context: Context) -> dict[str, Any]:
    """Load a data set in another process; returns its description."""
    where, shown = name if copy is None else str(copy), _shown(config, copy)
    path = json.dumps([str(Path(gan_dist.__file__).parent.parent), *sys.path])
    caches = {key: os.path.abspath(os.path.expanduser(os.environ[key])) for key in _CACHES if os.environ.get(key)}
    script = Script(_SCRIPT, [path, where], {**os.environ, **_ENVIRONMENT, **caches})
    if copy is None:
        what, timeout = f"the download of {name}", config.download_timeout
        way_out = f"check the name, or pass --data.root DIR with a copy in DIR/{name}"
    else:
        what, timeout = f"the conversion of {quoted(copy)}", math.inf
        way_out = "replace it"
    try:
        ended = run_script(script, what, timeout, context.stop_requested)
        if ended.code:
            raise DownloadError(ended.reason())
        described = parse_json_object(ended.output.encode())
        if "error" in described:
            raise DownloadError(plain_reason(str(described["error"])))
    except (DownloadError, BadFile) as error:
        raise InputError(f"{shown} could not be loaded ({error}); {way_out}") from error
    if "problem" in described:
        raise InputError(f"{shown} {described['problem']}")
    return described


def _shown(config: DataConfig, copy: Path | None) -> str:
    return f"data.name={config.name}" + ("" if copy is None else f" in {quoted(copy)}")


def _record(name: str, copy: Path | None) -> Path:
    """The file that keeps the description."""
    key = json.dumps([name, None if copy is None else str(copy.resolve())])
    return cache_file(f"huggingface-{hashlib.sha256(key.encode()).hexdigest()[:16]}.json")


def _read_record(file: Path, version: str) -> HubData | None:
    """What is known of a data set, if its files are still there and unchanged."""
    try:
        values = parse_json_object(read_file(file, MAX_JSON_BYTES, follow_links=False))
        if (values.get("format"), values.get("version")) != (FORMAT, version):
            return None
        found = parse(values.get("data"))
    except BadFile:
        return None
    return found if all(file.is_unchanged() for rows in found.splits for file in rows.files) else None


def _version(folder: Path) -> str:
    """Changes with the name, size or time of a file of a folder."""
    found = []
    for path, folders, files in os.walk(folder, onerror=_raise):
        folders[:] = sorted(name for name in folders if not is_hidden(name))
        for name in sorted(name for name in files if not is_hidden(name)):
            try:
                status = os.stat(os.path.join(path, name))
            except OSError as error:
                _raise(error)
            found.append([os.path.join(path, name), status.st_size, status.st_mtime_ns])
    return hashlib.sha256(json.dumps(found).encode()).hexdigest()


def _raise(error: OSError) -> None:
    raise InputError(f"{quoted(str(error.filename))} can't be read ({error.strerror}); make it readable") from error
