import numpy as np
import pytest

from stf_jax.prepare.drawing.appearance import BLOCK, contrast, draw_appearance


def outfits(difficulty, count=24):
    return [draw_appearance(3, 0, person, difficulty).outfit for person in range(count)]


def test_at_full_difficulty_a_block_wears_the_same_and_keeps_its_details():
    people = [draw_appearance(3, 0, person, 1000) for person in range(2 * BLOCK)]
    assert len({person.outfit for person in people}) == 2
    details = {
        (p.pattern, p.cycles, p.front_logo, p.back_logo, p.bag, p.haircut, p.hat) for p in people
    }
    assert len(details) == len(people)


def test_at_no_difficulty_nobody_shares_an_outfit():
    assert len(set(outfits(0))) == 24


@pytest.mark.parametrize("difficulty", [300, 700])
def test_the_share_of_look_alikes_follows_the_difficulty(difficulty):
    shared, own = outfits(1000, 400), outfits(0, 400)
    seen = outfits(difficulty, 400)
    alike = [a == b for a, b in zip(seen, shared, strict=True)]
    assert np.mean(alike) == pytest.approx(difficulty / 1000, abs=0.07)
    assert all(a or b == c for a, b, c in zip(alike, seen, own, strict=True))


def test_more_difficulty_only_adds_look_alikes():
    low, high = outfits(300, 100), outfits(700, 100)
    shared = outfits(1000, 100)
    assert all(b == c for a, b, c in zip(low, high, shared, strict=True) if a == c)


def test_the_two_colours_of_a_top_can_be_distinguished():
    assert all(contrast(outfit.top, outfit.second) > 90 for outfit in outfits(0, 200))


def test_groups_and_seeds_are_other_people():
    people = {draw_appearance(seed, group, 5, 500) for seed in (0, 1) for group in (0, 2)}
    assert len(people) == 4
