"""The whole model: packed frames in, one vector a tracklet and stripe out.

Jiang et al., "Rethinking Temporal Fusion for Video-based Person Re-identification on Semantic and
Time Aspect" (AAAI 2020), figure 2; docs/method.md. Every part can be switched off by a field.
"""

from dataclasses import fields
from typing import Any, no_type_check

import flax.linen as nn
import flax.struct
import jax.numpy as jnp
from jaxtyping import Array, Bool, Float, Int

from stf_jax.config import ModelConfig
from stf_jax.models.backbones import BACKBONES
from stf_jax.models.batch_norm import BatchNorm
from stf_jax.models.fusion import (
    Embedding,
    IntraAttention,
    RelationNetwork,
    StageAttention,
    StageGate,
    attention_weights,
    fuse_frames,
    normalise_over_time,
    pool_stripes,
)

# Groups of a stage's own statistics, `tail_statistics`, by the stage's number.
STAGES = {p: f"stage_{p}" for p in (1, 2, 3, 4)}
Size = Any  # an int; symbolic where a program for any number is traced (jax.export)


@no_type_check  # JAX also fills it with shapes, shardings and None
@flax.struct.dataclass
class TemporalFusionOutput:
    """Outputs for B tracklets of T slots; S stripes, C channels, K classes, P stages."""

    features: Float[Array, "b s c"]  # to be compared; with a neck as `neck_feature` says
    logits: Float[Array, "b s k"] | None  # None without a classifier
    intra_weights: Float[Array, "b t"] | None  # each sums to 1 over real frames; None if off
    inter_weights: Float[Array, "b t"] | None
    frame_weights: Float[Array, "b t"]
    stage_features: Float[Array, "p b s c"]
    stage_weights: Float[Array, "b p"]  # summing to 1, but for those of a gate
    before_neck: Float[Array, "b s c"] | None = None  # of the triplet loss; None without a neck


class TemporalFusionNet(nn.Module):
    """Multi-stage temporal fusion of a backbone's maps, weighted by attention over the frames.

    Fields: `num_classes` identities of the classifier (0: none); `backbone` one of `BACKBONES`;
    `last_stride`, `last_dilation` of stage 4; `stages` fused, a subset of (1, 2, 3, 4) in ascending
    order; `num_stripes` S; `pooling` of a stripe, "mean" or "max"; `embed_dim` C; `frame_attention`
    a subset of ("intra", "inter"), their mean is taken, () is the plain mean over real frames;
    `stage_attention` "mean", "learned" or "gated"; `tail_statistics` "shared" or "own" (see
    `_stage_feature`); `neck` "none" or "bnneck" (see `Neck`),
    `neck_feature` "after" or "before", which of its two sides is `features`; `relation_padding`
    "mask" (padded slots count for nothing) or "reference" (the relation sums run over padded slots
    too, as published); `bounded_attention` keeps the published ReLU and sigmoid over the
    attentions' scores, False takes the softmax over time, with the relation's mean over the frames
    in place of its sum; `dtype` of the arithmetic, `param_dtype` of the weights; `remat` to
    recompute instead of store; `axis_name` to synchronise BatchNorm over devices.

    Raises ValueError, when first called, for a field outside these.
    """

    num_classes: int
    backbone: str = "resnet50"
    last_stride: int = 1
    last_dilation: int = 1
    stages: tuple[int, ...] = (2, 4)
    num_stripes: int = 1
    pooling: str = "mean"
    embed_dim: int = 4096
    frame_attention: tuple[str, ...] = ("intra", "inter")
    stage_attention: str = "mean"
    tail_statistics: str = "shared"
    neck: str = "none"
    neck_feature: str = "after"
    relation_padding: str = "mask"
    bounded_attention: bool = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32
    remat: bool = False
    axis_name: str | None = None

    @nn.nowrap
    def check_fields(self) -> None:
        """Raise ValueError, naming the field, its value and what was expected."""
        rules = [
            (f.name, f.metadata["holds"], f.metadata["expected"])
            for f in fields(ModelConfig)
            if f.name not in ("backbone", "dtype")
        ]
        rules += [
            ("backbone", BACKBONES.__contains__, f"one of {', '.join(BACKBONES)}"),
            ("num_classes", lambda n: n >= 0, "0 (no classifier) or more"),
        ]
        for name, holds, expected in rules:
            if not holds(getattr(self, name)):
                raise ValueError(f"{name}={getattr(self, name)!r}: expected {expected}")

    def setup(self) -> None:
        """Create the parts; their names are the top-level parameter groups."""
        self.check_fields()
        types = {"dtype": self.dtype, "param_dtype": self.param_dtype}
        synced = {"axis_name": self.axis_name, **types}
        self.backbone_net = BACKBONES[self.backbone](
            last_stride=self.last_stride,
            last_dilation=self.last_dilation,
            remat=self.remat,
            **synced,
            name="backbone",
        )
        self.embedding = Embedding(self.num_stripes, self.embed_dim, **synced)
        # A softmax starts close to the mean: random weights would waste frames meanwhile.
        scale = 1.0 if self.bounded_attention else 0.1
        if "intra" in self.frame_attention:
            self.intra_attention = IntraAttention(scale, **synced)
        if "inter" in self.frame_attention:
            self.relation = RelationNetwork(scale, not self.bounded_attention, **types)
        if self.stage_attention == "learned":
            self.stage_scorer = StageAttention(**types, name="stage_attention")
        if self.stage_attention == "gated":
            self.stage_gate = StageGate(self.param_dtype)
        if self.neck == "bnneck":
            self.neck_net = Neck(self.num_stripes, **synced, name="neck")
        if self.num_classes:
            self.classifier = Classifier(
                self.num_classes, self.num_stripes, self.neck == "none", **types
            )

    def __call__(
        self,
        frames: Float[Array, "b t h w 3"],
        mask: Bool[Array, "b t"] | None = None,
        *,
        train: bool = False,
    ) -> TemporalFusionOutput:
        """Apply to padded tracklets; the values of masked-out frames do not matter.

        `frames` are normalised pixels, `mask` marks the real frames (None: all of them).
        """
        b, t = frames.shape[:2]
        if mask is None:
            mask = jnp.ones((b, t), bool)
        if mask.shape != (b, t):
            raise ValueError(f"mask has shape {mask.shape}, expected {(b, t)}, that of the frames")
        owner = jnp.broadcast_to(jnp.arange(b)[:, None], (b, t))
        tracklet = jnp.where(mask.astype(bool), owner, b).reshape(-1)
        slot = jnp.broadcast_to(jnp.arange(t)[None, :], (b, t)).reshape(-1)
        flat = frames.reshape(b * t, *frames.shape[2:])
        return self.packed(flat, tracklet, slot, num_tracklets=b, num_slots=t, train=train)

    def packed(
        self,
        frames: Float[Array, "m h w 3"],
        tracklet: Int[Array, " m"],
        slot: Int[Array, " m"],
        *,
        num_tracklets: Size,
        num_slots: Size,
        train: bool = False,
    ) -> TemporalFusionOutput:
        """Apply to frames packed as in `stf_jax.data.batch.PackedBatch`.

        Padding, `tracklet[m]` >= B, enters neither statistics nor results. A tracklet without
        frames gets a meaningless, finite feature.
        """
        b, t = num_tracklets, num_slots
        real = tracklet < b
        frames = jnp.where(real[:, None, None, None], frames, 0).astype(self.dtype)
        maps = self.backbone_net(frames, real, train=train)

        mask = jnp.zeros((b, t), bool).at[tracklet, slot].set(True, mode="drop")
        weights, intra, inter = self._frame_weights(maps[3], tracklet, slot, mask, train)
        tracklet_real = mask.any(1)
        fused = {p: fuse_frames(maps[p - 1], weights, tracklet, slot) for p in self.stages}
        features_of = [self._stage_feature(p, m, tracklet_real, train) for p, m in fused.items()]
        stage_features = jnp.stack(features_of)
        wide = jnp.promote_types(self.dtype, jnp.float32)
        if self.stage_attention == "learned":
            stage_weights = self.stage_scorer(stage_features)
        elif self.stage_attention == "gated":
            gate = self.stage_gate(len(self.stages)).astype(wide)
            stage_weights = jnp.broadcast_to(gate, (b, len(self.stages)))
        else:
            stage_weights = jnp.full((b, len(self.stages)), 1 / len(self.stages), wide)
        stage_features = stage_features.astype(stage_weights.dtype)
        features = jnp.einsum("bp,pbsc->bsc", stage_weights, stage_features)
        before = after = features
        if self.neck == "bnneck":
            after = self.neck_net(before, tracklet_real, train=train)
            features = after if self.neck_feature == "after" else before
        logits = self.classifier(after) if self.num_classes else None
        return TemporalFusionOutput(
            features,
            logits,
            intra,
            inter,
            weights,
            stage_features,
            stage_weights,
            None if self.neck == "none" else before,
        )

    def stage_logits(
        self, stage_features: Float[Array, "p b s c"], tracklet_real: Bool[Array, " b"]
    ) -> Float[Array, "p b s k"]:
        """Logits of each stage's feature by itself, for a loss in training.

        A neck takes the moments of each stage's features; what that does to its running moments,
        which are of the whole feature, is to be thrown away. Raises ValueError where there is no
        classifier.
        """
        if not self.num_classes:
            raise ValueError("num_classes=0: expected a classifier")
        if self.neck == "bnneck":
            necked = [self.neck_net(u, tracklet_real, train=True) for u in stage_features]
            stage_features = jnp.stack(necked)
        return jnp.stack([self.classifier(u) for u in stage_features])

    def _frame_weights(self, maps, tracklet, slot, mask, train):
        """Attention over the frames from the last stage's `maps`: mean, intra, inter [B, T]."""
        wide = jnp.promote_types(self.dtype, jnp.float32)
        intra = inter = None
        if self.frame_attention:
            real = tracklet < mask.shape[0]
            # A padded slot's descriptor is e(0): one zero row more, kept out of the statistics.
            pooled = pool_stripes(maps, self.num_stripes, self.pooling)
            pooled = jnp.concatenate([pooled, jnp.zeros_like(pooled[:1])])
            rows = jnp.concatenate([real, jnp.zeros((1,), bool)])
            x = self.embedding(pooled, rows, train=train)
            x = x.reshape(x.shape[0], -1)
            empty, x = x[-1], x[:-1]
        if "intra" in self.frame_attention:
            scores = self.intra_attention(x, real, train=train)
            dense = jnp.zeros(mask.shape, wide).at[tracklet, slot].set(scores, mode="drop")
            intra = attention_weights(dense, mask, bounded=self.bounded_attention)
        if "inter" in self.frame_attention:
            dense = jnp.broadcast_to(empty[None, None, :], (*mask.shape, x.shape[-1]))
            dense = dense.at[tracklet, slot].set(x, mode="drop")
            counted = mask if self.relation_padding == "mask" else jnp.ones_like(mask)
            scores = self.relation(dense, counted)
            inter = attention_weights(scores, mask, bounded=self.bounded_attention)
        chosen = [w for w in (intra, inter) if w is not None]
        if not chosen:
            chosen = [normalise_over_time(jnp.ones(mask.shape, wide), mask)]
        return sum(chosen[1:], chosen[0]) / len(chosen), intra, inter

    def _stage_feature(self, p, fused, tracklet_real, train):
        """`u_p = e(tail_p(M_p))` of the fused maps of stage p, by the later stages.

        With "own" `tail_statistics` the running moments of this pass are a group of their own,
        `stage_P`: the frames' and the other stages' maps, which go through the same layers, are
        distributed otherwise. Stage 4's, which go through the embedding alone, keep the shared
        moments where no frame attention embeds frames: no other stage then uses those.
        """

        def tail(model: TemporalFusionNet, maps: Array) -> Array:
            for later in range(p + 1, 5):
                maps = model.backbone_net.stage(later, maps, tracklet_real, train=train)
            pooled = pool_stripes(maps, model.num_stripes, model.pooling)
            return model.embedding(pooled, tracklet_real, train=train)

        if self.tail_statistics == "shared" or (p == 4 and not self.frame_attention):
            return tail(self, fused)
        own = STAGES[p]

        def inward(variables: Any) -> dict[str, Any]:
            shared = dict(variables.get("batch_stats", {}))
            return {"batch_stats": {**shared.pop(own, {}), "others": shared}}

        def outward(variables: Any) -> dict[str, Any]:
            of_pass = dict(variables.get("batch_stats", {}))
            return {"batch_stats": {**of_pass.pop("others", {}), own: of_pass}}

        return nn.map_variables(tail, "batch_stats", inward, outward, mutable=True)(self, fused)


class Neck(nn.Module):
    """A last BatchNorm for each stripe, whose bias stays 0: it gets no gradient.

    BNNeck of Luo et al., "Bag of Tricks and A Strong Baseline for Deep Person Re-identification"
    (CVPRW 2019): distances are learnt before it, and the classifier, without bias, after it.
    """

    num_stripes: int
    axis_name: str | None = None
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(
        self, features: Float[Array, "b s c"], mask: Bool[Array, " b"], *, train: bool
    ) -> Float[Array, "b s c"]:
        """Normalise the features; tracklets outside `mask` enter no statistics."""
        options: dict[str, Any] = {
            "train_bias": False,
            "axis_name": self.axis_name,
            "dtype": jnp.promote_types(self.dtype, jnp.float32),
            "param_dtype": self.param_dtype,
        }
        return jnp.stack(
            [
                BatchNorm(**options, name=f"bn_{s}")(features[:, s], mask, train=train)
                for s in range(self.num_stripes)
            ],
            1,
        )


class Classifier(nn.Module):
    """One linear classifier a stripe, C -> K; weights normal with deviation 0.001, bias 0."""

    num_classes: int
    num_stripes: int
    use_bias: bool = True
    dtype: Any = jnp.float32
    param_dtype: Any = jnp.float32

    @nn.compact
    def __call__(self, features: Float[Array, "b s c"]) -> Float[Array, "b s k"]:
        """Logits of each stripe."""
        return jnp.stack(
            [
                nn.Dense(
                    self.num_classes,
                    self.use_bias,
                    kernel_init=nn.initializers.normal(0.001),
                    dtype=jnp.promote_types(self.dtype, jnp.float32),
                    param_dtype=self.param_dtype,
                    name=f"fc_{s}",
                )(features[:, s])
                for s in range(self.num_stripes)
            ],
            1,
        )
