"""The security policy of HTML pages that need nothing else, no server and no network."""

from __future__ import annotations

import base64
import hashlib
from collections.abc import Iterable, Mapping


def security_policy(scripts: Iterable[str], styles: Iterable[str]) -> str:
    """A Content-Security-Policy that permits the given scripts and styles, embedded pictures, and nothing else.

    So text from a run could not run as a script even if it were not escaped, and the page makes no request.
    """

    def hashes(texts: Iterable[str]) -> str:
        digests = dict.fromkeys(hashlib.sha256(text.encode()).digest() for text in texts)
        return " ".join(f"'sha256-{base64.b64encode(digest).decode()}'" for digest in digests)

    policy: Mapping[str, str] = {
        "default-src": "'none'",
        "script-src": hashes(scripts),
        "style-src": hashes(styles),
        "img-src": "data:",
        "base-uri": "'none'",
        "form-action": "'none'",
    }
    return "; ".join(f"{name} {value}" for name, value in policy.items())
