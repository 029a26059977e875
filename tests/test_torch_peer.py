"""The PyTorch peer is the reference's function: goldens, our model; its command line."""

import importlib.util
import json
import subprocess
import sys
from functools import partial
from pathlib import Path
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
import pytest
from goldens import projection, read_golden, relative, weight
from PIL import Image

from stf_jax.data.layout.partitions import load_layout
from stf_jax.models import TemporalFusionNet
from stf_jax.models.weights.pretrained import variables_from_torch
from stf_jax.prepare.layout import image_name, write_partitions
from stf_jax.training.losses import smoothed_cross_entropy

# Every test asks for the fixture `torch`, by `global_settings`.
torch: Any = importlib.import_module("torch") if importlib.util.find_spec("torch") else None

SCRIPTS = Path(__file__).parents[1] / "scripts" / "benchmarking"
SIZE = ["--backbone", "resnet18", "--height", "32", "--width", "32", "--embed-dim", "8"]
TINY = [*SIZE, "--num-classes", "5", "--tracklets", "2", "--slots", "3", "--device", "cpu"]
quick_jit = partial(jax.jit, compiler_options={"xla_backend_optimization_level": 0})


@pytest.fixture(scope="module")
def peer():
    """Return a function from the end of a module's name to the module, `torch_peer` + end."""
    with pytest.MonkeyPatch.context() as patch:
        patch.syspath_prepend(str(SCRIPTS))
        yield lambda end="": importlib.import_module("torch_peer" + end)


@pytest.fixture(autouse=True)
def global_settings(torch):
    """What the peer changes in PyTorch is put back; one thread is not slowed by other programs."""
    backends: Any = torch.backends
    before = torch.get_float32_matmul_precision(), backends.cudnn.benchmark, torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_float32_matmul_precision(before[0])
    backends.cudnn.benchmark = before[1]
    torch.set_num_threads(before[2])


def set_weights(model, tag: str) -> None:
    with torch.no_grad():
        for name, tensor in model.state_dict().items():
            if not name.endswith("num_batches_tracked"):
                tensor.copy_(torch.from_numpy(weight(tag, name, tuple(tensor.shape))))


@pytest.mark.slow
@pytest.mark.parametrize("name", ["a", "b"])
def test_the_goldens(peer, name):
    spec, numbers, pixels, real = read_golden(name)
    network = peer("_model")
    model = network.TemporalFusion(
        "resnet50", spec["local_conv_out_channels"], spec["num_classes"], spec["num_stripes"]
    ).double()
    set_weights(model, spec["tag"])
    frames = torch.from_numpy(pixels).flatten(0, 1).double()
    labels = torch.from_numpy(numbers["labels"]).long()
    mask = torch.from_numpy(real).double()
    with torch.no_grad():
        output = model.eval()(frames * mask.reshape(-1, 1, 1, 1), mask)
        loss = network.smoothed_loss(output.logits, labels)
    for field in ("intra", "inter", "features", "logits"):
        assert relative(getattr(output, field), numbers[field]) < 1e-12, field
    assert relative(loss, numbers["loss_eval"]) < 1e-12

    model.train()
    optimiser = network.make_optimiser(model, spec["lr_base"], spec["lr_new"], spec["lr_fc"])
    # Differences grow some thousandfold a step, see test_golden_parity.
    for step, tolerance in enumerate((1e-10, 1e-7)):
        optimiser.zero_grad()
        loss = network.smoothed_loss(model(frames, torch.ones_like(mask)).logits, labels)
        assert relative(loss.detach(), numbers["train_losses"][step]) < tolerance
        if step == 0:
            loss.backward()
            norms = dict(zip(numbers["grad_names"], numbers["grad_norm"], strict=True))
            least = 1e-13 * max(norms.values())
            assert {name for name, _ in model.named_parameters()} == norms.keys()
            for name, parameter in model.named_parameters():
                found = float(parameter.grad.norm())
                assert abs(found - norms[name]) < 1e-6 * norms[name] + least, name
            means = model.state_dict()
            projections = numbers["bn_mean_projection"]
            for name, expected in zip(numbers["bn_names"], projections, strict=True):
                mean = means[name].numpy()
                assert abs(projection(name, mean) - expected) < 1e-10 * np.linalg.norm(mean), name
            optimiser.step()


def test_our_model_is_the_same_function(peer):
    """Float64, ResNet-18, two stripes; padding in evaluation, full lengths in training."""
    b, t, h, w, k = 2, 3, 64, 32, 5
    network = peer("_model")
    theirs = network.TemporalFusion("resnet18", 8, k, num_stripes=2).double()
    set_weights(theirs, "t")
    r = np.random.default_rng(0)
    frames = r.standard_normal((b, t, h, w, 3)) * r.uniform(0.2, 2, (b, t, 1, 1, 1))
    mask = np.arange(t) < np.array([[3], [1]])
    labels = np.array([4, 1])
    with jax.enable_x64(True):
        ours = TemporalFusionNet(
            num_classes=k,
            backbone="resnet18",
            num_stripes=2,
            embed_dim=8,
            relation_padding="reference",
            dtype=np.float64,
            param_dtype=np.float64,
        )
        state_dict = {name: value.numpy() for name, value in theirs.state_dict().items()}
        variables: Any = variables_from_torch(state_dict, ours)
        evaluated: Any = quick_jit(ours.apply)(variables, frames, mask)

        def training_loss(variables):
            output, _ = ours.apply(
                variables, jnp.asarray(frames), train=True, mutable=["batch_stats"]
            )
            return smoothed_cross_entropy(output.logits, jnp.asarray(labels))

        trained = float(quick_jit(training_loss)(variables))

    pixels = torch.from_numpy(frames.transpose(0, 1, 4, 2, 3).reshape(b * t, 3, h, w).copy())
    marks = torch.from_numpy(mask).double()
    with torch.no_grad():
        output = theirs.eval()(pixels * marks.reshape(-1, 1, 1, 1), marks)
        assert relative(output.intra, evaluated.intra_weights) < 1e-12
        assert relative(output.inter, evaluated.inter_weights) < 1e-12
        assert relative(output.features, evaluated.features) < 1e-12
        assert relative(output.logits, evaluated.logits) < 1e-12
        logits = theirs.train()(pixels, torch.ones_like(marks)).logits
        loss = network.smoothed_loss(logits, torch.from_numpy(labels))
    assert abs(float(loss) / trained - 1) < 1e-10


def run(peer, capsys, *arguments) -> tuple[int, str, str]:
    status = peer().main([str(argument) for argument in arguments])
    captured = capsys.readouterr()
    return status, captured.out, captured.err


def test_train(peer, capsys, tmp_path):
    lengths = np.array([[1, 2], [3, 3]])
    np.save(tmp_path / "lengths.npy", lengths)
    options = ["--lengths", tmp_path / "lengths.npy", "--json", tmp_path / "found.json"]
    numbers = ["--steps", 3, "--warmup", 1, "--threads", 1]
    status, out, err = run(peer, capsys, "train", *TINY, *options, *numbers)
    assert (status, err) == (0, "")
    assert len(out.splitlines()) == 1
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["part"] == "train"
    assert (found["variant"], found["dtype"], found["compiled"]) == ("plain", "float32", False)
    assert (found["threads"], found["torch"]) == (1, torch.__version__)
    assert found["real_frames_per_step"] == (3 + 6 + 3) / 3  # in turn
    assert found["computed_frames_per_step"] == 6
    assert len(found["seconds_per_step"]) == found["steps"] == 3
    middle = sorted(found["seconds_per_step"])[1]
    assert found["median_seconds_per_step"] == middle
    assert found["real_frames_per_second"] == pytest.approx(4 / middle)
    assert found["peak_memory_bytes"] > 1e7
    assert len(set(found["losses"])) == 3  # weights and batches change


def test_training_reduces_the_loss(peer):
    """Also that padded slots are zero: what they held does not matter."""
    options = peer().parse(["train", *TINY])
    one = peer("_measure").Peer(options, 2)
    for group in one.optimiser.param_groups:
        group["lr"] = 0.01
    batch = one.batch(np.array([3, 2]))
    assert batch[0][5].abs().max() == 0
    assert batch[0][:5].abs().amax((1, 2, 3)).min() > 0
    assert batch[1].tolist() == [[1, 1, 1], [1, 1, 0]]
    losses = [float(one.step(*batch)) for _ in range(5)]
    assert losses[-1] < losses[0] - 0.1


def test_extract(peer, capsys, tmp_path):
    np.save(tmp_path / "chunks.npy", np.array([3, 3, 1]))
    options = ["--lengths", tmp_path / "chunks.npy", "--json", tmp_path / "found.json"]
    status, out, _ = run(peer, capsys, "extract", *TINY, *options, "--warmup", 0)
    assert status == 0
    assert "extract" in out
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["steps"] == 2
    assert found["real_frames_per_step"] == (3 + 3 + 1 + 3) / 2
    assert found["losses"] == []


def test_without_a_compiler_the_tuned_variant_goes_on(peer, capsys, monkeypatch, tmp_path):
    def compile_nothing(function, **options):
        def fail(*arguments):
            raise RuntimeError("no compiler\nand more")

        return fail

    monkeypatch.setattr(torch, "compile", compile_nothing)
    options = ["--variant", "tuned", "--steps", 1, "--json", tmp_path / "found.json"]
    status, _, err = run(peer, capsys, "train", *TINY, *options)
    assert status == 0
    assert len(err.splitlines()) == 1
    assert "RuntimeError: no compiler" in err
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["compiled"] is False
    assert found["compile_seconds"] is None
    assert found["channels_last"] is True
    assert found["tf32"] == {"convolutions": True, "products": True}
    assert "bfloat16" in found["dtype"]


def write_layout(root: Path, tracklets: int, frames: int) -> None:
    r = np.random.default_rng(0)
    (root / "images").mkdir(parents=True)
    names = []
    for person in range(tracklets):
        for offset in range(frames):
            names.append(image_name(person, 1, 1, offset, ext="jpg"))
            coarse = Image.fromarray(r.integers(0, 256, (4, 2, 3), dtype=np.uint8))
            coarse.resize((32, 64)).save(root / "images" / names[-1])
    write_partitions(root, trainval=names, test=[], test_marks=[])


def test_input(peer, tmp_path):
    write_layout(tmp_path / "layout", 4, 6)
    command = [sys.executable, SCRIPTS / "torch_peer.py", "input", "--root", tmp_path / "layout"]
    numbers = ["--workers", "1", "--steps", "4", "--json", tmp_path / "found.json"]
    done = subprocess.run([*command, *TINY, *numbers], capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    assert len(done.stdout.splitlines()) == 1
    found = json.loads((tmp_path / "found.json").read_text())
    assert found["real_frames_per_step"] == 6  # 3 of each, as there are 3 slots
    assert found["workers"] == 1
    assert found["real_frames_per_second"] > 1
    assert found["decoder"].split()[0] in ("Pillow", "OpenCV")


def test_frames_of_the_input(peer, tmp_path):
    write_layout(tmp_path, 1, 3)
    table = load_layout(tmp_path).trainval
    assert table is not None
    module = peer("_input")
    data = module.Tracklets(table, np.array([[2, 0, -1]] * 20), 64, 32, seed=1)
    mirrored = 0
    for visit in range(20):
        found = data[visit].numpy()
        assert found.shape == (3, 3, 64, 32)
        assert found.dtype == np.float32
        assert (found[2] == 0).all()
        for slot, row in ((0, 2), (1, 0)):
            with Image.open(tmp_path / "images" / table.names[row].decode()) as image:
                pixels = np.asarray(image, float) / 255
            normal = (pixels - [0.486, 0.459, 0.408]) / [0.229, 0.224, 0.225]
            normal = normal.transpose(2, 0, 1)
            turned = np.abs(found[slot] - normal[..., ::-1]).max() < 0.02
            mirrored += turned
            assert turned or np.abs(found[slot] - normal).max() < 0.02
    assert 8 < mirrored < 32


def test_bisection(peer):
    for limit in range(20):
        asked = []

        def fits(n, limit=limit, asked=asked):
            asked.append(n)
            return n <= limit

        assert peer("_measure").largest_that_fits(fits, 2) == (limit if limit > 1 else 0)
        assert min(asked) >= 2
        assert len(asked) == len(set(asked)) <= 10


@pytest.mark.parametrize(
    ("arguments", "message"),
    [
        (["memory", *TINY], "needs a GPU"),
        (["train", *TINY, "--tracklets", "1"], "--tracklets 1: expected 2 or more"),
        (["train", *TINY, "--steps", "0"], "--steps 0: expected 1 or more"),
        (["train", *TINY, "--backbone", "vgg"], "expected one of resnet18"),
        (["train", *TINY, "--lengths", "absent.npy"], "absent.npy"),
        (["train", *TINY, "--lengths", "chunks.npy"], "found shape [3], expected"),
        (["extract", *TINY, "--lengths", "chunks.npy"], "found values from 2 to 4"),
        (["extract", *TINY, "--lengths", "floats.npy"], "float64"),
        (["train", *TINY, "--json", "absent/found.json"], "there is no folder absent"),
        (["input", *TINY], "--root"),
        (["input", *TINY, "--root", "absent"], "absent"),
    ],
)
def test_bad_input_is_one_line(peer, capsys, tmp_path, monkeypatch, arguments, message):
    monkeypatch.chdir(tmp_path)
    np.save("chunks.npy", np.array([2, 3, 4]))
    np.save("floats.npy", np.array([2.0, 3.0]))
    status, out, err = run(peer, capsys, *arguments)
    assert (status, out) == (2, "")
    assert len(err.splitlines()) == 1
    assert message in err


def test_a_missing_torch_is_one_line(peer, capsys, monkeypatch):
    monkeypatch.setitem(sys.modules, "torch", None)
    status, _, err = run(peer, capsys, "train", *TINY)
    assert status == 2
    assert "convert" in err
    assert len(err.splitlines()) == 1
