"""What the sections of a report are made from, and what they return."""

from __future__ import annotations

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

from gan_dist.results.recorded import RecordedRun
from gan_dist.results.verdict import Judged


@dataclass(frozen=True)
class Context:
    """The runs of a report."""

    runs: Sequence[RecordedRun]
    names: Sequence[str]
    """A short name of each run."""
    judged: Sequence[Judged]
    picture_bytes: int
    """Bytes that all pictures may have together, as data URIs."""
    interactive: str | None = None
    """A self-contained HTML document that runs the generator; None: the report has no such section.

    It is shown in a frame of its own, under the policy of the page: its script and style elements work, pictures may be
    data URIs, and attributes with styles or event handlers have no effect.
    """

    @property
    def run(self) -> RecordedRun:
        """The run of a report on one run."""
        return self.runs[0]


@dataclass(frozen=True)
class Content:
    """What a section shows."""

    variables: Mapping[str, Any] = field(default_factory=dict)
    """Of its template."""
    data: Mapping[str, Any] = field(default_factory=dict)
    """For the page's scripts, as JSON can hold it."""
    scripts: Sequence[str] = ()
    styles: Sequence[str] = ()
    """Scripts and styles inside embedded documents, which the page's security policy has to permit."""
