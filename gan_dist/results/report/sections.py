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
    return Content({"document": context.interactive}, scripts=scripts_in(context.interactive))


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


class _Scripts(HTMLParser):
    """Collects the scripts of a document."""

    def __init__(self) -> None:
        super().__init__()
        self.found: list[str] = []
        self._inside = False

    def handle_starttag(self, tag: str, attrs: object) -> None:
        self._inside = tag == "script"
        if self._inside:
            self.found.append("")

    def handle_endtag(self, tag: str) -> None:
        self._inside = self._inside and tag != "script"

    def handle_data(self, data: str) -> None:
        if self._inside:
            self.found[-1] += data


def scripts_in(document: str) -> list[str]:
    """The contents of the script elements of an HTML document."""
    parser = _Scripts()
    parser.feed(document)
    return parser.found
