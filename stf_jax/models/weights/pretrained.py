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
    reference_names,
    to_torch,
    torch_name,
    torch_shape,
)

Variables = Mapping[str, Any]

_log = logging.getLogger(__name__)
# As many names of each kind are printed; the model has as many parts that can be missing.
_NAMED = 5


@dataclass(frozen=True)
class LoadReport:
    """What happened to every tensor of a file and of the model; `str` tells it in a few lines."""

    source: str
    model: str
    loaded: tuple[str, ...]  # names as in the file
    fresh: tuple[str, ...] = ()  # parts of the model that keep the values they had, and why
    unused: tuple[str, ...] = ()  # tensors of the file that a partial load leaves out
    missing: tuple[str, ...] = ()  # tensors of the model that the file lacks, reference names
    misshapen: tuple[str, ...] = ()  # "name: found shape, expected shape"
    extra: tuple[str, ...] = ()  # tensors of the file that the model has no place for
    backbone_alone: bool = False  # the file has a backbone and at most its ImageNet classifier

    def __str__(self) -> str:
        """Summary first, then a line for each kind of what did not fit: count, first names.

        One line for a backbone alone, which fills that of the model.
        """
        if self.backbone_alone:
            kind = "an ImageNet classifier" if self.unused else "a backbone alone"
            fresh = ", ".join(self.fresh) or "nothing"
            return (
                f"{self.source}: {kind}: its {len(self.loaded)} tensors fill the backbone of "
                f"{self.model}; initialised at random: {fresh}"
            )
        lines = [f"{self.source}: {len(self.loaded)} tensors used, for {self.model}"]
        kinds = {"re-initialised": self.fresh, "not used": self.unused, "missing": self.missing}
        for kind, names in (kinds | {"misshapen": self.misshapen, "extra": self.extra}).items():
            if names:
                more = "; ..." if len(names) > _NAMED else ""
                lines.append(f"{kind}, {len(names)}: {'; '.join(names[:_NAMED])}{more}")
        return "\n".join(lines)


def variables_from_torch(
    state_dict: Mapping[str, np.ndarray],
    model: TemporalFusionNet,
    *,
    partial: bool = False,
    source: str = "state dict",
) -> dict[str, Any]:
    """Flax variables `{"params": ..., "batch_stats": ...}` of `model` from PyTorch's tensors.

    `state_dict` has the reference's names, torchvision's (`conv1.weight`, ...) or either after
    `module.` and the like (`reference_names`); arrays in PyTorch's layout. The result holds views
    of them, dtypes untouched. It is the whole model, or if `partial` those groups that
    `state_dict` has, the backbone at least; see `load_pretrained`. Messages name `source`.

    Raises UserError: in a line each, with a count and the first names, the tensors that are
    missing, extra or misshapen; in one line, weights that are NaN, infinite or no floating-point
    numbers. BatchNorm's `num_batches_tracked` and the ImageNet classifier `fc` are never in the
    way.
    """
    found, report = _match(state_dict, _expected(_shapes(model)), source, model, partial)
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

    `location` is a path or address, see `location.locate_weights`. By default file and model must
    agree in every tensor; but a file that has a backbone alone, with or without its own ImageNet
    classifier, fills the model's. If `partial`, whole groups other than the backbone may be in one
    of them only (a new stage attention is in no file), and a classifier for another number of
    identities is not taken. The other parts keep the values they have in `variables`, and the
    report says so. The result has the dtypes of `variables`.

    Raises UserError: no such file, or as `variables_from_torch` what does not fit.
    """
    state_dict = read_tensors(locate_weights(location))
    flat = _flatten(variables)
    shapes = {path: np.shape(value) for path, value in flat.items()}
    alone = _is_backbone_alone(state_dict)
    found, report = _match(
        state_dict, _expected(shapes), os.fspath(location), model, partial or alone, alone
    )
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
    alone: bool = False,
) -> tuple[dict[Path, np.ndarray], LoadReport]:
    """Find the `expected` tensors (name -> path, shape) in `state_dict`; raise if they differ."""
    given = _by_reference_name(state_dict, source)
    unused = [f"{n} (ImageNet classifier)" for r, n in given.items() if is_imagenet_classifier(r)]
    fresh = _fresh_groups(state_dict, given, expected) if partial else {}
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
            unused.append(name)
        else:
            extra.append(name)
    report = LoadReport(
        source,
        model.backbone if alone else _summary(model),
        loaded=tuple(given[torch_name(path)] for path in found),
        fresh=tuple(fresh if alone else (f"{group} ({why})" for group, why in fresh.items())),
        unused=tuple(unused),
        missing=tuple(name for name in expected if name not in given),
        misshapen=tuple(misshapen),
        extra=tuple(extra),
        backbone_alone=alone,
    )
    misfits = [*report.missing, *misshapen, *extra]
    if misfits and alone:
        raise UserError(
            f"{source}: found weights of another backbone, or not all: expected those of "
            f"{model.backbone}, {len(misfits)} tensors do not fit ({misfits[0]}); name a file of "
            f"{model.backbone}'s in config.pretrained, or correct config.model.backbone, or start "
            "from random weights: --config.pretrained=none"
        )
    if misfits:
        raise UserError(f"{report}\n{_hint(report, partial)}")
    wrong = [
        why for path, array in found.items() if (why := _wrong(given[torch_name(path)], array))
    ]
    if wrong:
        raise UserError(
            f"{source}: expected finite floating-point numbers, found others in {len(wrong)} of "
            f"{len(found)} tensors: {', '.join(wrong[:_NAMED])}"
        )
    return found, report


def _is_backbone_alone(state_dict: Mapping[str, Any]) -> bool:
    """Whether all tensors are a backbone's or of its own ImageNet classifier."""
    references = reference_names(state_dict).values()
    return bool(references) and all(group_of(r) == "backbone" for r in references)


def _hint(report: LoadReport, partial: bool) -> str:
    if not report.loaded and not report.misshapen:
        return "expected torchvision's names (conv1.weight) or the paper's (base.conv1.weight)"
    fields = "expected the model's tensors: correct the model's fields or the file"
    if partial:
        return f"{fields}; a partial load leaves out whole parts only, and never the backbone"
    return f"{fields}, or leave out whole parts by a partial load (config.pretrained_partial=True)"


def _wrong(name: str, array: np.ndarray) -> str | None:
    """The name and what the array has that is no number in single precision, if anything."""
    if not jnp.issubdtype(array.dtype, jnp.floating):
        return f"{name} ({array.dtype})"
    with np.errstate(over="ignore"):
        finite = np.isfinite(np.asarray(array, np.float32)).all()
    return None if finite else f"{name} (NaN or infinite)"


def _by_reference_name(state_dict: Mapping[str, Any], source: str) -> dict[str, str]:
    """The reference's name -> the name in `state_dict`, of all tensors that have a meaning here."""
    given = {}
    for name, reference in reference_names(state_dict).items():
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
    elif theirs and ours and _classifiers(given) != _classifiers(expected):
        fresh["classifier"] = "with a bias in one of file and model"  # there is none after a neck
    return fresh


def _classifiers(references: Iterable[str]) -> set[str]:
    return {reference for reference in references if group_of(reference) == "classifier"}


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
