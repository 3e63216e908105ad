"""The sections of a report. A new one is a function, a template of its name, and a line in a table."""

from __future__ import annotations

from collections.abc import Callable
from html.parser import HTMLParser
from typing import NamedTuple

from gan_dist.results.report import evaluated, several, single
from gan_dist.results.report.context import Content, Context


class Section(NamedTuple):
    """A section of the page."""

    title: str
    template: str
    """File in templates/."""
    content: Callable[[Context], Content | None]
    """None: the section is left out."""


def interactive_section(context: Context) -> Content | None:
    """The page that runs the generator, in a frame of its own; left out unless it was asked for."""
    if context.interactive is None:
        return None
    document = context.interactive
    return Content(
        {"document": document}, scripts=contents_of("script", document), styles=contents_of("style", document)
    )


# Id on the page -> section, in order.
SECTIONS_OF_ONE: dict[str, Section] = {
    "verdict": Section("Verdict", "verdict.html", single.verdict_section),
    "generator": Section("Generator", "interactive.html", interactive_section),
    "samples": Section("Samples", "samples.html", single.samples_section),
    "evaluation": Section("Evaluation", "evaluation.html", evaluated.evaluation_section),
    "classes": Section("Classes", "classes.html", evaluated.classes_section),
    "curves": Section("Curves", "curves.html", single.curves_section),
    "findings": Section("Findings", "findings.html", single.findings_section),
    "throughput": Section("Throughput", "throughput.html", single.throughput_section),
    "sessions": Section("Sessions", "sessions.html", single.sessions_section),
    "configuration": Section("Configuration", "configuration.html", single.configuration_section),
    "data": Section("Data", "data.html", single.data_section),
}
SECTIONS_OF_SEVERAL: dict[str, Section] = {
    "comparison": Section("Comparison", "comparison.html", several.comparison_section),
    "strips": Section("Samples", "strips.html", several.strips_section),
    "curves": Section("Curves", "curves_of_runs.html", several.curves_section),
    "findings": Section("Findings", "findings_of_runs.html", several.findings_section),
    "differences": Section("Configuration", "differences.html", several.differences_section),
    "runs": Section("Runs", "runs.html", several.runs_section),
}


class _Contents(HTMLParser):
    """Collects the contents of the elements of one kind."""

    def __init__(self, tag: str) -> None:
        super().__init__()
        self.found: list[str] = []
        self._tag = tag
        self._inside = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._inside = tag == self._tag
        if self._inside:
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != self._tag

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.found[-1] += data


def contents_of(tag: str, document: str) -> list[str]:
    """The contents of the script or style elements of an HTML document, as a browser reads them."""
    parser = _Contents(tag)
    parser.feed(document.replace("\r\n", "\n").replace("\r", "\n"))
    return parser.found
