"""The whole model on tiny images: what must not change the result, and what each field does.

The golden vectors say that the function is right; here is what they do not reach.
"""

from functools import partial
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest

from stf_jax.models import BACKBONES, ResNet, TemporalFusionNet, temporal_fusion_net
from stf_jax.models.fusion import pool_stripes
from stf_jax.models.resnet import RESNETS
from stf_jax.models.temporal_fusion_net import Neck

B, T, H, W = 3, 4, 64, 32
SMALL = TemporalFusionNet(num_classes=5, backbone="resnet10", num_stripes=2, embed_dim=6)
# For what runs once: less time in the compiler.
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})
close = partial(np.testing.assert_allclose, rtol=1e-4, atol=2e-5)


def batch() -> tuple[np.ndarray, np.ndarray]:
    """Three tracklets of 4, 2 and 3 frames with gaps between them, NaN where there is no frame."""
    r = np.random.RandomState(0)
    frames = r.standard_normal((B, T, H, W, 3)) * r.uniform(0.3, 2, (B, T, 1, 1, 1))
    mask = np.array([[1, 1, 1, 1], [0, 1, 0, 1], [1, 1, 1, 0]], bool)
    frames[~mask] = np.nan
    return frames.astype(np.float32), mask


def only_real_frames(order: Any = slice(None)) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    frames, mask = batch()
    tracklet, slot = np.nonzero(mask)
    return frames[tracklet, slot][order], tracklet[order], slot[order]


@pytest.fixture(scope="module", autouse=True)
def small_backbone():
    """One block a stage: every kind of layer, in half of ResNet-18's time to compile."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setitem(RESNETS, "resnet10", (False, (1, 1, 1, 1)))
        patch.setitem(BACKBONES, "resnet10", partial(ResNet, "resnet10"))
        yield


@partial(quick_jit, static_argnums=0)
def evaluate(model, variables, frames, mask):
    return model.apply(variables, frames, mask)


@partial(quick_jit, static_argnums=0, static_argnames="train")
def apply_packed(model, variables, frames, tracklet, slot, train=False):
    return model.apply(
        variables,
        frames,
        tracklet,
        slot,
        num_tracklets=B,
        num_slots=T,
        train=train,
        method="packed",
        mutable=["batch_stats"] if train else False,
    )


@pytest.fixture(scope="module")
def variables(random_variables):
    return random_variables(SMALL, seed=1)


@pytest.fixture(scope="module")
def output(variables):
    """What the other calls are compared with; the attentions are awake."""
    output = evaluate(SMALL, variables, *batch())
    assert np.ptp(output.intra_weights[0]) > 0.01
    assert np.ptp(output.inter_weights[0]) > 5e-3
    assert np.ptp(output.features, axis=0).min() > 1e-3
    return output


@pytest.mark.parametrize("bounded", [True, False])
def test_more_padding_changes_nothing(variables, output, bounded):
    frames, mask = batch()
    model = SMALL.clone(bounded_attention=bounded)
    if not bounded:
        output = evaluate(model, variables, frames, mask)
    longer = np.full((B, T + 2, H, W, 3), 1e6, np.float32)
    longer[:, 1:-1] = frames
    found = evaluate(model, variables, longer, np.pad(mask, ((0, 0), (1, 1))))
    close(found.features, output.features)
    close(found.logits, output.logits)
    np.testing.assert_array_equal(found.frame_weights[:, [0, -1]], 0)
    close(found.frame_weights[:, 1:-1], output.frame_weights)


def test_order_of_frames_changes_nothing(variables, output):
    frames, mask = batch()
    order = np.array([[2, 0, 3, 1], [3, 2, 1, 0], [1, 3, 0, 2]])
    rows = np.arange(B)[:, None]
    found = evaluate(SMALL, variables, frames[rows, order], mask[rows, order])
    close(found.features, output.features)
    close(found.frame_weights, np.asarray(output.frame_weights)[rows, order])


def test_order_of_tracklets_changes_nothing(variables, output):
    frames, mask = batch()
    order = [2, 0, 1]
    found = evaluate(SMALL, variables, frames[order], mask[order])
    close(found.features, np.asarray(output.features)[order])
    close(found.stage_features, np.asarray(output.stage_features)[:, order])


def test_tracklets_one_by_one(variables, output):
    """Also: no mask means that every frame is real."""
    frames, mask = batch()
    for b in range(B):
        found = evaluate(SMALL, variables, frames[b : b + 1], mask[b : b + 1])
        close(found.features[0], output.features[b])
    found = evaluate(SMALL, variables, frames[:1], None)
    close(found.features[0], output.features[0])


def test_packed_frames_in_any_order(variables, output):
    order = np.random.RandomState(1).permutation(9)
    frames, tracklet, slot = only_real_frames(order)
    garbage = np.full((2, H, W, 3), np.nan, np.float32)
    found = apply_packed(
        SMALL,
        variables,
        np.concatenate([garbage, frames]),
        np.concatenate([[B, B + 7], tracklet]),
        np.concatenate([[0, 3], slot]),
    )
    jax.tree.map(close, found, output)


def test_tracklet_without_frames_is_finite_and_alone(variables, output):
    frames, mask = batch()
    mask[1] = False
    found = evaluate(SMALL, variables, frames, mask)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves(found))
    close(np.asarray(found.features)[[0, 2]], np.asarray(output.features)[[0, 2]])
    np.testing.assert_array_equal(found.frame_weights[1], 0)


def test_padding_enters_no_statistics(variables):
    """Training on padded tracklets is training on their real frames."""

    @quick_jit
    def train(variables, frames, mask):
        return SMALL.apply(variables, frames, mask, train=True, mutable=["batch_stats"])

    padded, padded_updates = train(variables, *batch())
    packed, updates = apply_packed(SMALL, variables, *only_real_frames(), train=True)
    jax.tree.map(close, padded, packed)
    jax.tree.map(close, padded_updates, updates)
    moved = jax.tree.map(
        lambda a, b: np.abs(a - b).max(), updates["batch_stats"], variables["batch_stats"]
    )
    assert min(jax.tree.leaves(moved)) > 1e-4


@pytest.mark.slow
def test_gradients_see_no_padding_and_no_remat(variables):
    """Of all parameters: padded and stored, packed and recomputed."""
    stats = variables["batch_stats"]
    direction = np.random.RandomState(2).standard_normal((B, 2, 5)).astype(np.float32)

    def gradients(model, method, *inputs, **sizes):
        frames, *where = map(jnp.asarray, inputs)

        def loss(params):
            state = {"params": params, "batch_stats": stats}
            output, _ = model.apply(
                state, frames, *where, **sizes, train=True, method=method, mutable=["batch_stats"]
            )
            return (output.logits * direction).sum()

        return quick_jit(jax.grad(loss))(variables["params"])

    padded = gradients(SMALL, "__call__", *batch())
    sizes = {"num_tracklets": B, "num_slots": T}
    recomputed = gradients(SMALL.clone(remat=True), "packed", *only_real_frames(), **sizes)
    flat, _ = jax.tree_util.tree_flatten_with_path(padded)
    for (path, a), b in zip(flat, jax.tree.leaves(recomputed), strict=True):
        name = jax.tree_util.keystr(path)
        assert np.isfinite(a).all(), name
        # The bias before a BatchNorm has no gradient but rounding.
        scale = max(np.linalg.norm(b), 1e-2)
        assert np.linalg.norm(a - b) < 1e-2 * scale, name


def test_unbounded_weights_do_not_sharpen_with_the_number_of_frames(variables):
    """Every frame twice: half of the weight each, the same features. The published sum differs."""
    frames, mask = batch()
    twice = np.concatenate([frames, frames], 1), np.concatenate([mask, mask], 1)
    free = SMALL.clone(bounded_attention=False)
    once, doubled = evaluate(free, variables, frames, mask), evaluate(free, variables, *twice)
    assert np.ptp(once.inter_weights[0]) > 0.01
    for name in ("intra_weights", "inter_weights", "frame_weights"):
        close(2 * getattr(doubled, name)[:, :T], getattr(once, name), err_msg=name)
    close(doubled.features, once.features)
    bounded, more = evaluate(SMALL, variables, frames, mask), evaluate(SMALL, variables, *twice)
    assert np.abs(2 * more.inter_weights[:, :T] - bounded.inter_weights).max() > 1e-3


def test_reference_padding_counts_padded_slots(variables, output):
    """As published: the relation sums see e(0) in empty slots; without any, the same weights."""
    model = SMALL.clone(relation_padding="reference")
    found = evaluate(model, variables, *batch())
    close(found.intra_weights, output.intra_weights)
    close(found.inter_weights[0], output.inter_weights[0])
    assert np.abs(found.inter_weights[1:] - output.inter_weights[1:]).max() > 3e-4


@pytest.mark.parametrize("chosen", [(), ("intra",), ("inter",), ("inter", "intra")])
def test_frame_attention(variables, output, chosen):
    frames, mask = batch()
    found = evaluate(SMALL.clone(frame_attention=chosen), variables, frames, mask)
    close(found.frame_weights.sum(1), np.ones(B))
    assert ((np.asarray(found.frame_weights) > 0) == mask).all()
    parts = []
    for name in ("intra", "inter"):
        weights = getattr(found, f"{name}_weights")
        if name in chosen:
            close(weights, getattr(output, f"{name}_weights"))
            parts.append(weights)
        else:
            assert weights is None
    expected = sum(parts) / len(parts) if parts else mask / mask.sum(1, keepdims=True)
    close(found.frame_weights, expected)


@pytest.mark.parametrize("stages", [(4,), (1, 2, 3, 4)])
def test_stages(variables, output, stages):
    """A stage's feature does not depend on which others are fused; the mean is over those."""
    found = evaluate(SMALL.clone(stages=stages), variables, *batch())
    assert found.stage_features.shape == (len(stages), B, 2, 6)
    for p in set(stages) & {2, 4}:
        mine, other = found.stage_features[stages.index(p)], output.stage_features[(2, 4).index(p)]
        close(mine, other)
    close(found.features, found.stage_features.mean(0))
    close(found.stage_weights, np.full((B, len(stages)), 1 / len(stages)))


def test_learned_stage_attention_starts_as_the_mean(variables, output):
    model = SMALL.clone(stage_attention="learned")
    zero = {"score": {"kernel": jnp.zeros((12, 1)), "bias": jnp.zeros(1)}}
    params = {**variables["params"], "stage_attention": zero}
    jax.tree.map(close, evaluate(model, {**variables, "params": params}, *batch()), output)
    kernel = np.random.RandomState(0).standard_normal((12, 1)).astype(np.float32)
    params["stage_attention"] = {"score": {"kernel": kernel, "bias": jnp.ones(1)}}
    found = evaluate(model, {**variables, "params": params}, *batch())
    close(found.stage_weights.sum(1), np.ones(B))
    assert np.ptp(found.stage_weights) > 0.01
    expected = np.einsum("bp,pbsc->bsc", found.stage_weights, found.stage_features)
    close(found.features, expected)


def test_a_gate_starts_as_the_last_stage_alone(variables):
    model = SMALL.clone(stage_attention="gated")
    params = {**variables["params"], "stage_gate": {"scale": jnp.zeros(1)}}
    found = evaluate(model, {**variables, "params": params}, *batch())
    late = evaluate(SMALL.clone(stages=(4,)), variables, *batch())
    close(found.features, late.features)
    close(found.stage_weights, np.tile([0, 1], (B, 1)))
    params["stage_gate"] = {"scale": jnp.full(1, -0.25)}
    found = evaluate(model, {**variables, "params": params}, *batch())
    close(found.stage_weights, np.tile([-0.25, 1], (B, 1)))
    early, last = found.stage_features
    close(found.features, last - 0.25 * early)


def test_a_gate_of_one_stage_is_no_parameter(variables):
    late = SMALL.clone(stages=(4,))
    gated = late.clone(stage_attention="gated")
    close(
        evaluate(gated, variables, *batch()).features, evaluate(late, variables, *batch()).features
    )
    assert "stage_gate" not in outline(gated)[0]["params"]


def with_own_statistics(variables: Any) -> dict[str, Any]:
    """The same function by `tail_statistics="own"`: each stage has a copy of the shared ones."""
    shared = variables["batch_stats"]
    tails = {2: ("layer3_0", "layer4_0"), 4: ()}
    own = {
        f"stage_{p}": {
            **({"backbone": {k: shared["backbone"][k] for k in names}} if names else {}),
            "embedding": shared["embedding"],
        }
        for p, names in tails.items()
    }
    return {**variables, "batch_stats": {**shared, **own}}


OWN = SMALL.clone(tail_statistics="own")


@pytest.mark.parametrize("chosen", [(), ("intra", "inter")])
def test_own_statistics_are_of_a_stages_pass_alone(variables, chosen):
    """Training is the same; afterwards each group holds what its pass alone would have left."""
    both = {"frame_attention": chosen}
    own, shared = OWN.clone(**both), SMALL.clone(**both)
    frames, tracklet, slot = only_real_frames()
    start = with_own_statistics(variables)
    found, updated = apply_packed(own, start, frames, tracklet, slot, train=True)
    expected, mixed = apply_packed(shared, variables, frames, tracklet, slot, train=True)
    jax.tree.map(np.testing.assert_array_equal, found, expected)

    @quick_jit
    def passes(variables):
        def maps(net):
            every = net.backbone_net(jnp.asarray(frames), train=True)
            weights = expected.frame_weights
            owner, place = jnp.asarray(tracklet), jnp.asarray(slot)
            return [
                temporal_fusion_net.fuse_frames(every[p - 1], weights, owner, place) for p in (2, 4)
            ]

        def tail(net, m, stages):
            for stage in stages:
                m = net.backbone_net.stage(stage, m, None, train=True)
            return net.embedding(pool_stripes(m, 2), None, train=True)

        options: Any = {"mutable": ["batch_stats"]}
        early, late = SMALL.apply(variables, method=maps, **options)[0]
        return [
            SMALL.apply(variables, m, s, method=tail, **options)[1]["batch_stats"]
            for m, s in ((early, (3, 4)), (late, ()))
        ]

    assert ("stage_4" in outline(own)[0]["batch_stats"]) == bool(chosen)
    for p, alone in zip((2, 4), passes(variables), strict=True):
        if p == 4 and not chosen:
            group = {"embedding": updated["batch_stats"]["embedding"]}
        else:
            group = updated["batch_stats"][f"stage_{p}"]
        assert set(group) == ({"backbone", "embedding"} if p == 2 else {"embedding"})
        for part, layers in group.items():
            for layer, leaves in layers.items():
                jax.tree.map(close, leaves, alone[part][layer])
    # The frames' own are no longer mixed with them.
    of_frames, of_all = updated["batch_stats"]["backbone"], mixed["batch_stats"]["backbone"]
    jax.tree.map(close, of_frames["layer2_0"], of_all["layer2_0"])
    moved = jax.tree.map(lambda a, b: np.abs(a - b).max(), of_frames, of_all)["layer4_0"]
    assert max(jax.tree.leaves(moved)) > 1e-3


def test_own_statistics_are_those_of_the_test(variables, output):
    start = with_own_statistics(variables)
    jax.tree.map(np.testing.assert_array_equal, evaluate(OWN, start, *batch()), output)
    for p, index in ((2, 0), (4, 1)):
        embedding = jax.tree.map(lambda a: a + 1, start["batch_stats"][f"stage_{p}"]["embedding"])
        group = {**start["batch_stats"][f"stage_{p}"], "embedding": embedding}
        changed = {**start, "batch_stats": {**start["batch_stats"], f"stage_{p}": group}}
        found = evaluate(OWN, changed, *batch())
        moved = np.abs(found.stage_features - output.stage_features).max((1, 2, 3)) > 0.1
        assert list(moved) == [i == index for i in range(2)]
        np.testing.assert_array_equal(found.frame_weights, output.frame_weights)


def test_own_statistics_with_recomputation(variables):
    frames, tracklet, slot = only_real_frames()
    start = with_own_statistics(variables)
    found = [
        apply_packed(OWN.clone(remat=remat), start, frames, tracklet, slot, train=True)
        for remat in (False, True)
    ]
    jax.tree.map(close, *found)


def test_a_stages_logits_are_the_classifiers(variables, output):
    found: Any = SMALL.apply(
        variables, output.stage_features, jnp.ones(B, bool), method=SMALL.stage_logits
    )
    for stage, logits in zip(np.asarray(output.stage_features), found, strict=True):
        for s in range(2):
            layer = jax.device_get(variables["params"]["classifier"][f"fc_{s}"])
            close(logits[:, s], stage[:, s] @ layer["kernel"] + layer["bias"])
    with pytest.raises(ValueError, match="num_classes=0"):
        SMALL.clone(num_classes=0).apply(
            variables, output.stage_features, jnp.ones(B, bool), method="stage_logits"
        )


def test_a_stages_logits_come_after_a_neck_of_its_own_moments(random_variables, output):
    model = SMALL.clone(neck="bnneck")
    weights = random_variables(model, seed=1)
    real = jnp.array([True, True, False])
    stages = output.stage_features.at[:, 2].set(1e3)
    found, _ = model.apply(
        weights, stages, real, method=model.stage_logits, mutable=["batch_stats"]
    )
    for stage, logits in zip(np.asarray(stages), found, strict=True):
        for s in range(2):
            rows = stage[:2, s]
            params = jax.device_get(weights["params"])
            neck, layer = params["neck"][f"bn_{s}"], params["classifier"]
            x = (rows - rows.mean(0)) / np.sqrt(rows.var(0) + 1e-5)
            x = x * neck["scale"] + neck["bias"]
            close(logits[:2, s], x @ layer[f"fc_{s}"]["kernel"], rtol=1e-3, atol=1e-3)


def test_a_gate_learns_from_its_start(variables):
    model = SMALL.clone(stage_attention="gated")

    @quick_jit
    @jax.value_and_grad
    def loss_and_slope(gate):
        params = {**variables["params"], "stage_gate": {"scale": gate}}
        output: Any = model.apply({**variables, "params": params}, *map(jnp.asarray, batch()))
        return output.features.sum()

    def loss(gate):
        return loss_and_slope(gate)[0]

    _, slope = loss_and_slope(jnp.zeros(1))
    step = 1e-2
    difference = (loss(jnp.full(1, step)) - loss(jnp.full(1, -step))) / (2 * step)
    np.testing.assert_allclose(slope[0], difference, rtol=1e-3)
    assert abs(slope[0]) > 0.1


def test_maps_of_frames_and_of_stages_are_pooled_alike(monkeypatch):
    pooled = []

    def pool(maps, num_stripes, how="mean"):
        pooled.append((maps.shape[0], how))
        return pool_stripes(maps, num_stripes, how)

    monkeypatch.setattr(temporal_fusion_net, "pool_stripes", pool)
    outline(SMALL.clone(pooling="max"))
    assert set(pooled) == {(6, "max"), (2, "max")}


def normalised(x, scale, bias):
    return (x - x.mean(0)) / np.sqrt(x.var(0) + 1e-5) * scale + bias


def test_neck_is_after_the_triplets_feature_and_before_the_classifier(random_variables):
    """A BatchNorm over the tracklets that have frames; what it does in a test, too."""
    model = SMALL.clone(neck="bnneck")
    variables = random_variables(model, seed=1)
    groups = variables["params"]["neck"], variables["batch_stats"]["neck"]
    neck, old = jax.tree.map(np.asarray, groups)
    frames, tracklet, slot = only_real_frames()
    absent = tracklet == 1
    tracklet[absent], frames[absent] = B, np.nan
    found, updates = apply_packed(model, variables, frames, tracklet, slot, train=True)
    assert all(np.isfinite(leaf).all() for leaf in jax.tree.leaves((found, updates)))
    real, new = [0, 2], updates["batch_stats"]["neck"]
    before, after = np.asarray(found.before_neck)[real], np.asarray(found.features)[real]
    assert set(variables["params"]["classifier"]["fc_0"]) == {"kernel"}
    for s in range(2):
        bn, was, now = f"bn_{s}", old[f"bn_{s}"], new[f"bn_{s}"]
        close(after[:, s], normalised(before[:, s], neck[bn]["scale"], neck[bn]["bias"]), rtol=1e-3)
        close(now["mean"], 0.9 * was["mean"] + 0.1 * before[:, s].mean(0))
        close(now["var"], 0.9 * was["var"] + 0.1 * before[:, s].var(0, ddof=1))
        kernel = np.asarray(variables["params"]["classifier"][f"fc_{s}"]["kernel"])
        close(np.asarray(found.logits)[real, s], after[:, s] @ kernel)

    tested = evaluate(model, variables, *batch())
    plain = {kind: {n: v for n, v in of.items() if n != "neck"} for kind, of in variables.items()}
    bare = evaluate(SMALL.clone(num_classes=0), plain, *batch())
    assert bare.before_neck is None
    close(tested.before_neck, bare.features)
    moments = [
        {k: np.stack([of[f"bn_{s}"][k] for s in (0, 1)]) for k in of["bn_0"]} for of in (old, neck)
    ]
    deviation = np.sqrt(moments[0]["var"] + 1e-5)
    expected = (np.asarray(bare.features) - moments[0]["mean"]) / deviation * moments[1]["scale"]
    close(tested.features, expected + moments[1]["bias"])
    other = evaluate(model.clone(neck_feature="before"), variables, *batch())
    np.testing.assert_array_equal(other.features, other.before_neck)
    close(other.logits, tested.logits)


def test_neck_over_devices_and_in_bfloat16():
    """Its moments are those of all devices' tracklets; its bias gets no gradient."""
    r = np.random.RandomState(3)
    x = (5 + 3 * r.standard_normal((2, 4, 2, 6))).astype(np.float32)
    mask = np.array([[1, 1, 1, 0], [0, 1, 0, 0]], bool)
    x[~mask] = 1e4
    neck = Neck(2, axis_name="devices", dtype=jnp.bfloat16)
    variables = neck.init(jax.random.key(0), jnp.asarray(x[0]), jnp.asarray(mask[0]), train=False)

    @partial(jax.vmap, axis_name="devices")
    def apply(x, mask):
        def loss(params):
            found, _ = neck.apply(
                {**variables, "params": params}, x, mask, train=True, mutable=["batch_stats"]
            )
            return jnp.where(mask[:, None, None], found**3 + found, 0).sum(), found

        return jax.grad(loss, has_aux=True)(variables["params"])

    gradient, found = apply(jnp.asarray(x), jnp.asarray(mask))
    assert found.dtype == jnp.float32
    close(np.asarray(found)[mask], normalised(x[mask], 1, 0), rtol=1e-3)
    for part in gradient.values():
        np.testing.assert_array_equal(part["bias"], 0)
        assert np.abs(part["scale"]).min() > 0


def test_bfloat16_computes_near_float32_with_float32_weights(variables, output):
    model = SMALL.clone(dtype=jnp.bfloat16)
    found = evaluate(model, variables, *batch())
    assert {leaf.dtype for leaf in jax.tree.leaves(found)} == {jnp.dtype(jnp.float32)}
    scale = np.abs(output.features).max()
    assert np.abs(found.features - output.features).max() < 0.1 * scale
    assert np.abs(found.features - output.features).max() > 0  # it is another arithmetic
    frames, mask = batch()
    shapes: Any = jax.eval_shape(model.init, jax.random.key(0), frames, mask)
    assert {leaf.dtype for leaf in jax.tree.leaves(shapes)} == {jnp.dtype(jnp.float32)}
    train = partial(model.apply, train=True, mutable=["batch_stats"])
    _, updates = jax.eval_shape(train, variables, frames, mask)
    assert {leaf.dtype for leaf in jax.tree.leaves(updates)} == {jnp.dtype(jnp.float32)}


def outline(model, h=H, w=W) -> tuple[Any, Any]:
    """Shapes of variables and output for two tracklets of three frames."""
    frames = jax.ShapeDtypeStruct((2, 3, h, w, 3), jnp.float32)
    variables = jax.eval_shape(model.init, jax.random.key(0), frames)
    return variables, jax.eval_shape(model.apply, variables, frames)


# Backbone without fc + per stripe (channels x C + C, BatchNorm 2C) + intra-frame attention
# (S C + 1, BatchNorm 2) + relation network (2 S C x 768 + 768 and what follows it)
# + stage attention (S C + 1) + classifiers (S (C K + K)).
AFTER_G0 = 768 * 512 + 512 + 2 * (512 * 512 + 512) + 512 * 128 + 128 + 128 + 1


@pytest.mark.parametrize(
    ("fields", "count"),
    [
        # The reference's on MARS: 625 identities, one stripe, C 4096.
        (
            {"num_classes": 625},
            23_508_032
            + (2048 * 4096 + 3 * 4096)
            + 4099
            + (8192 * 768 + 768 + AFTER_G0)
            + (4096 * 625 + 625),
        ),
        (
            {"num_classes": 0, "stage_attention": "learned"},
            23_508_032 + 8_400_896 + 4099 + (8192 * 768 + 768 + AFTER_G0) + 4097,
        ),
        ({"num_classes": 0, "frame_attention": ()}, 23_508_032 + 8_400_896),
        ({"num_classes": 0, "frame_attention": ("intra",)}, 23_508_032 + 8_400_896 + 4099),
        (
            {"num_classes": 0, "frame_attention": ("inter",), "stages": (1, 2, 3, 4)},
            23_508_032 + 8_400_896 + (8192 * 768 + 768 + AFTER_G0),
        ),
        (
            {"num_classes": 625, "frame_attention": (), "neck": "bnneck"},
            23_508_032 + 8_400_896 + 2 * 4096 + 4096 * 625,
        ),
        (
            {"num_classes": 7, "num_stripes": 2, "embed_dim": 32, "backbone": "resnet34"},
            21_284_672
            + 2 * (512 * 32 + 3 * 32)
            + (64 + 3)
            + (128 * 768 + 768 + AFTER_G0)
            + 2 * (32 * 7 + 7),
        ),
    ],
)
def test_parameter_counts(fields, count):
    variables, _ = outline(TemporalFusionNet(**fields))
    assert sum(leaf.size for leaf in jax.tree.leaves(variables["params"])) == count


def test_parameter_groups_are_named_after_the_parts():
    variables, _ = outline(SMALL.clone(stage_attention="learned"))
    parts = {"backbone", "embedding", "intra_attention", "relation"}
    assert set(variables["params"]) == parts | {"stage_attention", "classifier"}
    assert set(variables["batch_stats"]) == parts - {"relation"}


@pytest.mark.parametrize("fields", [{"last_stride": 2}, {"last_dilation": 2}, {"num_classes": 0}])
def test_shapes(fields):
    _, found = outline(SMALL.clone(**fields))
    assert found.features.shape == (2, 2, 6)
    assert found.stage_features.shape == (2, 2, 2, 6)
    assert found.frame_weights.shape == (2, 3)
    assert found.stage_weights.shape == (2, 2)
    if fields == {"num_classes": 0}:
        assert found.logits is None
    else:
        assert found.logits.shape == (2, 2, 5)


@pytest.mark.parametrize(
    "wrong",
    [
        {"backbone": "resnet20"},
        {"stages": ()},
        {"stages": (4, 2)},
        {"stages": (2, 2)},
        {"stages": (0, 4)},
        {"frame_attention": ("intra", "intra")},
        {"frame_attention": ("both",)},
        {"stage_attention": "max"},
        {"neck": "bn"},
        {"pooling": "sum"},
        {"neck_feature": "both"},
        {"relation_padding": "zero"},
        {"num_classes": -1},
        {"num_stripes": 0},
        {"embed_dim": 0},
        {"last_stride": 3},
        {"last_dilation": 0},
    ],
)
def test_wrong_fields_are_named(wrong):
    ((field, value),) = wrong.items()
    with pytest.raises(ValueError, match="expected") as caught:
        outline(SMALL.clone(**wrong))
    assert str(caught.value).startswith(f"{field}={value!r}: ")
    assert "\n" not in str(caught.value)


@pytest.mark.usefixtures("unchecked_types")
def test_wrong_shapes_are_reported():
    frames = jnp.zeros((2, 3, H, W, 3))
    with pytest.raises(ValueError, match=r"mask has shape \(3, 2\), expected \(2, 3\)"):
        jax.eval_shape(SMALL.init, jax.random.key(0), frames, jnp.ones((3, 2), bool))
    with pytest.raises(ValueError, match="1 rows has no 2 stripes"):
        outline(SMALL, h=16)
