import numpy as np
import pytest

from stf_jax.prepare.drawing.exact import generator
from stf_jax.prepare.drawing.passages import decide_passage
from stf_jax.prepare.drawing.scenes import draw_camera


def passages(occlusion, count=60, length=24, people=range(10, 20), own=12, difficulty=None):
    difficulty = occlusion if difficulty is None else difficulty
    camera = draw_camera(generator(0, 1), difficulty)
    return [
        decide_passage(generator(0, 2, k), camera, length, people, own, difficulty, occlusion)
        for k in range(count)
    ]


def share(occlusion, field, difficulty=None):
    found = passages(occlusion, difficulty=difficulty)
    moments = [moment for passage in found for moment in passage.moments]
    return np.mean([getattr(moment, field) is not None for moment in moments])


@pytest.mark.parametrize("field", ["passer", "obstacle"])
@pytest.mark.parametrize("difficulty", [None, 350])
def test_disturbances_grow_with_the_occlusion(field, difficulty):
    shares = [share(occlusion, field, difficulty) for occlusion in (0, 300, 600, 1000)]
    assert shares[0] == 0
    assert all(np.diff(shares) > 0.02)
    assert shares[-1] < 0.6


def test_nobody_crosses_their_own_picture_and_all_others_may():
    numbers = {
        moment.passer[0].number
        for passage in passages(1000, count=200)
        for moment in passage.moments
        if moment.passer is not None and not moment.passer[0].stranger
    }
    assert numbers == set(range(10, 20)) - {12}


def test_without_others_only_strangers_cross():
    for people, own in ((range(0), -1), (range(5, 6), 5)):
        crossing = [
            moment.passer[0].stranger
            for passage in passages(1000, people=people, own=own)
            for moment in passage.moments
            if moment.passer is not None
        ]
        assert crossing
        assert all(crossing)


def test_some_frames_show_mainly_the_wrong_person():
    moments = [moment for passage in passages(700) for moment in passage.moments]
    wrong = [m for m in moments if m.passer and abs(m.passer[1]) < 150 and abs(m.aside) > 300]
    assert 0.02 < len(wrong) / len(moments) < 0.4


def test_standing_still_gives_near_duplicates():
    runs = 0
    for passage in passages(500):
        for before, after in zip(passage.moments[:-1], passage.moments[1:], strict=True):
            if before.standing and after.standing:
                runs += 1
                for field in ("heading", "phase", "scroll", "shift", "figure"):
                    assert getattr(before, field) == getattr(after, field)
            elif not after.standing:
                assert after.phase > before.phase
    assert runs > 50


def test_many_passages_hold_a_turn():
    turns = [
        max(m.heading for m in p.moments) - min(m.heading for m in p.moments) for p in passages(500)
    ]
    assert 0.3 < np.mean(np.array(turns) > 40) < 0.9


@pytest.mark.parametrize("length", [1, 2, 3])
def test_the_shortest_passages_work(length):
    for passage in passages(1000, count=40, length=length):
        assert len(passage.moments) == length
