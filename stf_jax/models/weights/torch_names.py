"""The model's tensors under the names and in the layouts that PyTorch checkpoints use.

The names are those of the reference implementation of the paper, whose backbone (below `base.`) is
named as in torchvision. The learned stage attention was never published; it is `stage_attention`.
The neck, which the reference lacks, is `neck.STRIPE`.
A tensor's path in the Flax variables is (collection, group, ..., leaf).
"""

import re

import numpy as np

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
    "neck": "neck",
    "fc_list": "classifier",
}
# First parts of the backbone's names: what distinguishes a bare torchvision name from the others.
_BACKBONE = ("conv1", "bn1", "layer1", "layer2", "layer3", "layer4", "fc")

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
        case ("neck", part):
            return f"neck.{part.removeprefix('bn_')}"
        case ("classifier", part):
            return f"fc_list.{part.removeprefix('fc_')}"
        case _:
            raise KeyError("/".join(modules))


def reference_name(name: str) -> str:
    """`name` as the reference has it, of a name in its own style, torchvision's or a wrapper's.

    Leading `module.` (DataParallel), `_orig_mod.` (torch.compile), `model.`, `backbone.` and
    `base.` go, in any order; bare names of a ResNet (`conv1.weight`, `layer1.0...`, `fc.bias`) get
    their `base.`. Any other name is returned without those.
    """
    bare = _PREFIXES.sub("", name)
    return f"base.{bare}" if bare.partition(".")[0] in _BACKBONE else bare


def group_of(reference: str) -> str | None:
    """Top-level parameter group of a tensor by its reference name; None if of no such group."""
    return _GROUPS.get(reference.partition(".")[0])


def is_imagenet_classifier(reference: str) -> bool:
    """Whether a reference name is that of the ResNet's own last layer, which has no place here."""
    return reference.startswith("base.fc.")


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
