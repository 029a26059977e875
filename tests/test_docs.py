"""README and docs: what they name exists, and their commands run, in order, on tiny tracklets.

Every block of commands is parsed. A command runs unless `why_not_run` has a reason; of those that
do not, files, options and config keys are checked all the same.
"""

import ast
import functools
import importlib
import re
import shlex
import sys
from collections.abc import Iterator
from contextlib import redirect_stdout, suppress
from functools import partial
from importlib.util import find_spec
from io import StringIO
from pathlib import Path
from typing import Any

import jax
import numpy as np
import pytest
from PIL import Image

from stf_jax.main import parse, read_config
from stf_jax.models import MobileNetV2
from stf_jax.models.weights.files import write_tensors
from stf_jax.models.weights.pretrained import variables_to_torch

ROOT = Path(__file__).parents[1]
PAGES = [
    ROOT / name
    for name in (
        "README.md",
        "CONTRIBUTING.md",
        "docs/method.md",
        "docs/data.md",
        "docs/training.md",
        "docs/own-video.md",
        "docs/galleries.md",
        "docs/export.md",
        "docs/several-hosts.md",
        "docs/safety.md",
        "docs/measured.md",
    )
]
OWN = re.compile(r"(?:python -m stf_jax\.[\w.]+|python scripts/\w+\.py|scripts/\w+\.sh)(?: |$)")
# Options added after those of a command that would take long. The model is the smallest there is.
SMALL = {
    "stf_jax.prepare synthetic": "--min-length 3 --max-length 4 --height 32 --width 16",
    "stf_jax.main --config": (
        "--config.data.height=32 --config.data.width=16 --config.data.tracklets=2 "
        "--config.data.min_frames=2 --config.data.max_frames=2 --config.data.frame_buckets=1 "
        "--config.model.backbone=resnet18 --config.model.stages=(4,) --config.model.embed_dim=8 "
        "--config.optimizer.name=adamw --config.optimizer.lr_backbone=1e-3 "
        "--config.optimizer.lr_rest=1e-3 --config.train.epochs=20 --config.train.max_steps=20 "
        "--config.train.evaluate_every=0 --config.compilation_cache=off "
        "--config.evaluation.chunk=4 --config.evaluation.frames_per_device=20"
    ),
    "stf_jax.main --mode": "--config.compilation_cache=off",
}
# What needs a package that only an extra brings, by a word in it.
EXTRAS = {"onnx": "onnxruntime", "stf_jax.gallery": "lancedb"}


def blocks(page: Path) -> list[tuple[str, str]]:
    """The page's fenced blocks: (language, text)."""
    return re.findall(r"^```(\w*)\n(.*?)^```$", page.read_text(), re.DOTALL | re.MULTILINE)


def commands(page: Path) -> list[str]:
    """The commands of the page's bash blocks, a line each, without comments."""
    text = "".join(text for language, text in blocks(page) if language == "bash")
    lines = (line.strip() for line in text.replace("\\\n", " ").split("\n"))
    return [part for line in lines if line for part in re.split(r" && ", line) if part[0] != "#"]


def spans(page: Path) -> list[str]:
    """The page's pieces of inline code."""
    prose = re.sub(r"^```.*?^```$", "", page.read_text(), flags=re.DOTALL | re.MULTILINE)
    return [" ".join(span.split()) for span in re.findall(r"`([^`]+)`", prose)]


def own_commands(page: Path) -> list[str]:
    """What calls this project: whole commands, and those named within a sentence."""
    return [text for text in [*commands(page), *spans(page)] if OWN.match(text)]


def module_of(words: list[str]) -> list[str]:
    """The program that `words` call: a module, and a source or subcommand where it has some."""
    if words[0].endswith(".sh"):
        text = (ROOT / words[0]).read_text()
        called = re.search(r"exec .*?(?:-m (stf_jax[.\w]*)|(\w+)\.py)", text)
        return [called[1] or called[2]] if called else []
    if words[1] != "-m":
        return [Path(words[1]).stem]
    has_parts = words[2] in ("stf_jax.prepare", "stf_jax.weights", "stf_jax.gallery")
    part = words[3:4] if has_parts and not words[3:4][0].startswith("-") else []
    return [words[2], *(name for name in part if "|" not in name)]


def function(module: str) -> Any:
    """`main` of a module, or of a package's `__main__`."""
    found = importlib.import_module(module)
    return (
        found.main if hasattr(found, "main") else importlib.import_module(f"{module}.__main__").main
    )


@functools.cache
def help_of(*program: str) -> str:
    """What `--help` prints."""
    if not program:
        return ""
    with pytest.MonkeyPatch.context() as patch, redirect_stdout(StringIO()) as printed:
        patch.setattr(sys, "argv", [*program, "--help"])
        with suppress(SystemExit):
            function(program[0])()
    assert "usage: " in printed.getvalue(), program
    return printed.getvalue()


def check_options(command: str) -> None:
    """Fail for an option of `command` that its program does not have, or a key no config has."""
    words = shlex.split(command, comments=True)
    known = help_of(*module_of(words))
    if words[0].endswith(".sh"):
        known += (ROOT / words[0]).read_text()
    for word in words:
        if word.startswith("--") and not word.startswith("--config."):
            assert re.search(rf"{word.split('=')[0]}(?![\w-])", known), f"{command}: {word}"
    overrides = [word for word in words if word.startswith("--config.")]
    check_overrides([word for word in overrides if not re.search(r"[A-Z]+=", word)])


def check_overrides(overrides: list[str]) -> None:
    """Fail for keys that configs do not have and for values that they cannot take."""
    base = ["--config", str(ROOT / "configs/mars.py"), "--workdir", "w"]
    read_config(*parse([*base, *overrides]))


def lacks_an_extra(text: str) -> bool:
    """Whether a command or block of code needs a package of an extra that is not here."""
    return any(word in text and find_spec(package) is None for word, package in EXTRAS.items())


def why_not_run(command: str) -> str | None:
    """Why a command cannot run on tiny tracklets in this process; None where it can."""
    if not command.startswith("python -m stf_jax."):
        return "installs, measures or trains for minutes, or is another program"
    if re.search(r"(^| |=|:)/\w", command):
        return "an absolute path: data or weights that are not here"
    if re.search(r"\b[A-Z]{2,}\b", command):
        return "a placeholder"
    if lacks_an_extra(command):
        return "a package of an extra is not installed"
    if re.search(r"--coordinator|--distributed", command):
        return "several hosts"
    return None


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_files_that_are_named_exist(page: Path) -> None:
    named = re.findall(
        r"(?<![\w/.])((?:scripts|configs|docs|tests|stf_jax)/[\w./*-]*)", page.read_text()
    )
    for name in {name.rstrip(".") for name in named}:
        assert list(ROOT.glob(name)), name
    for name in re.findall(r"(?<![\w.-])(stf_jax(?:\.[a-z_]\w*)+)", page.read_text()):
        module, _, attribute = name.rpartition(".")
        path = ROOT.joinpath(*name.split("."))
        there = path.is_dir() or path.with_suffix(".py").is_file()
        assert there or hasattr(importlib.import_module(module), attribute), name


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_links_resolve(page: Path) -> None:
    for target in re.findall(r"\]\(([^)\s]+)\)", page.read_text()):
        name, _, anchor = target.partition("#")
        path = page.parent / name if name else page
        assert path.is_file(), target
        if anchor:
            heads = re.findall(r"^#+ (.*)$", path.read_text(), re.MULTILINE)
            assert anchor in [re.sub(r"[^\w -]", "", h.lower()).replace(" ", "-") for h in heads], (
                target
            )


@pytest.mark.parametrize("page", PAGES, ids=lambda page: page.name)
def test_options_and_config_keys_exist(page: Path) -> None:
    for command in own_commands(page):
        check_options(command)
    known = help_of("stf_jax.main")
    known += "".join(help_of(*module_of(shlex.split(text))) for text in own_commands(page))
    config = read_config(*parse(["--config", str(ROOT / "configs/mars.py"), "--workdir", "w"]))
    for span in spans(page):
        words = shlex.split(span) if "--config." in span else []
        check_overrides([word for word in words if re.match(r"--config\.[a-z_.]+=", word)])
        for option in re.findall(r"(?<!\S)--(?!config\.|xla)[a-z-]+", span):
            assert option in known, span
        for key in re.findall(r"(?<![-/\w])config(?!\.json)((?:\.[a-z_]+)+)", span):
            functools.reduce(getattr, key.split(".")[1:], config)


def test_functions_named_with_a_file_are_in_it() -> None:
    named = 0
    for page in PAGES:
        found = re.findall(r"`(stf_jax/[\w/]+\.py)`((?:,?\s`[A-Za-z_][\w.]*`)+)", page.read_text())
        for file, names in found:
            tree = ast.parse((ROOT / file).read_text())
            there = set()
            for node in tree.body:
                if isinstance(node, ast.FunctionDef | ast.ClassDef):
                    there.add(node.name)
                    inner = [n.name for n in node.body if isinstance(n, ast.FunctionDef)]
                    there |= {f"{node.name}.{name}" for name in inner}
            for name in re.findall(r"`([\w.]+)`", names):
                named += 1
                assert name in there, f"{page.name}: {file} has no {name}"
    assert named > 30


def test_readme_is_short_and_its_pictures_are_small() -> None:
    text = (ROOT / "README.md").read_text()
    assert text.count("\n") <= 170
    pictures = sorted((ROOT / "docs/pictures").iterdir())
    assert sorted(re.findall(r"!\[[^]]+\]\(([^)]+)\)", text)) == [
        f"docs/pictures/{path.name}" for path in pictures
    ]
    for path in pictures:
        assert path.stat().st_size < 200_000, path
        Image.open(path).verify()


def test_python_blocks_use_what_the_packages_export() -> None:
    used = set()
    for page in PAGES:
        for language, text in blocks(page):
            for node in ast.walk(ast.parse(text if language == "python" else "")):
                if isinstance(node, ast.ImportFrom) and str(node.module).startswith("stf_jax"):
                    package = importlib.import_module(str(node.module))
                    public = getattr(package, "__all__", dir(package))  # config has no __all__
                    assert {alias.name for alias in node.names} <= set(public), text
                    assert all(hasattr(package, name) for name in public)
                    used.add(package.__name__)
    assert {"stf_jax.data", "stf_jax.models", "stf_jax.training", "stf_jax.evaluation"} <= used


def test_a_loop_of_ones_own_has_thirty_lines() -> None:
    (loop,) = [text for _, text in blocks(ROOT / "docs/training.md") if "for batch in" in text]
    assert len([line for line in loop.split("\n") if line]) <= 30


def camera(folder: Path, rng: np.random.Generator) -> None:
    """Draw a video, a folder of frames named like a file, and the tracks of twelve people."""
    folder.mkdir()
    boxes = []
    for frame in range(1, 5):
        image = rng.integers(0, 256, (64, 32 * 12, 3), np.uint8)
        Image.fromarray(image).save(folder / f"{frame:06d}.png")
        boxes += [
            f"{frame},{person},{32 * person - 32},0,32,64,1,-1,-1,-1" for person in range(1, 13)
        ]
    folder.with_suffix(".txt").write_text("\n".join(boxes))


@pytest.fixture
def folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """Where the commands run: configs, videos and crops under the names that the docs use."""
    (tmp_path / "configs").symlink_to(ROOT / "configs")
    rng = np.random.default_rng(0)
    for name in ("hall", "door", "yard"):
        camera(tmp_path / f"{name}.mp4", rng)
        for tracklet in ("first", "second"):
            (tmp_path / name / tracklet).mkdir(parents=True)
            for frame in range(3):
                pixels = rng.integers(0, 256, (32, 16, 3), np.uint8)
                Image.fromarray(pixels).save(tmp_path / name / tracklet / f"{frame}.png")
    # What scripts/mobilenet_weights.sh writes.
    net = MobileNetV2()
    init = partial(net.init, train=False)
    shapes = jax.eval_shape(init, jax.random.key(0), np.ones((1, 32, 32, 3)))
    zeros = jax.tree.map(lambda leaf: np.zeros(leaf.shape, leaf.dtype), shapes)
    tensors = variables_to_torch({kind: {"backbone": tree} for kind, tree in zeros.items()})
    (tmp_path / "weights").mkdir()
    write_tensors(
        tmp_path / "weights/mobilenet_v2.safetensors",
        {name.removeprefix("base."): array for name, array in tensors.items()},
    )
    (tmp_path / "data").mkdir()
    (tmp_path / "data/mars").symlink_to("drawn")  # what README trains on
    monkeypatch.chdir(tmp_path)
    # Programs are run for a few steps only: compiling them is what takes time. What readers type
    # need not be as strict as our tests.
    with jax.numpy_rank_promotion("allow"):
        jax.config.update("jax_disable_most_optimizations", True)
        yield tmp_path
        jax.config.update("jax_disable_most_optimizations", False)


def steps() -> Iterator[tuple[str, str]]:
    """Commands and Python blocks of all pages, in the order in which they are read."""
    for page in PAGES:
        for language, text in blocks(page):
            if language == "python" and not lacks_an_extra(text):
                yield language, text
            elif language == "bash":
                page_commands = text.replace("\\\n", " ").split("\n")
                yield from ((language, line) for line in page_commands if why_not_run(line) is None)


@pytest.mark.slow
def test_commands_run_in_the_order_of_the_pages(folder: Path) -> None:
    ran = []
    for language, text in steps():
        if language == "python":
            exec(compile(text, "docs", "exec"), {})
            continue
        words = shlex.split(text, comments=True)
        for start, options in SMALL.items():
            # identify takes no config: the features carry what it needs
            if f"python -m {start} " in text and "--mode identify" not in text:
                words += [o for o in options.split() if o.partition("=")[0] not in text]
        if "--config" in words and "--config.pretrained=" not in text:
            words.append("--config.pretrained=none")  # by default a file of the hub
        # One run is trained (and resumed); the others begin, with all checks, and take no step.
        fresh = "--config" in words and not Path(words[words.index("--workdir") + 1]).exists()
        if fresh and Path("runs").exists():
            words.append("--config.train.epochs=0")
        try:
            status = function(words[2])(words[3:])
        except SystemExit as done:
            status = done.code
        assert not status, text
        ran.append(text)
    for what in (
        "prepare synthetic", "prepare mot", "prepare verify", "main --config", "--mode evaluate",
        "--mode embed", "--mode match", "--mode identify", "stf_jax.export", "list_picture",
        "video_reid_builder",
    ):  # fmt: skip
        assert any(what in text for text in ran), what
    for written in (
        "runs/mars/checkpoints", "runs/mars/scores.json", "runs/mars/report/index.html", "list.pdf",
        "door_in_hall/matches.csv", "door_in_hall_too/index.html", "drawn.png",
    ):  # fmt: skip
        assert (folder / written).exists(), written
