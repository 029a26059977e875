"""PyTorch's tensors <-> the model's variables, each tensor held to name and shape.

Names and layouts stay PyTorch's in files: `torch_names`.
"""

import logging
import os
from collections.abc import Iterable, Mapping
from dataclasses import dataclass
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from flax.traverse_util import flatten_dict, unflatten_dict

from stf_jax.errors import UserError
from stf_jax.models.temporal_fusion_net import TemporalFusionNet
from stf_jax.models.weights.files import read_tensors
from stf_jax.models.weights.location import locate_weights
from stf_jax.models.weights.torch_names import (
    Path,
    from_torch,
    group_of,
    is_counter,
    is_imagenet_classifier,
    reference_name,
    to_torch,
    torch_name,
    torch_shape,
)

Variables = Mapping[str, Any]

_log = logging.getLogger(__name__)


@dataclass(frozen=True)
class LoadReport:
    """What happened to every tensor of a file and of the model; `str` prints it, one line each."""

    source: str
    model: str
    loaded: tuple[str, ...]  # names as in the file
    missing: tuple[str, ...] = ()  # tensors of the model that the file lacks, reference names
    extra: tuple[str, ...] = ()  # tensors of the file that the model has no place for
    misshapen: tuple[str, ...] = ()  # "name: found shape, expected shape"
    notes: tuple[str, ...] = ()  # parts that keep the values they had, and why; tensors not used

    def __str__(self) -> str:
        """Summary first, then the notes and the names of whatever did not fit."""
        lines = [f"{self.source}: {len(self.loaded)} tensors used, for {self.model}", *self.notes]
        for what in ("missing", "misshapen", "extra"):
            lines += [f"{what}: {name}" for name in getattr(self, what)]
        return "\n".join(lines)


def variables_from_torch(
    state_dict: Mapping[str, np.ndarray], model: TemporalFusionNet, *, partial: bool = False
) -> dict[str, Any]:
    """Flax variables `{"params": ..., "batch_stats": ...}` of `model` from PyTorch's tensors.

    `state_dict` has the reference's names, torchvision's (`conv1.weight`, ...) or either after
    `module.` or `base.`; arrays in PyTorch's layout. The result holds views of them, dtypes
    untouched. It is the whole model, or if `partial` those groups that `state_dict` has, the
    backbone at least; see `load_pretrained`.

    Raises UserError, a line for each tensor that is missing, extra or misshapen; BatchNorm's
    `num_batches_tracked` and the ImageNet classifier `fc` are never in the way.
    """
    found, report = _match(state_dict, _expected(_shapes(model)), "state dict", model, partial)
    _log.info("%s", report)
    return unflatten_dict(found)


def variables_to_torch(
    variables: Variables, model: TemporalFusionNet | None = None
) -> dict[str, np.ndarray]:
    """The exact inverse of `variables_from_torch`: PyTorch's names and layouts, dtypes untouched.

    Raises UserError where `variables` are not those of `model`, if that is given.
    """
    flat = {path: np.asarray(value) for path, value in _flatten(variables).items()}
    try:
        state_dict = {torch_name(path): to_torch(path, value) for path, value in flat.items()}
    except KeyError as error:
        raise UserError(f"variables: found {error}, expected a TemporalFusionNet's") from error
    if model is not None:
        _match(state_dict, _expected(_shapes(model)), "variables", model, partial=False)
    return state_dict


def load_pretrained(
    location: str | os.PathLike[str],
    model: TemporalFusionNet,
    variables: Variables,
    *,
    partial: bool = False,
) -> tuple[dict[str, Any], LoadReport]:
    """Replace initialised `variables` of `model` by the weights in a file.

    `location` is a path or address, see `weight_location.locate_weights`. By default file and model
    must agree in every tensor. If `partial`, whole groups other than the backbone may be in one of
    them only (a file of ImageNet weights has the backbone, a new stage attention is in no file),
    and a classifier for another number of identities is not taken: such parts keep the values they
    have in `variables`, and the report says so. The result has the dtypes of `variables`.

    Raises UserError: no such file, or a line for each tensor that does not fit.
    """
    state_dict = read_tensors(locate_weights(location))
    flat = _flatten(variables)
    shapes = {path: np.shape(value) for path, value in flat.items()}
    found, report = _match(state_dict, _expected(shapes), os.fspath(location), model, partial)
    for path, value in found.items():
        # A copy: what it is a view of may be the whole file.
        flat[path] = jnp.array(np.asarray(value, flat[path].dtype))
    return unflatten_dict(flat), report


def _match(
    state_dict: Mapping[str, np.ndarray],
    expected: Mapping[str, tuple[Path, tuple[int, ...]]],
    source: str,
    model: TemporalFusionNet,
    partial: bool,
) -> tuple[dict[Path, np.ndarray], LoadReport]:
    """Find the `expected` tensors (name -> path, shape) in `state_dict`; raise if they differ."""
    given = _by_reference_name(state_dict, source)
    notes = [
        f"not used: {name}, the ImageNet classifier"
        for reference, name in given.items()
        if is_imagenet_classifier(reference)
    ]
    if partial:
        fresh = _fresh_groups(state_dict, given, expected)
        notes += [f"re-initialised: {group}, {why}" for group, why in fresh.items()]
        expected = {name: to for name, to in expected.items() if group_of(name) not in fresh}
    groups = {group_of(name) for name in expected}
    found, extra, misshapen = {}, [], []
    for reference, name in given.items():
        if reference in expected:
            path, shape = expected[reference]
            array = np.asarray(state_dict[name])
            if array.shape == shape:
                found[path] = from_torch(path, array)
            else:
                misshapen.append(f"{name}: found {array.shape}, expected {shape}")
        elif is_imagenet_classifier(reference):
            continue
        elif partial and group_of(reference) not in groups:
            notes.append(f"not used: {name}")
        else:
            extra.append(name)
    loaded = tuple(given[torch_name(path)] for path in found)
    missing = tuple(name for name in expected if name not in given)
    report = LoadReport(
        source, _summary(model), loaded, missing, tuple(extra), tuple(misshapen), tuple(notes)
    )
    if missing or extra or misshapen:
        raise UserError(
            f"{report}\nexpected the model's tensors: correct the model's fields or the file, or "
            "ask for a partial load (config.pretrained_partial=True) if whole parts are missing"
        )
    return found, report


def _by_reference_name(state_dict: Mapping[str, Any], source: str) -> dict[str, str]:
    """The reference's name -> the name in `state_dict`, of all tensors that have a meaning here."""
    given = {}
    for name in state_dict:
        reference = reference_name(name)
        if reference in given:
            raise UserError(
                f"{source}: found {given[reference]} and {name}, expected one of them: both are "
                f"{reference}"
            )
        if not is_counter(name):
            given[reference] = name
    return given


def _fresh_groups(
    state_dict: Mapping[str, np.ndarray],
    given: Mapping[str, str],
    expected: Mapping[str, tuple[Path, tuple[int, ...]]],
) -> dict[str, str]:
    """Groups of the model that a partial load leaves as they are, and why."""
    groups = dict.fromkeys(path[1] for path, _ in expected.values())
    there = {group_of(reference) for reference in given}
    fresh = {group: "the file has none" for group in groups if group not in there | {"backbone"}}
    theirs = {np.shape(state_dict[n])[0] for r, n in given.items() if group_of(r) == "classifier"}
    ours = {shape[0] for path, shape in expected.values() if path[1] == "classifier"}
    if theirs and ours and theirs != ours:
        fresh["classifier"] = f"{_join(theirs)} identities in the file, {_join(ours)} in the model"
    return fresh


def _expected(
    shapes: Mapping[Path, tuple[int, ...]],
) -> dict[str, tuple[Path, tuple[int, ...]]]:
    """PyTorch's name -> path and PyTorch's shape of each tensor of the model."""
    return {torch_name(path): (path, torch_shape(path, shape)) for path, shape in shapes.items()}


def _shapes(model: TemporalFusionNet) -> dict[Path, tuple[int, ...]]:
    """Shapes of the model's variables by path; computes no weights."""
    frames = jax.ShapeDtypeStruct((1, 1, 32 * model.num_stripes, 32, 3), jnp.float32)
    abstract = jax.eval_shape(model.init, jax.random.key(0), frames)
    return {path: leaf.shape for path, leaf in _flatten(abstract).items()}


def _flatten(variables: Any) -> dict[Path, Any]:
    return flatten_dict(dict(variables))


def _summary(model: TemporalFusionNet) -> str:
    return (
        f"{model.backbone}, num_stripes {model.num_stripes}, embed_dim {model.embed_dim}, "
        f"num_classes {model.num_classes}, frame_attention {tuple(model.frame_attention)}, "
        f"stage_attention {model.stage_attention}"
    )


def _join(numbers: Iterable[int]) -> str:
    return ", ".join(map(str, sorted(numbers)))
