"Generated scenes: the same on every machine and in any order, masks that fit their tracks, objects that obey mechanics."
import hashlib
from dataclasses import replace

import numpy as np
import pytest

from slotpapers.core.seeds import numpy_stream
from slotpapers.data.scene_motion import bounce, place, simulate, time_to_contact, time_to_wall
from slotpapers.data.scene_parts import COLOURS, DIFFICULTIES, PATTERNS, Texture, draw, draw_texture, vary, weave
from slotpapers.data.scenes_2d import SHAPES, draw_plan, draw_scene_2d, paint, paint_background, patch

STEPS = list(DIFFICULTIES)


def same(one, other) -> bool:
    return (one.frames == other.frames).all() and (one.segments == other.segments).all() and one.classes == other.classes and one.attributes == other.attributes


# The same data


@pytest.mark.parametrize("difficulty, expected", [
    ("A", "0130319a"), ("B", "876760f9"), ("C", "8051e344"), ("D", "ac0de8dd"), ("E", "240ae373"), ("Tex", "a1f008d0")], ids=STEPS)
def test_golden_checksums(difficulty, expected):
    scenes = [draw_scene_2d(7, i, DIFFICULTIES[difficulty], n_steps=5, size=40) for i in range(4)]
    digest = hashlib.sha256()
    for s in scenes:
        for array in (s.frames, s.segments, s.depth, s.boxes, np.round(s.tracks["position"] * 1e9)):
            digest.update(np.ascontiguousarray(array).tobytes())
    assert digest.hexdigest()[:8] == expected


@pytest.mark.parametrize("difficulty", STEPS)
def test_a_scene_depends_on_seed_and_index_alone(difficulty):
    step = DIFFICULTIES[difficulty]
    first = [draw_scene_2d(3, i, step) for i in range(5)]
    again = [draw_scene_2d(3, i, step) for i in (4, 0, 2, 3, 1)]
    assert all(same(first[i], a) for i, a in zip((4, 0, 2, 3, 1), again))
    assert not same(first[0], first[1]) and not same(first[0], draw_scene_2d(4, 0, step))
    long, short = (draw_scene_2d(3, 1, step, n_steps=t) for t in (9, 4))
    assert (long.frames[:4] == short.frames).all() and (long.segments[:4] == short.segments).all() and (long.frames[:1] == first[1].frames).all()


def test_the_global_generator_plays_no_part():
    np.random.seed(0)
    before = np.random.get_state()[1].copy()
    one = draw_scene_2d(0, 0, DIFFICULTIES["C"])
    assert (np.random.get_state()[1] == before).all()
    np.random.seed(5)
    assert same(one, draw_scene_2d(0, 0, DIFFICULTIES["C"]))


# Masks, boxes, visibility, depth


@pytest.mark.parametrize("difficulty", STEPS)
def test_records_are_consistent(difficulty):
    step = DIFFICULTIES[difficulty]
    for i in range(6):
        s = draw_scene_2d(1, i, step, n_steps=8, size=48)
        n = s.n_objects
        assert step.n_objects[0] <= n <= step.n_objects[1] and s.simulated and s.fps == 12
        assert set(s.classes) <= set(list(SHAPES)[:step.shapes]) and set(s.attributes["colour"]) <= set(COLOURS)
        assert all(len(v) == n for v in s.attributes.values()) and all(v.shape[:2] == (8, n) for v in s.tracks.values())
        for t in range(8):
            for k in range(n):
                rows, columns = np.nonzero(s.segments[t] == k + 1)
                assert s.visible[t, k] == len(rows) <= s.tracks["whole"][t, k]
                if len(rows):
                    assert s.boxes[t, k].tolist() == [columns.min(), rows.min(), columns.max(), rows.max()]
                    centre, r = s.tracks["position"][t, k] * 48, s.attributes["radius"][k] * 48
                    assert np.hypot(columns + 0.5 - centre[0], rows + 0.5 - centre[1]).max() <= r + 1e-3      # within the circle, so the id is right
        near = np.array([10.0, *(4.0 + 2.0 * np.array(s.attributes["layer"]))], np.float32)
        assert (s.depth == near[s.segments]).all()


@pytest.mark.parametrize("difficulty", STEPS)
def test_nobody_is_lost_at_the_start(difficulty):
    for i in range(60):
        s = draw_scene_2d(2, i, DIFFICULTIES[difficulty])
        assert (s.visible > 0).all() and s.segments.max() == s.n_objects, i


@pytest.mark.parametrize("difficulty", ["A", "C", "D", "Tex"])
def test_objects_stay_in_the_frame_when_the_camera_rests(difficulty):
    for i in range(5):
        s = draw_scene_2d(2, i, DIFFICULTIES[difficulty], n_steps=36)
        radius = np.array(s.attributes["radius"])[:, None]
        assert (s.tracks["position"] - radius).min() > -1e-9 and (s.tracks["position"] + radius).max() < 1 + 1e-9
        whole = s.tracks["whole"]
        assert (whole > 0).all() and (whole.max(axis=0) - whole.min(axis=0) <= 0.3 * whole.max(axis=0) + 6).all()    # turned, never cut


def test_the_nearer_layer_covers_and_one_layer_never_overlaps():
    step, seen = DIFFICULTIES["D"], 0
    for i in range(8):
        plan = draw_plan(numpy_stream(0, "scenes", i), step)
        times = np.arange(6) / 12
        motion = simulate(plan.start, plan.speeds, plan.radii, plan.layers, times)
        _, segments, whole, _ = paint(plan, motion, times, 64)
        n, alone = len(plan.shapes), []
        for k in range(n):
            only = replace(plan, shapes=[plan.shapes[k]], textures=[plan.textures[k]], colours=[plan.colours[k]], layers=plan.layers[[k]],
                           radii=plan.radii[[k]], angles=plan.angles[[k]], spins=plan.spins[[k]], start=plan.start[[k]], speeds=plan.speeds[[k]])
            one = replace(motion, positions=motion.positions[:, [k]], velocities=motion.velocities[:, [k]], contacts=motion.contacts[:, [k]])
            alone.append(paint(only, one, times, 64)[1] > 0)
        alone = np.stack(alone)
        assert (alone.sum(axis=(2, 3)).T == whole).all()
        for layer in range(3):
            assert alone[plan.layers == layer].sum(axis=0).max() <= 1
        nearest = np.where(alone, plan.layers.reshape(-1, 1, 1, 1), 9)
        assert (segments == np.where(alone.any(axis=0), 1 + nearest.argmin(axis=0), 0)).all()
        seen += (alone.sum(axis=0) > 1).sum()
    assert seen > 1000


def test_a_resting_object_keeps_its_pixels_under_its_id():
    s = draw_scene_2d(0, 0, DIFFICULTIES["D"], n_steps=10)
    rest = [k for k in range(s.n_objects) if (s.tracks["velocity"][:, k] == 0).all()]
    assert rest and all(np.ptp(s.tracks["position"][:, k], axis=0).max() == 0 for k in rest)


def test_ids_follow_their_objects_through_time():
    s = draw_scene_2d(5, 1, DIFFICULTIES["A"], n_steps=24, size=96)
    for k in range(s.n_objects):                                     # uniform colours: an id has one colour for ever
        colours = {tuple(c) for t in range(24) for c in np.unique(s.frames[t][s.segments[t] == k + 1], axis=0).tolist()}
        assert len(colours) == 1 and colours == {COLOURS[s.attributes["colour"][k]]}


def test_size_changes_pixels_and_not_the_scene():
    small, large = (draw_scene_2d(0, 4, DIFFICULTIES["C"], n_steps=3, size=size) for size in (32, 128))
    assert small.classes == large.classes and (small.tracks["position"] == large.tracks["position"]).all()
    assert np.abs(small.boxes * 4 - large.boxes).max() < 10
    assert (large.segments[:, 2::4, 2::4] == small.segments).mean() > 0.97


# What the steps add


def test_steps_differ_as_described():
    drawn = {name: [draw_scene_2d(9, i, step, n_steps=13) for i in range(8)] for name, step in DIFFICULTIES.items()}
    spread = {name: np.mean([s.frames[0][s.segments[0] == 0].std(axis=0).mean() for s in several]) for name, several in drawn.items()}
    plain = {name: {p for s in several for p in s.attributes["texture"]} == {"plain"} for name, several in drawn.items()}
    still = {name: np.mean([(s.tracks["velocity"][0] == 0).all(axis=-1).mean() for s in several]) for name, several in drawn.items()}
    moved = {name: np.mean([np.any(s.frames[0] != s.frames[-1], axis=-1)[(s.segments[0] == 0) & (s.segments[-1] == 0)].mean() for s in several]) for name, several in drawn.items()}
    assert plain == {"A": True, "B": False, "C": False, "D": False, "E": False, "Tex": False}
    assert spread["A"] == spread["B"] == 0 < 5 < min(spread[k] for k in ("C", "D", "E", "Tex"))
    assert still["A"] == still["C"] == 0 and still["D"] > 0.6 and still["E"] > 0.6
    assert moved["C"] == moved["D"] == 0 < 0.2 < moved["E"]
    assert min(s.n_objects for s in drawn["D"] + drawn["E"]) >= 10 > max(s.n_objects for s in drawn["C"])
    for s in drawn["Tex"]:
        assert len(set(s.attributes["texture"])) == 1                 # all of the background's pattern


def test_number_of_objects_can_be_chosen():
    for bounds in ((1, 1), (24, 24), (2, 3)):
        found = {draw_scene_2d(0, i, DIFFICULTIES["B"], n_objects=bounds).n_objects for i in range(6)}
        assert min(found) >= bounds[0] and max(found) <= bounds[1]


def test_far_layers_drift_less_under_a_moving_camera():
    s = draw_scene_2d(0, 0, replace(DIFFICULTIES["E"], moving=(0, 0)), n_steps=12)
    shift = np.hypot(*(s.tracks["position"][-1] - s.tracks["position"][0]).T)
    by_layer = [shift[np.array(s.attributes["layer"]) == k] for k in range(3)]
    assert all(np.ptp(group) < 1e-12 for group in by_layer) and by_layer[0][0] > by_layer[1][0] > by_layer[2][0] > 0
    assert np.isclose(by_layer[0][0] / by_layer[2][0], 8 / 4)


# Mechanics


@pytest.mark.parametrize("case", range(6))
def test_momentum_energy_and_distance(case):
    stream = numpy_stream(case, "mechanics")
    layers = stream.integers(0, 2, size=14)
    x, radii = place(stream, draw(stream, 0.04, 0.1, 14), layers)
    v, times = draw(stream, -1, 1, (14, 2)), np.arange(60) / 12
    m = (radii ** 2)[:, None]
    for walls in (False, True):
        motion = simulate(x, v, radii, layers, times, walls=walls)
        energy = (m * motion.velocities ** 2).sum(axis=(1, 2))
        assert np.ptp(energy) <= 1e-12 * energy[0]
        if not walls:
            for layer in range(2):
                p = (m * motion.velocities)[:, layers == layer].sum(axis=1)
                assert np.abs(p - p[0]).max() < 1e-14
        gap = np.linalg.norm(motion.positions[:, :, None] - motion.positions[:, None], axis=-1) - (radii[:, None] + radii)
        pairs = np.triu(layers[:, None] == layers, 1)
        assert gap[:, pairs].min() > -1e-9
    assert motion.contacts.sum() > 20


def test_simulation_against_small_time_steps():
    "The twin moves in steps of 20 microseconds and bounces whoever overlaps and approaches."
    stream = numpy_stream(2, "twin")
    layers = np.zeros(4, int)
    x, radii = place(stream, np.full(4, 0.12), layers)
    v = draw(stream, -0.8, 0.8, (4, 2))
    exact = simulate(x, v, radii, layers, np.array([0.0, 0.25, 0.5]))
    dt, a, b = 2e-5, x.copy(), v.copy()
    for _ in range(25000):
        a += dt * b
        for side in (a < radii[:, None], a > 1 - radii[:, None]):
            outward = side & (np.sign(b) == (1 if side is None else np.where(a > 0.5, 1, -1)))
            b[outward] *= -1
        for i in range(4):
            for j in range(i):
                d, w = a[j] - a[i], b[j] - b[i]
                if d @ d < (radii[i] + radii[j]) ** 2 and d @ w < 0:
                    bounce(a, b, radii ** 2, i, j)
    assert exact.contacts.sum() > 2
    assert np.abs(a - exact.positions[-1]).max() < 2e-3


def test_no_event_is_missed_between_frames():
    fine = simulate(np.array([[0.5, 0.5]]), np.array([[3.0, 0.0]]), np.array([0.1]), np.zeros(1, int), np.arange(101) / 100)
    coarse = simulate(np.array([[0.5, 0.5]]), np.array([[3.0, 0.0]]), np.array([0.1]), np.zeros(1, int), np.arange(2) / 1.0)
    assert np.allclose(fine.positions[-1], coarse.positions[-1]) and fine.contacts.sum() == coarse.contacts.sum() == 4


def test_the_guard_ends_endless_rattling():
    with pytest.raises(RuntimeError, match="more than most=3 contacts within .* no room"):
        simulate(np.array([[0.5, 0.5]]), np.array([[3.0, 0.0]]), np.array([0.1]), np.zeros(1, int), np.arange(11) / 1.0, most=3)


def test_contacts_of_nobody():
    assert time_to_contact(np.zeros((0, 2)), np.zeros((0, 2)), np.zeros(0)).shape == (0,)
    assert np.isinf(time_to_wall(np.full((2, 2), 0.5), np.zeros((2, 2)), np.full(2, 0.1))).all()
    alone = simulate(np.array([[0.5, 0.5]]), np.zeros((1, 2)), np.array([0.1]), np.zeros(1, int), np.arange(3) / 1.0)
    assert (alone.positions == 0.5).all()


# Textures and shapes


@pytest.mark.parametrize("pattern", PATTERNS)
def test_patterns_fill_their_range(pattern):
    texture = draw_texture(numpy_stream(0, pattern), pattern, (200, 40, 40), (2, 2))
    points = np.linspace(-2, 2, 200, dtype=np.float32)
    woven = weave(texture, *np.meshgrid(points, points))
    assert woven.dtype == np.uint8
    if pattern == "plain":
        assert not woven.any() and texture.first == texture.second
    elif pattern == "noise":
        assert woven.min() < 60 and woven.max() > 180
    else:
        assert woven.min() < 5 and woven.max() > 250
        if pattern != "gradient":
            assert set(np.unique(woven)) == {0, 255}
    moved = replace(texture, phase=(texture.phase[0] + 8, texture.phase[1] + 8))      # all patterns but rings repeat
    assert pattern == "rings" or (weave(moved, *np.meshgrid(points, points)) == woven).mean() > 0.98


def test_a_ramp_runs_from_colour_to_colour():
    ramp = Texture("noise", (250, 0, 9), (5, 255, 9)).ramp().astype(int)
    assert ramp[0].tolist() == [250, 0, 9] and ramp[255].tolist() == [5, 255, 9]
    assert (np.diff(ramp[:, 0]) <= 0).all() and (np.diff(ramp[:, 1]) >= 0).all() and (ramp[:, 2] == 9).all()


def test_colours_vary_within_bytes():
    for i in range(50):
        made = vary(numpy_stream(0, i), (250, 3, 100))
        assert all(0 <= c <= 255 for c in made) and max(abs(a - b) for a, b in zip(made, (250, 3, 100))) <= 24


def test_a_still_background_is_repeated_and_a_moving_one_painted():
    texture = draw_texture(numpy_stream(1), "noise", (200, 40, 40), (3, 3))
    still, moving = paint_background(texture, np.zeros((4, 2)), 32), paint_background(texture, np.arange(8).reshape(4, 2) / 32.0, 32)
    assert still.shape == moving.shape == (4, 32, 32, 3) and (still == still[:1]).all()
    assert (moving[1, 3:, 2:] == still[0, :-3, :-2]).mean() > 0.95           # shifted by (2, 3) pixels


@pytest.mark.parametrize("name", SHAPES)
def test_a_patch_lies_within_the_frame(name):
    one, zero = np.ones(2, np.float32), np.zeros(2, np.float32)
    found = patch(SHAPES[name], np.array([[0.0, 0.0], [5.0, -3.0]]), 0.2, one, zero, 20)
    assert found.whole[1] == 0 and len(found.at) == found.whole[0] and found.at.max(initial=0) < 400
