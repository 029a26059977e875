"""One run of several, such as splits or seeds: trained and scored once, however often requested."""

import json
from pathlib import Path
from typing import Any

from stf_jax.config import Config, to_json
from stf_jax.evaluate import evaluate_workdir
from stf_jax.run.checkpoint import find_step
from stf_jax.run.evaluations import EVALUATIONS_FOLDER, SCORES_FILE, evaluation_folder
from stf_jax.run.restore import default_checkpoint
from stf_jax.run.run_files import differing_keys, read_run_files, run_config
from stf_jax.train import FREE_KEYS, train

# Of the keys that a run may change, those that change its scores.
_OF_SCORES = ("evaluation.",)


def train_and_score(config: Config, workdir: Path, checkpoint: str | None = None) -> dict[str, Any]:
    """Return the rows of `workdir`'s scores.json (label -> `make_scores`), made if need be.

    A run that was stopped resumes; one that is trained and scored is left as it is, unless the
    config's evaluation or the checkpoint is another one now: then it is scored again. Raises what
    `train` and `evaluate_workdir` do, so UserError for a workdir of another config and
    RunStoppedError.
    """
    before = read_run_files(workdir)
    changed = []
    if before is not None:
        changed = list(differing_keys(to_json(run_config(workdir)), to_json(config)))
    other_run = [key for key in changed if not key.startswith(FREE_KEYS)]  # train refuses it
    stale = before is None or any(key.startswith(_OF_SCORES) for key in changed)
    if stale and not other_run:
        (workdir / SCORES_FILE).unlink(missing_ok=True)
    scored = [workdir / SCORES_FILE, *workdir.glob(f"{EVALUATIONS_FOLDER}/*/{SCORES_FILE}")]
    if other_run or stale or not any(path.is_file() for path in scored):
        train(config, workdir)
    which = checkpoint or default_checkpoint(workdir)
    step = find_step(workdir / "checkpoints", which)
    path = evaluation_folder(config, workdir, step) / SCORES_FILE
    scores = {}
    if path.is_file() and not stale:
        scores = json.loads(path.read_text(encoding="utf-8"))
    if (scores.get("step"), scores.get("checkpoint")) != (step, which):
        scores = evaluate_workdir(config, workdir, checkpoint)
    return scores["rows"]
