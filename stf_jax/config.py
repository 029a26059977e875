"""The configuration: every key with its default, what it may hold and what it means.

The defaults are the recipe that the reference's code ships for MARS; `configs/mars.py` spells it
out. `python -m stf_jax.config` prints this list. Needs neither JAX nor TensorFlow.
"""

import importlib.util
import json
from collections.abc import Iterable, Mapping
from dataclasses import Field, FrozenInstanceError, asdict, dataclass, fields, is_dataclass
from difflib import get_close_matches
from pathlib import Path
from typing import Any

from stf_jax.config_keys import among, choice, flag, key, listed, number, rising, span, text, within
from stf_jax.errors import UserError

RANDOM = "none"  # as `pretrained`: no starting weights
# Of torchvision's ResNet-50 under its names, with its ImageNet classifier; the paper starts there.
IMAGENET_RESNET50 = (
    "hf://timm/resnet50.tv_in1k/model.safetensors"
    "#sha256=5d061a3c593d795bfe682d9b152bafbcf550579873492def3515b46db1189888"
)


@dataclass(frozen=True)
class DataConfig:
    """What is trained and scored on, and how frames come into batches."""

    root: str = text("data/mars", "folder of the layout, or of what was made from it")
    partitions: str = text("partitions.pkl", "lists of the subsets' images")
    source: str = choice(
        ("folder", "tfds", "decoded"),
        'or root is "tfds", a built data set, or "decoded", their frames',
    )
    train_subset: str = choice(("trainval", "train"), 'what the reference trains on; or "train"')
    eval_subset: str = choice(("test", "val"), 'or "val"')
    height: int = number(384, "pixels, resized bilinearly", 32)
    width: int = number(128, "pixels", 16)
    sampler: str = choice(
        ("tracklet", "identity"), 'or "identity": P identities x K tracklets, for the triplet loss'
    )
    tracklets: int = number(4, "B of a step, on all devices together; the reference's batch", 1)
    tracklets_per_identity: int = number(4, "K of the identity sampler; P is B / K", 1)
    min_frames: int = number(5, "frames drawn from a tracklet: uniform from this", 1)
    max_frames: int = number(25, "to this", 1)
    frame_sampling: str = choice(
        ("random", "segments"), 'or "segments": one at random of each of as many equal parts'
    )
    frame_buckets: int = number(6, "packed batch sizes compiled at most", 1)
    on_corrupt: str = choice(
        ("error", "skip"), 'or "skip" images that cannot be decoded, counted and logged'
    )
    max_lost: float = number(
        0.1, "share of an epoch's images that training may skip; no step may lose all", 0, 1
    )
    threads: int = number(0, "decoding threads; 0: as many as usable cores")

    def misfits(self) -> dict[str, str]:
        """Keys that do not fit the others, and what is expected of them."""
        found, k = {}, self.tracklets_per_identity
        if self.min_frames > self.max_frames:
            found["min_frames"] = f"at most max_frames ({self.max_frames})"
        if self.sampler == "identity" and self.tracklets % k:
            found["tracklets"] = f"a multiple of tracklets_per_identity ({k})"
        return found


@dataclass(frozen=True)
class AugmentConfig:
    """Random changes of training images; a probability of 0 switches one off.

    Every frame is drawn for on its own, or with `per` every tracklet. What is filled gets the image
    mean, the colour that normalises to 0. The last three change what is resized and are done where
    images are decoded (`stf_jax.data.pipeline`), the others on the device
    (`stf_jax.data.augment`). The reference's recipe has crop, colour jitter and horizontal crop off
    and gives no limits: those are ours.
    """

    per: str = choice(("frame", "tracklet"), 'is drawn for; or "tracklet": alike in its frames')
    mirror: float = number(0.5, "probability of mirroring left to right", 0, 1)
    blur: float = number(0.1, "probability of a Gaussian blur", 0, 1)
    blur_kernels: tuple[int, ...] = key(
        (1, 3),
        "odd kernel sizes, equally likely; 1 is no blur",
        lambda v: v != () and within(v, 1, 31, int) and all(x % 2 for x in v),
        "a tuple of odd whole numbers from 1 to 31",
    )
    blur_sigma: float = number(0.8, "pixels", 0.01, 100)
    crop: float = number(0.0, "probability of padding all sides, then cropping the old size", 0, 1)
    crop_padding: float = number(0.1, "of a side, as a share of height or width", 0, 1)
    hsv: float = number(0.0, "probability of colour jitter in 8-bit HSV, uniform in +- limit", 0, 1)
    hsv_hue: int = number(10, "limit; one is two degrees", 0, 179)
    hsv_saturation: int = number(30, "limit, of 255", 0, 255)
    hsv_value: int = number(30, "limit, of 255", 0, 255)
    erase: float = number(
        0.0, "probability of filling a random rectangle with the image mean", 0, 1
    )
    erase_area: tuple[float, float] = span((0.02, 0.4), "its share of the frame, uniform")
    erase_aspect: tuple[float, float] = span((1.5, 4.0), "its height / width, uniform", 0.01, 100)
    horizontal_crop: float = number(
        0.0, "probability of keeping the top part only, of images with h/w > 1.5", 0, 1
    )
    horizontal_crop_keep: tuple[float, float] = span(
        (0.5, 1.0), "share of the height that is kept, uniform", 0.05
    )
    pad_ratio: float = number(0.0, "h/w that all images are padded to; 0: off, 3: usual", 0, 20)


@dataclass(frozen=True)
class ModelConfig:
    """The model; see `stf_jax.models.TemporalFusionNet`."""

    backbone: str = choice(
        ("resnet50", "resnet18", "resnet34", "resnet101", "resnet152", "mobilenet_v2"),
        'or "resnet18", "resnet34", "resnet101", "resnet152", "mobilenet_v2"',
    )
    last_stride: int = choice((1, 2), "of the last stage; or 2, which halves its maps")
    last_dilation: int = choice((1, 2), "of the last stage; or 2")
    stages: tuple[int, ...] = key(
        (2, 4),
        "stages fused; the paper's figure shows three: (2, 3, 4)",
        lambda v: v != () and among(v, (1, 2, 3, 4)) and rising(v),
        "a tuple of some of 1, 2, 3, 4, ascending",
    )
    num_stripes: int = number(1, "S, horizontal parts of a map", 1)
    pooling: str = choice(("mean", "max"), 'over a stripe of a map; or "max"')
    embed_dim: int = number(4096, "C, channels of a stripe's feature", 1)
    frame_attention: tuple[str, ...] = key(
        ("intra", "inter"),
        "their mean weighs frames; (): all frames equally",
        lambda v: among(v, ("intra", "inter")),
        "a tuple of some of intra, inter, or ()",
    )
    stage_attention: str = choice(
        ("mean", "learned", "gated"),
        'or "learned", the paper\'s semantic attention; or "gated": the last stage, and of the '
        "others a share that is learnt from 0",
    )
    tail_statistics: str = choice(
        ("shared", "own"),
        "BatchNorm's at test; or \"own\": of each stage's fused maps by themselves",
    )
    neck: str = choice(
        ("none", "bnneck"), 'or "bnneck": triplets before a last BatchNorm, classifier after it'
    )
    neck_feature: str = choice(
        ("after", "before"), 'the neck, is what is compared at test; or "before" it'
    )
    relation_padding: str = choice(
        ("mask", "reference"), 'or "reference", for weights trained by the published code'
    )
    bounded_attention: bool = flag(
        True, "as published, no frame outweighs another by more than 2:1; False: softmax over time"
    )
    dtype: str = choice(("float32", "bfloat16"), 'of the arithmetic; or "bfloat16"')
    remat: bool = flag(False, "recompute instead of store: less memory, more time")


@dataclass(frozen=True)
class LossConfig:
    """The loss; see `stf_jax.training.losses`."""

    label_smoothing: float = number(0.1, "of the cross entropy", 0, 1)
    triplet_weight: float = number(0.0, "of an additional batch-hard triplet loss; 0 is off")
    triplet_distance: str = choice(("euclidean", "cosine"), 'or "cosine"')
    triplet_margin: float | str = key(
        "soft",
        "or a number, in units of the distance",
        lambda v: v == "soft" or within((v,), 0),
        '"soft" or a number of 0 or more',
    )
    stage_weight: float = number(0.0, "of the same losses on each stage's own feature; 0 is off")


@dataclass(frozen=True)
class OptimizerConfig:
    """The optimiser and its learning rates; see `stf_jax.training.optim`."""

    name: str = choice(
        ("sgd", "adam", "adamw"), 'or "adam" (weight decay in the gradient), "adamw"'
    )
    momentum: float = key(
        0.9,
        "of SGD; Adam's two are 0.9 and 0.999",
        lambda v: within((v,), 0) and v < 1,
        "a number from 0 to less than 1",
    )
    nesterov: bool = flag(True, "of SGD")
    weight_decay: float = number(5e-4, "on every parameter")
    lr_backbone: float = number(1e-4, "learning rate of the backbone")
    lr_classifier: float = number(1e-3, "of the classifier")
    lr_rest: float = number(1e-4, "of embedding and attentions")
    schedule: str = choice(("staircase", "cosine"), 'or "cosine", to zero at the last step')
    staircase_epochs: tuple[float, ...] = key(
        (15, 30, 40, 50, 60, 70),
        "counted from 1: from the start of these",
        lambda v: within(v, 1) and rising(v),
        "a tuple of epochs counted from 1, in rising order",
    )
    staircase_factor: float = key(
        0.2, "of the learning rates at each", lambda v: within((v,), 0) and v > 0, "a number > 0"
    )
    warmup_epochs: float = number(0.0, "linear, after the classifier-only epochs")
    classifier_only_epochs: float = number(0.0, "before all others; the reference's option: 20")
    classifier_only_lr: float = number(0.1, "learning rate in them")
    clip_norm: float = number(0.0, "greatest global norm of the gradient; 0 is off")
    accumulate: int = number(1, "batches an update", 1)

    def misfits(self) -> dict[str, str]:
        """Keys that do not fit the others, and what is expected of them."""
        wrong = self.name == "sgd" and self.nesterov and not self.momentum
        return {"momentum": "more than 0 (0 only with nesterov=False)"} if wrong else {}


@dataclass(frozen=True)
class TrainConfig:
    """The training run; see `stf_jax.training.loop`."""

    epochs: int = number(200, "each has every training tracklet (or identity) once")
    max_steps: int = number(0, "stop after so many steps; 0: after the epochs")
    evaluate_every: int = number(5, "epochs; a checkpoint is written then, too; 0: at the end only")
    checkpoint_minutes: float = number(20.0, "at least so often within an epoch; 0: never")
    evaluate_before: bool = flag(False, "score the weights that training starts from, too")
    log_every: int = number(20, "steps", 1)
    sync_batch_norm: bool = flag(False, "over devices; the reference's statistics are per device")
    parallel: str = choice(
        ("pmap", "shard_map"), 'over local devices; or "shard_map", its successor'
    )


@dataclass(frozen=True)
class EvaluationConfig:
    """Features and scores; see `stf_jax.evaluation`."""

    chunk: int = number(25, "frames of a tracklet that are fused at once", 1)
    chunk_weighting: str = choice(("mean", "frames"), 'or "frames": weigh a chunk by its frames')
    frames_per_device: int = number(100, "packed frames in a batch", 1)
    protocols: tuple[str, ...] = key(
        ("step",),
        'or "step+queries", "mars-official"; the first chooses the best checkpoint',
        lambda v: v != () and among(v, ("step", "step+queries", "mars-official")),
        "a tuple of some of step, step+queries, mars-official",
    )
    max_rank: int = number(50, "of the CMC curve", 1)
    distance: str = choice(("euclidean", "cosine"), 'or "cosine"')
    centring: str = choice(
        ("none", "gallery", "training"),
        'or "gallery", "training": whose mean feature of each camera is taken off',
    )
    flip: bool = flag(False, "mean of a tracklet's feature and its mirror image's")
    rerank: bool = flag(False, "k-reciprocal re-ranking")
    multi_query: str = choice(
        ("", "mean", "max"),
        'or "mean", "max": pool the query features of each (person, camera) into one query; with '
        "tracklets marked multi-query, where the layout has any",
    )
    single_gallery_shot: bool = flag(
        False, "CMC as CUHK03 reports it: galleries of one tracklet an identity, drawn 100 times"
    )
    separate_camera_set: bool = flag(
        False, "leave out everybody of the query's camera, not its own identity there alone"
    )

    def misfits(self) -> dict[str, str]:
        """Keys that do not fit the others, and what is expected of them."""
        wrong = self.frames_per_device < self.chunk
        return {"frames_per_device": f"at least one chunk ({self.chunk})"} if wrong else {}


@dataclass(frozen=True)
class Config:
    """All of a run. `changed` makes another one of it."""

    seed: int = number(0, "of weights, order and augmentation", 0, 2**32 - 1)
    pretrained: str = key(
        IMAGENET_RESNET50,
        "starting weights: a file (.safetensors, .npz, .pth), hf://owner/repo/file, another run's "
        'workdir; "none": random. By default torchvision\'s first ImageNet ResNet-50 (BSD-3)',
        lambda v: isinstance(v, str) and v != "",
        'a file, an hf:// address, a workdir, or "none" for random weights',
    )
    pretrained_partial: bool = flag(
        False,
        "leave parts that the file lacks as initialised; without it, a file that does not fit is "
        "an error, unless it has a backbone alone, as ImageNet classifiers do",
    )
    profile_steps: tuple[int, ...] = key(
        (),
        "first and last step to write a profiler trace of; () writes none",
        lambda v: within(v, 1, kind=int) and len(v) in (0, 2) and list(v) == sorted(v),
        "two steps, counted from 1, first and last, or none",
    )
    compilation_cache: str = text(
        "", 'folder of compiled programs; "" is the user\'s cache folder, "off" none'
    )
    data: DataConfig = DataConfig()
    augment: AugmentConfig = AugmentConfig()
    model: ModelConfig = ModelConfig()
    loss: LossConfig = LossConfig()
    optimizer: OptimizerConfig = OptimizerConfig()
    train: TrainConfig = TrainConfig()
    evaluation: EvaluationConfig = EvaluationConfig()


_SECTIONS: dict[str, Any] = {f.name: f.type for f in fields(Config) if is_dataclass(f.type)}
# Every key by its dotted name, as on the command line: "seed", "data.height".
KEYS: dict[str, Field] = {f.name: f for f in fields(Config) if f.name not in _SECTIONS} | {
    f"{name}.{f.name}": f for name, section in _SECTIONS.items() for f in fields(section)
}
# Keys that configs of older runs may lack; their defaults are what those runs did.
_ADDED = (
    *("augment.", "model.", "optimizer.", "train.parallel"),
    *("data.frame_sampling", "data.max_lost", "data.source"),
    *("evaluation.multi_query", "evaluation.single_gallery_shot", "evaluation.separate_camera_set"),
    *("evaluation.centring", "loss.stage_weight"),
)


def changed(config: Config, values: Mapping[str, Any]) -> Config:
    """Return `config` with other values, by dotted name: `changed(config, {"data.height": 64})`.

    Raises UserError with a line for each name that is not a key; `check_config` checks the values.
    """
    found = unknown_keys(values)
    if found:
        raise UserError("\n".join(found))
    return _tree({**flat_values(config), **values})


def flat_values(config: Config) -> dict[str, Any]:
    """Return the value of every key by its dotted name."""
    return _flat(asdict(config))


def unknown_keys(names: Iterable[str]) -> list[str]:
    """Return a line for each dotted name that is not a key, with the keys that are near it."""
    found = []
    for name in names:
        if name not in KEYS:
            known = [other for other in KEYS if other.startswith(name.split(".")[0] + ".")]
            near = [] if name in _SECTIONS else _near(name)
            every = [*(key for key in KEYS if "." not in key), *_SECTIONS]
            there = f"there are {listed(known or every)}"
            hint = f"did you mean {' or '.join(near)}?" if near else there
            found.append(f"config.{name}: no such key; {hint}")
    return found


def _near(name: str) -> list[str]:
    """At most three keys that `name` may stand for.

    Those called so in any section; else those spelt like it, in its own section first; else those
    of which it is a word, or whose meaning has it.
    """
    section, _, last = name.lower().rpartition(".")
    parts = {key: key.rpartition(".")[2] for key in KEYS}
    same = [key for key, part in parts.items() if part == last]
    close = get_close_matches(last, set(parts.values()), n=3, cutoff=0.75)
    like = [key for part in close for key in KEYS if parts[key] == part]
    own = [key for key in like if key.startswith(f"{section}.")]
    words = [key for key, part in parts.items() if last in part.split("_")]
    phrase = last.replace("_", " ")
    meant = [key for key in KEYS if len(phrase) > 3 and phrase in KEYS[key].metadata["meaning"]]
    return (same or own or like or words or meant)[:3]


def check_config(config: Config) -> None:
    """Raise UserError with a line for each value that its key may not hold."""
    found = _findings(config)
    if found:
        raise UserError("\n".join(found))


def to_json(config: Config) -> dict[str, Any]:
    """Return `config` as plain JSON values (tuples become lists)."""
    return json.loads(json.dumps(asdict(config)))


def from_json(values: Mapping[str, Any], *, num_devices: int = 1) -> Config:
    """Return the config that `to_json` turned into `values`; lists become tuples.

    Keys that an older run could not have get the value that does what it did, on `num_devices`.
    Raises UserError with a line per unknown, missing or unusable value.
    """
    given = _flat(values)
    if given.get("pretrained") == "":  # random weights, before "none" was their name
        given["pretrained"] = RANDOM
    older = given.pop("data.tracklets_per_device", None)
    if isinstance(older, int):
        given.setdefault("data.tracklets", older * num_devices)
    found = unknown_keys(given)
    found += [f"config.{k}: missing" for k in KEYS if k not in given and not k.startswith(_ADDED)]
    config = _tree({k: given.get(k, default) for k, default in flat_values(Config()).items()})
    found += _findings(config)
    if found:
        raise UserError("\n".join(found))
    return config


def load_config(path: str | Path) -> Config:
    """Return `get_config()` of the Python file `path`.

    Raises UserError when there is no such file, it has no `get_config`, or that has a mistake.
    """
    path = Path(path)
    if not path.is_file():
        raise UserError(f"{path}: no such config file; the ones that come along are in configs/")
    spec = importlib.util.spec_from_file_location(f"stf_jax_config_{path.stem}", path)
    if spec is None or spec.loader is None:
        raise UserError(f"{path}: expected a Python file (.py) that defines get_config()")
    module = importlib.util.module_from_spec(spec)
    try:
        spec.loader.exec_module(module)
        config = module.get_config() if hasattr(module, "get_config") else None
    except FrozenInstanceError as error:
        raise UserError(f"{path}: {error}; return changed(config, {{KEY: VALUE}})") from error
    except UserError as error:
        raise UserError("\n".join(f"{path}: {line}" for line in str(error).split("\n"))) from error
    except Exception as error:  # it is a program, and can have any mistake
        reason = " ".join(str(error).split()) or type(error).__name__
        raise UserError(
            f"{path}: {reason}; the keys and their types are in configs/mars.py"
        ) from error
    if not isinstance(config, Config):
        raise UserError(f"{path}: expected a function get_config() that returns a Config")
    return config


def _findings(config: Config) -> list[str]:
    values, wrong = flat_values(config), {}
    for name, declared in KEYS.items():
        if not declared.metadata["holds"](values[name]):
            wrong[name] = declared.metadata["expected"]
    for section in ("data", "optimizer", "evaluation"):
        if not any(name.startswith(f"{section}.") for name in wrong):
            misfits = getattr(config, section).misfits()
            wrong |= {f"{section}.{name}": expected for name, expected in misfits.items()}
    return [f"config.{n} is {_shown(values[n])}: expected {what}" for n, what in wrong.items()]


def _shown(value: Any) -> str:
    if isinstance(value, int) and abs(value) >= 2**63:
        return "a number beyond 64 bits"
    return f"{value!r:.200}"


def _flat(values: Mapping[str, Any]) -> dict[str, Any]:
    found = {}
    for name, value in values.items():
        section = name in _SECTIONS and isinstance(value, Mapping)
        found |= {f"{name}.{k}": v for k, v in value.items()} if section else {name: value}
    return found


def _tree(values: Mapping[str, Any]) -> Config:
    """The config of all keys' values, each in its key's type where it can be."""
    values = {name: _typed(value, KEYS[name].type) for name, value in values.items()}
    sections = {
        name: section(**{f.name: values[f"{name}.{f.name}"] for f in fields(section)})
        for name, section in _SECTIONS.items()
    }
    return Config(**{name: values[name] for name in KEYS if "." not in name}, **sections)


def _typed(value: Any, kind: Any) -> Any:
    if isinstance(value, list):
        return tuple(value)
    # A margin may come as text: on the command line, as its default is text, and in older runs.
    if (kind is float and type(value) is int) or (kind == float | str and isinstance(value, str)):
        try:
            return float(value)
        except (OverflowError, ValueError):
            pass
    return value


if __name__ == "__main__":
    for name, found in KEYS.items():
        print(f"{name} = {found.default!r}  # {found.metadata['meaning']}")
        print(f"{'':4}{found.metadata['expected']}")
