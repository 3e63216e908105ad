"""The house of the design: a room imports only from rooms above it, a file only from files named before it."""

from __future__ import annotations

import ast
import sys
from importlib.metadata import packages_distributions

import pytest
from conftest import REPOSITORY

PACKAGE = REPOSITORY / "gan_dist"

# From top to bottom, in the order in which a batch meets them.
MODULES = """
config files memory openmp seeding tensors signals output_streams
suggestions options helptext mistakes launched arguments
data.location data.idx data.download data.sources data.dataset data
models.mlp models.conv models.ema models models.cost
evaluation.cache evaluation.classifier evaluation.observed evaluation.metrics evaluation.reference
evaluation.seen evaluation.doctor evaluation
run.lock run.records run.folder run.early run.checkpoint run.tracking run.samples run.curves run.console
run.disk run.preemption run.peers run.sharedmemory run.launcher run
training.latents training.losses training.penalties training.capture training.guard training.reduction
training.profiling training.update training.meter training.schedule training.timing training.pace training.steps
training.threads training.quality training.state training.saving training.checkup training.outputs
training.agreement training.start training.recovery training.engine training.preflight training
results.generate results.evaluate results.examine results.diff results
__init__ train cli
"""
ORDER = MODULES.split()


def modules() -> dict[str, ast.Module]:
    found = {}
    for file in PACKAGE.rglob("*.py"):
        name = ".".join(file.relative_to(PACKAGE).with_suffix("").parts)
        found[name.removesuffix(".__init__")] = ast.parse(file.read_text())
    return found


def imports(tree: ast.Module, known: set[str]) -> set[str]:
    """The modules of the package that a module imports, wherever in it."""
    names = set()
    for node in ast.walk(tree):
        if isinstance(node, ast.Import):
            names |= {alias.name for alias in node.names}
        elif isinstance(node, ast.ImportFrom):
            assert not node.level, "relative imports hide where things come from"
            full = {f"{node.module}.{alias.name}" for alias in node.names}
            names |= {name if name.removeprefix("gan_dist.") in known else node.module or "" for name in full}
    return {name.removeprefix("gan_dist.") for name in names if name.startswith("gan_dist.")}


def test_every_module_has_its_place() -> None:
    assert set(ORDER) == set(modules())


@pytest.mark.parametrize("name", sorted(modules()))
def test_imports_point_upwards(name: str) -> None:
    everything = modules()
    for imported in imports(everything[name], set(everything)):
        assert ORDER.index(imported) < ORDER.index(name), f"{name} imports {imported}, which is below it"
        rooms = name.split(".")[0], imported.split(".")[0]
        if rooms == ("run", "run"):
            neighbours = ("run.lock", "run.records", "run.folder", "run.peers")
            assert imported in neighbours, f"{name} imports its neighbour {imported}"
        assert rooms != ("results", "training"), f"{name} imports {imported}: results are made of a run's folder"


def test_nothing_in_the_package_hides_another_module() -> None:
    """accelerate launch puts gan_dist/ itself first on sys.path."""
    others = set(sys.stdlib_module_names) | set(packages_distributions())
    assert not {path.stem for path in PACKAGE.iterdir()} & (others - {"gan_dist", "__init__"})


def test_the_configuration_is_read_without_torch() -> None:
    names = "config files memory openmp signals output_streams suggestions options helptext mistakes arguments"
    for name in (*names.split(), "data.location", "run.lock", "run.records", "run.folder", "run.early", "train"):
        for node in modules()[name].body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert "torch" not in ast.dump(node)
