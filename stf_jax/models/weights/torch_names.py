"""The model's tensors under the names and in the layouts that PyTorch checkpoints use.

The names are those of the reference implementation of the paper, whose backbone (below `base.`) is
named as in torchvision. The learned stage attention was never published; it is `stage_attention`.
The gate and the neck, which the reference lacks, are `stage_gate` and `neck.STRIPE`; a stage's own
statistics have the layer's name after `stage_STAGE.`, as `stage_2.base.layer3.0.bn1.running_mean`.
A tensor's path in the Flax variables is (collection, group, ..., leaf).
"""

import re
from collections.abc import Iterable

import numpy as np

from stf_jax.models.temporal_fusion_net import STAGES

Path = tuple[str, ...]

_LEAVES = {
    ("params", "kernel"): "weight",
    ("params", "scale"): "weight",
    ("params", "bias"): "bias",
    ("batch_stats", "mean"): "running_mean",
    ("batch_stats", "var"): "running_var",
}
_SHORTCUT = {"conv_shortcut": "downsample.0", "bn_shortcut": "downsample.1"}
_CONV_BN = {"conv": 0, "bn": 1}
# First part of a reference name -> the parameter group it belongs to.
_GROUPS = {
    "base": "backbone",
    "local_conv_list": "embedding",
    "temporal_conv": "intra_attention",
    "relation_g": "relation",
    "relation_f": "relation",
    "stage_attention": "stage_attention",
    "stage_gate": "stage_gate",
    "neck": "neck",
    "fc_list": "classifier",
    **{name: name for name in STAGES.values()},
}
# Beginnings of the backbones' names: what distinguishes a bare torchvision name from the others.
# `fc` and `classifier.1` are the ImageNet classifiers of ResNet and MobileNetV2.
_BACKBONE = re.compile(r"(conv1|bn1|layer[1-4]|fc|features|classifier\.1)\.")
# The three convolutions of a MobileNetV2's block; the first one, without expansion, has two.
_BLOCK = {"expand": 0, "depthwise": 1, "project": 2}
# A block's layer as MobileNetV2 was first published for PyTorch: all in one sequence.
_FLAT = re.compile(r"(base\.features\.\d+\.conv)\.([0-7])\.(\w+)")

_PREFIXES = re.compile(r"^((module|_orig_mod|model|backbone|base)\.)+")


def torch_name(path: Path) -> str:
    """Name of the tensor at `path`, e.g. `base.layer1.0.conv1.weight`.

    Raises KeyError for a path that is none of the model's.
    """
    return f"{_module_name(path[1:-1])}.{_LEAVES[path[0], path[-1]]}"


def _module_name(modules: Path) -> str:
    match modules:
        case ("backbone", layer):
            return f"base.{layer}"
        case ("backbone", feature, layer) if feature.startswith("features_"):
            number = feature.removeprefix("features_")
            return f"base.features.{number}.{_mobilenet_name(number, layer)}"
        case ("backbone", block, layer):
            return f"base.{block.replace('_', '.')}.{_SHORTCUT.get(layer, layer)}"
        case ("embedding", part):
            kind, stripe = part.split("_")
            return f"local_conv_list.{stripe}.{_CONV_BN[kind]}"
        case ("intra_attention", kind):
            return f"temporal_conv.{_CONV_BN[kind]}"
        case ("relation", part):
            # Every other element of the reference's Sequential is a ReLU.
            net, index = part.split("_")
            return f"relation_{net}.{2 * int(index)}"
        case ("stage_attention", "score"):
            return "stage_attention"
        case ("stage_gate",):
            return "stage_gate"
        case (own, *layer) if own in STAGES.values() and layer:
            return f"{own}.{_module_name(tuple(layer))}"
        case ("neck", part):
            return f"neck.{part.removeprefix('bn_')}"
        case ("classifier", part):
            return f"fc_list.{part.removeprefix('fc_')}"
        case _:
            raise KeyError("/".join(modules))


def _mobilenet_name(number: str, layer: str) -> str:
    """Torchvision's name of a layer within feature `number`: depthwise_conv -> conv.1.0."""
    step, _, kind = layer.rpartition("_")
    if not step:
        return str(_CONV_BN[kind])
    position = _BLOCK[step] - (number == "1")
    if step == "project":  # its two layers are not in a sequence of their own
        return f"conv.{position + _CONV_BN[kind]}"
    return f"conv.{position}.{_CONV_BN[kind]}"


def reference_names(names: Iterable[str]) -> dict[str, str]:
    """Each of a file's `names` -> `reference_name`, and torchvision's of a MobileNetV2's layers.

    In files after the first published code a block's layers are numbered through (`conv.0` to
    `conv.7`), with the same numbers for other layers: only the whole file tells.
    """
    found = {name: reference_name(name) for name in names}
    if "base.features.1.conv.0.weight" not in found.values():
        return found
    return {name: _FLAT.sub(_unflattened, reference) for name, reference in found.items()}


def _unflattened(match: re.Match[str]) -> str:
    block, (position, kind), leaf = match[1], divmod(int(match[2]), 3), match[3]
    last = 1 if block == "base.features.1.conv" else 2
    inner = str(position + kind) if position == last else f"{position}.{kind}"
    return f"{block}.{inner}.{leaf}"


def reference_name(name: str) -> str:
    """`name` as the reference has it, of a name in its own style, torchvision's or a wrapper's.

    Leading `module.` (DataParallel), `_orig_mod.` (torch.compile), `model.`, `backbone.` and
    `base.` go, in any order; bare names of a backbone (`conv1.weight`, `layer1.0...`, `fc.bias`,
    `features.0...`) get their `base.`. Any other name is returned without those.
    """
    bare = _PREFIXES.sub("", name)
    return f"base.{bare}" if _BACKBONE.match(bare) else bare


def group_of(reference: str) -> str | None:
    """Top-level parameter group of a tensor by its reference name; None if of no such group."""
    return _GROUPS.get(reference.partition(".")[0])


def is_imagenet_classifier(reference: str) -> bool:
    """Whether a reference name is that of a backbone's own last layer, which has no place here."""
    return reference.startswith(("base.fc.", "base.classifier."))


def is_counter(name: str) -> bool:
    """Whether the tensor is BatchNorm's `num_batches_tracked`, which has no meaning here."""
    return name.rpartition(".")[2] == "num_batches_tracked"


def torch_shape(path: Path, shape: tuple[int, ...]) -> tuple[int, ...]:
    """Shape in PyTorch of the tensor that has `shape` at `path`."""
    return to_torch(path, np.broadcast_to(np.int8(0), shape)).shape


def to_torch(path: Path, value: np.ndarray) -> np.ndarray:
    """The array at `path` in PyTorch's layout; a view.

    Convolutions [kh, kw, in, out] -> [out, in, kh, kw], matrices [in, out] -> [out, in]; the
    embedding and the intra-frame attention are convolutions of size 1 there.
    """
    if value.ndim == 4:
        return value.transpose(3, 2, 0, 1)
    if value.ndim == 2:
        return value.T.reshape(value.shape[::-1] + (1,) * _unit_axes(path))
    return value


def from_torch(path: Path, value: np.ndarray) -> np.ndarray:
    """The inverse of `to_torch`; a view. `value` must have the shape `torch_shape` gives."""
    if path[1] == "backbone" and value.ndim == 4:
        return value.transpose(2, 3, 1, 0)
    if value.ndim >= 2:
        return value.reshape(value.shape[:2]).T
    return value


def _unit_axes(path: Path) -> int:
    """Trailing axes of length 1 that PyTorch's layout of a matrix has."""
    return {"embedding": 2, "intra_attention": 1}.get(path[1], 0)
