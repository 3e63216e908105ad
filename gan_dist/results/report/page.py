"""Writes the report: one HTML file that needs nothing else, no server and no network."""

from __future__ import annotations

import json
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import jinja2
from markupsafe import Markup

from gan_dist.config import package_version
from gan_dist.outputs.folder import timestamp
from gan_dist.results.doctor import MAX_MOMENTS, examine
from gan_dist.results.figures import info, interval_text, number, value_text
from gan_dist.results.output import check_output, output_file
from gan_dist.results.page_policy import security_policy
from gan_dist.results.recorded import RecordedRun, names_of, read_runs
from gan_dist.results.report.context import Context
from gan_dist.results.report.sections import SECTIONS_OF_ONE, SECTIONS_OF_SEVERAL
from gan_dist.results.report.single import describe_status
from gan_dist.results.verdict import judge

HERE = Path(__file__).parent
SCRIPTS = ("vendor/uPlot.iife.min.js", "theme.js", "charts.js", "samples.js")
STYLES = ("vendor/uPlot.min.css", "page.css")
MIN_MOMENTS = 50  # of the diagnosis of each run
PICTURE_BYTES = 3_600_000  # of data URIs: with scripts and curves, a page stays below 5 MB


def write_report(
    paths: Sequence[Path], output: Path, force: bool = False, interactive: Callable[[], str] | None = None
) -> None:
    """Write the report of one run, or the comparison of several, which may still be training.

    Args:
        paths: run folders.
        output: the file to write.
        force: whether an existing file is replaced.
        interactive: makes the document of `Context.interactive`, once the runs and the output are known to be usable.

    Raises:
        InputError: a folder holds no run or no metrics yet, or the file exists or can't be written.
    """
    runs = read_runs(paths)
    check_output(output, force)
    page = make_page(runs, None if interactive is None else interactive())
    with output_file(output) as temporary:
        temporary.write_text(page, encoding="utf-8")


def make_page(runs: Sequence[RecordedRun], interactive: str | None = None) -> str:
    """The report as HTML."""
    moments = max(MAX_MOMENTS // len(runs), MIN_MOMENTS)
    judged = [judge(run, examine(run, moments)) for run in runs]
    return render(Context(runs, names_of(runs), judged, PICTURE_BYTES, interactive))


def render(context: Context) -> str:
    """The page of a context: the sections that have content."""
    table = SECTIONS_OF_ONE if len(context.runs) == 1 else SECTIONS_OF_SEVERAL
    found = {name: content for name, section in table.items() if (content := section.content(context))}
    scripts, styles = ([(HERE / "static" / file).read_text("utf-8") for file in files] for files in (SCRIPTS, STYLES))
    inside_scripts = [script for content in found.values() for script in content.scripts]
    inside_styles = [style for content in found.values() for style in content.styles]
    data = as_json({name: content.data for name, content in found.items() if content.data})
    page = (
        _environment()
        .get_template("page.html")
        .render(
            context=context,
            sections=[(name, table[name], content.variables) for name, content in found.items()],
            policy=security_policy([*scripts, *inside_scripts], [*styles, *inside_styles]),
            scripts=[Markup(script) for script in scripts],
            styles=[Markup(style) for style in styles],
            data=Markup(data),
            version=package_version(),
            written=timestamp(),
        )
    )
    # JSON can hold halves of surrogate pairs, which UTF-8 can't.
    return page.encode(errors="replace").decode()


def as_json(value: Any) -> str:
    """JSON for a script element, in which no text can end the element."""
    return json.dumps(value, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c")


def _environment() -> jinja2.Environment:
    environment = jinja2.Environment(
        loader=jinja2.FileSystemLoader(HERE / "templates"),
        autoescape=True,
        undefined=jinja2.StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters |= {
        "number": number,
        "interval": interval_text,
        "value_text": value_text,
        "info": info,
        "whole": lambda n: f"{n:,}",
    }
    environment.globals["describe_status"] = describe_status
    return environment
