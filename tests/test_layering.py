"""The layers of the design: a package imports only from packages above it, a file only from files named before it."""

from __future__ import annotations

import ast
import functools
import sys
from importlib.metadata import packages_distributions

import pytest
from conftest import REPOSITORY

PACKAGE = REPOSITORY / "gan_dist"

# From top to bottom. Four small modules without a package come first.
MODULES = """
files memory seeding tensors
config.errors config.cadence config.extras config.version config.hub config.text config.ranges config.tables
config.sections config.presets
config.derived config.stored config.resume config.nearest_preset config.trackers
config.suggestions config.rules config
config.options config.helptext config.mistakes config.arguments config.run_arguments config.reference
data.cache data.progress data.spec data.prepared data.preparation data.pixels data.batch data.readers.reader
data.readers.location data.readers.idx data.readers.sample data.readers.child
data.readers.download data.readers.mnist
data.readers.published data.readers.cifar10 data.readers.svhn data.readers.names data.readers.zipped
data.readers.listing data.readers.layout data.readers.labels data.readers.picture data.readers.arrow
data.readers.decoder data.readers.decoding
data.readers.picture_build data.readers.prepared_pictures data.readers.folder data.readers.arrays
data.readers.huggingface_load data.readers.huggingface_rows data.readers.huggingface_find data.readers.huggingface
data.readers
data.images data.readahead data.store data.order data.loader data.sources data
models.architecture models.labels models.mlp models.conv models.resampling models.residual
models.memory_format models.average models models.cost
gan.latents gan.labels gan.losses gan.augmentation gan.penalties gan.first_order gan.cuda_graph gan.rows gan.guard
gan.reduction gan.slices gan.stop_signal gan.update gan.overlapped_update gan.steps gan
evaluation.estimates
evaluation.classifier evaluation.classifier_file evaluation.classifier_training evaluation.accuracy_score
evaluation.extractors
evaluation.features evaluation.distances evaluation.manifolds evaluation.classes evaluation.nearest
evaluation.conditional evaluation.metrics
evaluation.floor evaluation.fingerprint evaluation.reference
evaluation.inception_file evaluation.inception_network evaluation.inception evaluation.inception_judge
evaluation.history evaluation.diagnosis
evaluation.training_findings evaluation.image_findings evaluation.doctor evaluation
outputs.lock outputs.records outputs.record_reader outputs.folder outputs.checkpoint_format outputs.checkpoint
outputs.optimizer_state outputs.host_copy outputs.pictures outputs.curves outputs.console outputs.writer
outputs.trackers.media outputs.trackers.protocol outputs.trackers.worker outputs.trackers.background
outputs.trackers.wandb_files outputs.trackers.wandb_server
outputs.trackers.wandb outputs.trackers.tensorboard outputs.trackers.trackio outputs.trackers.several outputs.trackers
outputs
distributed.openmp distributed.descriptors distributed.output_targets distributed.output_streams distributed.environment
distributed.exit_codes distributed.signals distributed.preemption distributed.peers distributed.main_process
distributed.broadcast distributed.group_exit
distributed.local_sockets distributed.shared_memory distributed.cpu_exchange
distributed.numerics distributed.devices distributed.machine
distributed.device_wait distributed.stop_agreement distributed.launch_command distributed.launcher
distributed.agreement distributed
trainer.early trainer.images trainer.schedule trainer.cadence trainer.timing trainer.meter trainer.hyperparameters
trainer.profiling trainer.threads trainer.augmentation
trainer.inception trainer.evaluator trainer.state trainer.checkpointing trainer.tracking trainer.evaluation
trainer.reporting
trainer.session trainer.start
trainer.recovery trainer.gradients trainer.networks trainer.build trainer.loop trainer.forecast
trainer.preflight_checks trainer.preflight trainer
results.preview results.arguments results.output
results.classes results.hub results.generator results.discriminator results.truncation results.sample
results.sample_processes results.sample_formats results.sample_command results.evaluation
results.image_sets results.evaluate results.recorded results.doctor results.diff results.figures results.trend
results.verdict results.settings results.compare results.page_policy
results.export.layers results.export.weights results.export.directions results.export.opinion results.export.explorer
results.export.request results.export.published results.export.measured results.export.card
results.export.html results.export.onnx results.export.hub results.export.formats results.export.command
results.export
results.report.context results.report.pictures results.report.curves results.report.single results.report.evaluated
results.report.several results.report.sections results.report.page results.report
results.watch.text results.watch.plot results.watch.picture results.watch.state results.watch.view results.watch.panels
results.watch.frame results.watch.terminal results.watch
results.animation results.walk results.over_time results.walk_command
results.commands results.report_commands results
__init__ train cli
"""
ORDER = MODULES.split()


@functools.cache
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
        packages = name.split(".")[0], imported.split(".")[0]
        assert packages != ("results", "trainer"), f"{name} imports {imported}: results are made of a run folder"
        if packages[0] == "gan":
            plain = packages[1] in ("gan", "seeding") or imported == "data.batch"
            assert plain, f"{name} imports {imported}: gan/ is plain torch"


def test_nothing_in_the_package_hides_another_module() -> None:
    """accelerate launch puts gan_dist/ itself first on sys.path."""
    others = set(sys.stdlib_module_names) | set(packages_distributions())
    assert not {path.stem for path in PACKAGE.iterdir()} & (others - {"gan_dist", "__init__"})


def test_the_configuration_is_read_without_torch() -> None:
    names = [name for name in ORDER if name.split(".")[0] == "config"] + ["files", "memory", "data.readers.location"]
    names.append("evaluation.inception_file")
    names += ["outputs.lock", "outputs.records", "outputs.record_reader", "outputs.folder", "trainer.early", "train"]
    names += ["results.commands", "results.report_commands", "results.arguments", "results.sample_command"]
    names += ["results.walk_command", "results.export.command", "results.export", "cli"]
    standalone = "openmp descriptors output_targets output_streams environment exit_codes signals"
    names += [f"distributed.{name}" for name in standalone.split()]
    for name in names:
        for node in modules()[name].body:
            if isinstance(node, ast.Import | ast.ImportFrom):
                assert "torch" not in ast.dump(node)
