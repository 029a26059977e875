"""Variables from a run's folder or a weights file: those to use, and those to start from."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
from flax.traverse_util import flatten_dict, unflatten_dict

from stf_jax.config import IMAGENET_RESNET50, RANDOM, Config
from stf_jax.data.layout.tracklets import TrackletTable
from stf_jax.errors import UserError
from stf_jax.models import TemporalFusionNet, build_model
from stf_jax.models.temporal_fusion_net import STAGES
from stf_jax.models.variables import init_variables
from stf_jax.models.weights.files import read_tensors
from stf_jax.models.weights.location import locate_weights
from stf_jax.models.weights.pretrained import load_pretrained, variables_from_torch
from stf_jax.models.weights.torch_names import group_of, reference_name
from stf_jax.run import checkpoint
from stf_jax.run.run_files import read_run_files, run_config
from stf_jax.run.tensor_checksums import module_of

# Groups of the stages' own statistics.
_OWN = tuple(STAGES.values())
# What a model may have more or less of than the run that it starts from.
_PARTS = ("intra_attention", "relation", "stage_attention", "stage_gate", "neck", *_OWN)


def default_checkpoint(workdir: Path) -> str:
    """Return which checkpoint of a run is used where none is asked for.

    "best" where the run evaluates on `val` while it trains; "latest" where it evaluates on `test`:
    the best of several on the queries that are reported is too good.
    """
    files = read_run_files(workdir)
    on_val = files is not None and files.config.get("data", {}).get("eval_subset") == "val"
    scored = any(entry.is_best for entry in checkpoint.describe(workdir / "checkpoints"))
    return "best" if on_val and scored else "latest"


def is_chosen_on(workdir: Path, which: str, table: TrackletTable) -> bool:
    """Whether checkpoint `which` is the best by its scores on `table` itself."""
    if which != "best":
        return False
    (best,) = (e for e in checkpoint.describe(workdir / "checkpoints") if e.is_best)
    # Older runs did not keep what they were scored on: most likely this.
    return best.metrics.get(checkpoint.SUBSET, table.checksum) == table.checksum


def restore_run(config: Config, workdir: Path, which: str) -> tuple[TemporalFusionNet, Any, int]:
    """Return the model, its variables and the step of checkpoint `which` of the run in `workdir`.

    Without a classifier: neither scoring nor matching needs one, and it may be of any size.
    Raises UserError where there is no such checkpoint, or one of another model.
    """
    model = build_model(config.model, 0)
    # Shapes alone: compiling an initialisation would take longer than reading the weights.
    size = config.data.height, config.data.width
    template = jax.eval_shape(lambda: init_variables(model, config.seed, *size))
    step = checkpoint.find_step(workdir / "checkpoints", which)
    variables, _ = checkpoint.restore_model(
        workdir / "checkpoints", template, step, optional=("classifier",)
    )
    return model, variables, step


def run_variables(workdir: Path, which: str | None = None) -> dict[str, Any]:
    """Return all variables, numpy arrays, of checkpoint `which` of a run, its classifier too.

    By default of `default_checkpoint`'s. Raises UserError where there is none.
    """
    files, config = read_run_files(workdir), run_config(workdir)
    model = build_model(config.model, len(files.labels) if files else 0)
    size = config.data.height, config.data.width
    template = jax.eval_shape(lambda: init_variables(model, config.seed, *size))
    chosen = which or default_checkpoint(workdir)
    return checkpoint.restore_model(workdir / "checkpoints", template, chosen)[0]


def restore_weights(config: Config, source: str) -> tuple[TemporalFusionNet, Any]:
    """Return the model and its variables of a file of weights or hf:// address, without classifier.

    Raises UserError where they do not fit; with `config.pretrained_partial` whole parts but the
    backbone may be missing and are initialised.
    """
    model = build_model(config.model, 0)

    def init() -> dict[str, Any]:
        return init_variables(model, config.seed, config.data.height, config.data.width)

    template = jax.eval_shape(init)
    tensors = {
        name: array
        for name, array in read_tensors(locate_weights(source)).items()
        if group_of(reference_name(name)) != "classifier"  # for as many people as it likes
    }
    found = variables_from_torch(tensors, model, partial=config.pretrained_partial, source=source)
    merged = {**flatten_dict(template), **flatten_dict(found)}
    return model, _filled(unflatten_dict(merged), init)


def check_pretrained(config: Config) -> None:
    """Raise UserError where `config.pretrained` names no file and no run with a checkpoint.

    A file of the hub is fetched; whether the weights fit is `starting_variables`' to say.
    """
    source, backbone = config.pretrained, config.model.backbone
    if source == RANDOM:
        return
    try:
        if Path(source).is_dir():
            which = default_checkpoint(Path(source))
            checkpoint.find_step(Path(source) / "checkpoints", which)
        elif source == IMAGENET_RESNET50 and backbone != "resnet50":
            raise UserError(
                f"config.pretrained: the default is a ResNet-50's file, config.model.backbone is "
                f"{backbone}; name a file of that one's weights"
            )
        else:
            locate_weights(source)
    except UserError as error:
        hint = "or start from random weights: --config.pretrained=none"
        raise UserError(f"{error}; {hint}") from error


def starting_variables(
    model: TemporalFusionNet, config: Config, *, report: Callable[[str], None]
) -> dict[str, Any]:
    """Return the variables that training starts from, as `config.pretrained` says.

    "none" is random weights; a folder is another run's workdir (its default checkpoint; a
    classifier of another number of identities is re-initialised, which `report` gets, and with
    `config.pretrained_partial` attentions and neck that differ); anything else a weights file or
    hf:// address for `models.weights.pretrained`. Raises UserError where it does not fit.
    """

    def init() -> dict[str, Any]:
        return init_variables(model, config.seed, config.data.height, config.data.width)

    source = config.pretrained
    if source == RANDOM:
        return init()
    # Shapes alone: weights that do not fit are reported before an initialisation is compiled.
    template = jax.eval_shape(init)
    if Path(source).is_dir():
        optional = ["classifier", *(_PARTS if config.pretrained_partial else ())]
        which = default_checkpoint(Path(source))
        found, fresh = checkpoint.restore_model(
            Path(source) / "checkpoints", template, which, optional
        )
        parts: dict[str, list[str]] = {}
        for line in fresh:
            parts.setdefault(module_of(line), []).append(line)
        for first, *others in (lines for part, lines in parts.items() if part not in _OWN):
            more = f" (and {len(others)} more of it)" if others else ""
            report(f"{source}: re-initialised, as it does not fit this run: {first}{more}")
        if not parts.keys().isdisjoint(_OWN):
            report(f"{source}: the stages' own statistics start as its shared ones")
        report(f"starting from the {which} checkpoint of {source}")
    else:
        found, summary = load_pretrained(source, model, template, partial=config.pretrained_partial)
        report(str(summary))
    return _filled(found, init)


def _filled(found: dict[str, Any], init: Callable[[], dict[str, Any]]) -> dict[str, Any]:
    """`found` on the device; leaves that are still shapes alone become those that `init` gives.

    But a stage's own statistics start as the shared ones of the same layer, where those are found.
    """
    stats: dict[Any, Any] = dict(flatten_dict(found.get("batch_stats", {})))
    for path, leaf in stats.items():
        if path[0] in _OWN and isinstance(leaf, jax.ShapeDtypeStruct):
            stats[path] = stats.get(path[1:], leaf)
    found = {**found, **({"batch_stats": unflatten_dict(stats)} if stats else {})}
    shapes = [isinstance(leaf, jax.ShapeDtypeStruct) for leaf in jax.tree.leaves(found)]
    fresh = init() if any(shapes) else found

    def choose(leaf: Any, drawn: Any) -> Any:
        # A copy: training donates every buffer, and stages' own statistics are the shared ones.
        return drawn if isinstance(leaf, jax.ShapeDtypeStruct) else jnp.array(leaf)

    return jax.tree.map(choose, found, fresh)
