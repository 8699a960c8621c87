"Balls: physics that keeps its books, clips that depend on seed and index alone, targets equal to a brute-force oracle."
import hashlib
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch

from slotpapers.core.seeds import numpy_stream
from slotpapers.data import ball_physics as P
from slotpapers.data.ball_batches import ClipBatches, blinking_batch, bouncing_batch, coordinate_batch
from slotpapers.data.ball_physics import ball_motion, dot, pairs_of
from slotpapers.data.ball_pictures import PALETTE, disc_labels, from_tiles, to_classes, to_rgb, to_tiles
from slotpapers.data.balls import RULES, ball_colours, blinking_balls, bouncing_balls, coordinate_streams
from slotpapers.training.loop import LoopConfig, train


def gaps(motion):
    "Distances between the surfaces of every pair, and from every ball to the nearest wall."
    i, j = pairs_of(motion.radii.shape[1])
    apart = motion.positions[:, :, i] - motion.positions[:, :, j]
    pairs = np.sqrt(dot(apart, apart)) - (motion.radii[:, i] + motion.radii[:, j])[:, None]
    walls = np.minimum(motion.positions, motion.box - motion.positions).min(axis=-1) - motion.radii[:, None]
    return pairs, walls


# ---------------------------------------------------------------------------------------------------------------- physics
@pytest.mark.parametrize("options", [
    dict(), dict(n_balls=1), dict(n_balls=2, speed=3.0), dict(n_balls=(6, 8)), dict(n_balls=8, radii=(1.0,), masses=(1.0,), speed=2.0),
    dict(masses=(1.0, 100.0)), dict(box=6, n_balls=3, speed=1), dict(radii=(0.4, 0.8, 1.2), masses=(1, 4, 9), n_balls=5, speed=1.5),
], ids=str)
def test_energy_is_kept_and_nothing_overlaps(options):
    motion = ball_motion(8, seed=4, n_frames=50, **({"speed": 1.2} | options))
    energy = np.nansum(motion.masses[:, None] * dot(motion.velocities, motion.velocities), axis=2)
    assert np.abs(energy / energy[:, :1] - 1).max() < 1e-11
    for each in gaps(motion):
        assert each.size == 0 or np.nanmin(each) > -1e-11
    assert np.isnan(motion.positions).any(axis=(1, 3)).tolist() == (~motion.present).tolist()
    turns = (np.diff(motion.velocities, axis=1) != 0).any(axis=-1) & motion.present[:, None]
    assert turns.any(axis=(1, 2)).all(), "in 50 frames every clip must have had a collision"


def test_every_collision_keeps_momentum_and_energy():
    stream = np.random.default_rng(0)
    for _ in range(200):
        x, v, m = stream.normal(size=(1, 2, 2)), stream.normal(size=(1, 2, 2)), stream.uniform(0.1, 9, size=(1, 2))
        after = v.copy()
        P.collide(x, after, m, np.array([0]), np.array([0]), np.array([1]))
        assert np.allclose((m[..., None] * after).sum(1), (m[..., None] * v).sum(1), atol=1e-13)
        assert np.isclose((m * dot(after, after)).sum(), (m * dot(v, v)).sum(), rtol=1e-13)
        apart = x[:, 0] - x[:, 1]
        before_way, after_way = dot(v[:, 0] - v[:, 1], apart), dot(after[:, 0] - after[:, 1], apart)
        assert np.isclose(after_way, -before_way)                        # elastic: what approached parts as fast


def test_times_to_touch_are_the_roots_of_the_quadratic():
    stream = np.random.default_rng(1)
    x, v, r = stream.uniform(0, 10, size=(500, 2, 2)), stream.normal(size=(500, 2, 2)), stream.uniform(0.1, 0.6, size=(500, 2))
    times, met = P.times_to_touch(x, v, r)[:, 0], 0
    for k in range(500):
        apart, closing = x[k, 0] - x[k, 1], v[k, 0] - v[k, 1]
        gap = apart @ apart - r[k].sum() ** 2
        if gap < 0:
            continue
        roots = np.roots([closing @ closing, 2 * apart @ closing, gap])
        first = min((t.real for t in roots if abs(t.imag) < 1e-9 and t.real > 0), default=np.inf)
        assert (np.isinf(first) and np.isinf(times[k])) or np.isclose(first, times[k], rtol=1e-6)
        met += np.isfinite(first)
    assert met > 20


def test_small_steps_converge_to_the_exact_path():
    "An independent check: one clip integrated in 500 tiny steps a frame, collisions where balls first overlap."
    exact = ball_motion([3], seed=2, n_frames=12, speed=1.0)
    x, v, r, m = exact.positions[0, 0].copy(), exact.velocities[0, 0].copy(), exact.radii[0], exact.masses[0]
    steps, collisions = 500, 0                                  # steps a frame
    for t in range(1, 7):                                        # later, errors of the steps have grown with every collision
        for _ in range(steps):
            x += v / steps
            low, high = x < r[:, None], x > 10 - r[:, None]
            v = np.where(low, np.abs(v), np.where(high, -np.abs(v), v))
            for i, j in zip(*pairs_of(4)):
                w = x[i] - x[j]
                if w @ w < (r[i] + r[j]) ** 2 and w @ (v[i] - v[j]) < 0:
                    w = w / np.sqrt(w @ w)
                    speed = (v[i] - v[j]) @ w
                    v[i], v[j] = v[i] - 2 * m[j] / (m[i] + m[j]) * speed * w, v[j] + 2 * m[i] / (m[i] + m[j]) * speed * w
                    collisions += 1
        assert np.abs(x - exact.positions[0, t]).max() < 0.05, t
    assert collisions > 0


def test_the_classic_physics_keeps_energy_and_overlaps():
    motion = ball_motion(16, seed=1, n_frames=60, speed=0.5, physics="stepped")
    energy = (motion.masses[:, None] * dot(motion.velocities, motion.velocities)).sum(axis=2)
    assert np.abs(energy / energy[:, :1] - 1).max() < 1e-11 and gaps(motion)[0].min() < -0.05
    exact = ball_motion(16, seed=1, n_frames=2, speed=0.5)
    assert (exact.positions[:, 0] == motion.positions[:, 0]).all()
    free = ball_motion([0], n_frames=20, n_balls=1, speed=0.01)
    assert np.allclose(free.positions, ball_motion([0], n_frames=20, n_balls=1, speed=0.01, physics="stepped").positions)


def test_starts_are_uniform_and_scaled():
    motion = ball_motion(400, seed=5, n_frames=1, n_balls=2)
    assert np.allclose(np.sqrt(dot(motion.velocities[:, 0], motion.velocities[:, 0]).mean(axis=1)), 0.25, atol=1e-5)
    assert abs(motion.positions.mean() - 5) < 0.25 and abs((motion.masses == 6).mean() - 0.5) < 0.06
    assert ((motion.masses == 6) == (motion.radii == 1.25)).all()
    angle = np.arctan2(motion.velocities[..., 1], motion.velocities[..., 0])
    assert abs(np.exp(1j * angle).mean()) < 0.1
    assert (np.round(motion.velocities * 2**20) == motion.velocities * 2**20).all()


# ---------------------------------------------------------------------------------------------------------------- by index
GENERATORS = [(lambda i, s=0, **k: bouncing_balls(i, s, size=16, **k).labels), (lambda i, s=0, **k: blinking_balls(i, s, size=16, **k).frames),
              coordinate_streams]


@pytest.mark.parametrize("make", GENERATORS, ids=["bouncing", "blinking", "coordinates"])
def test_a_clip_depends_on_seed_split_and_index_alone(make):
    many = make(12)
    assert (make([7, 0, 11]) == many[[7, 0, 11]]).all() and (make(range(5, 8)) == many[5:8]).all() and (make(np.array([4])) == many[4]).all()
    for other in (make(12, 1), make(12, split="test"), make(range(12, 24))):
        assert not (other == many).all()
    assert (make(12, n_frames=4) == many[:, :4]).all()
    assert len({clip.tobytes() for clip in make(64)}) == 64


def test_tasks_do_not_share_their_clips():
    same = dict(n_frames=3, n_balls=2, speed=0.5)
    firsts = [ball_motion(4, radii=(1.2,), masses=(1.0,), name=name, **same).positions for name in ("bouncing balls", "blinking balls")]
    assert not np.isclose(*firsts).any()


def golden(*arrays):
    return hashlib.sha256(b"".join(np.ascontiguousarray(a).tobytes() for a in arrays)).hexdigest()[:16]


def test_golden_checksums():
    "What was generated once is generated for ever; a change moves every committed number."
    blinking = blinking_balls(8, n_frames=10)
    assert golden(bouncing_balls(8).labels) == "ac203b07d4937bfe"
    assert golden(bouncing_balls(8, n_balls=(6, 8), n_frames=50, size=32).labels) == "b7bd7d5b922c67aa"
    assert golden(blinking.frames, blinking.target("earliest"), blinking.target("most_frequent")) == "04f7c4c709fcc16a"
    assert golden(coordinate_streams(8)) == "2769632def7e1c21"


# ---------------------------------------------------------------------------------------------------------------- pictures
@pytest.mark.parametrize("size", [12, 16, 33, 64, 128])
def test_pixels_are_those_whose_centre_is_inside(size):
    clips = bouncing_balls(2, n_frames=3, size=size, n_balls=(2, 4))
    motion = clips.motion
    for b, t in np.ndindex(2, 3):
        for row, column in [(0, 0), (size // 2, size // 3), *np.argwhere(clips.labels[b, t])[::7].tolist()]:
            centre = (np.array([column, row]) + 0.5) * 10 / size
            inside = [k + 1 for k in range(4) if np.hypot(*(centre - motion.positions[b, t, k])) <= motion.radii[b, k]]
            assert clips.labels[b, t, row, column] == (inside[0] if inside else 0)
    assert ((clips.labels > 0) == clips.frames).all() and clips.frames.dtype == np.uint8


def test_share_of_white_pixels_and_the_error_of_the_mean():
    "The sanity numbers of the benchmark: foreground 0.14 to 0.2, mean image p (1 - p), unrelated frames 2 p (1 - p)."
    frames = bouncing_balls(200, n_frames=2)
    last = frames.frames[:, -1].astype(float)
    p = last.mean()
    assert 0.14 < p < 0.2 and abs(((last - last.mean(axis=0)) ** 2).mean() - p * (1 - p)) < 0.02
    assert abs(((last - np.roll(last, 1, axis=0)) ** 2).mean() - 2 * p * (1 - p)) < 0.02


def test_seven_colours_and_no_other():
    for clips in (blinking_balls(20), blinking_balls(6, n_frames=10, size=32, n_balls=(2, 5))):
        for pictures in (clips.frames, *(clips.target(rule) for rule in RULES)):
            rgb = to_rgb(pictures)
            assert rgb.dtype == np.uint8 and (to_classes(rgb) == pictures).all()
            assert {tuple(c) for c in rgb.reshape(-1, 3).tolist()} <= {tuple(c) for c in PALETTE.tolist()}
    blurred = (to_rgb(pictures)[:, 1:].astype(int) + to_rgb(pictures)[:, :-1]) // 2
    with pytest.raises(ValueError, match="must hold only the 7 colours of the palette; got"):
        to_classes(blurred.astype(np.uint8))
    other = PALETTE[::-1].copy()
    assert (to_classes(to_rgb(pictures, other), other) == pictures).all()


@pytest.mark.parametrize("n_frames", [5, 10])
@pytest.mark.parametrize("n_patches", [16, 64, 256])
def test_tiles_in_reading_order(n_frames, n_patches):
    frames = blinking_balls(2, n_frames=n_frames).frames
    tiles, side = to_tiles(frames, n_patches), int(n_patches**0.5)
    h = 64 // side
    assert tiles.shape == (2, n_frames * n_patches, h, h) and (from_tiles(tiles, n_patches) == frames).all()
    for step in range(0, n_frames * n_patches, 37):
        t, place = divmod(step, n_patches)
        y, x = divmod(place, side)
        assert (tiles[:, step] == frames[:, t, y * h:(y + 1) * h, x * h:(x + 1) * h]).all()
    rgb = to_rgb(frames)
    assert (from_tiles(to_tiles(rgb, n_patches), n_patches) == rgb).all()


@pytest.mark.parametrize("n_patches", [0, 15, 9, -4])
def test_tiles_that_do_not_fit(n_patches):
    with pytest.raises(ValueError, match=f"n_patches must be a square number whose root divides height and width; got {n_patches}"):
        to_tiles(np.zeros((1, 2, 64, 64), np.uint8), n_patches)


# ---------------------------------------------------------------------------------------------------------------- blinking
def oracle(picked, colours, n_balls, rule):
    "The rule as one would say it, frame by frame."
    answer = []
    for ball in range(n_balls):
        history = [c for who, c in zip(picked, colours) if who == ball]
        if not history:
            answer.append(1)
        elif rule == "earliest":
            answer.append(history[0])
        else:
            counts = Counter(history)
            answer.append(next(c for c in history if counts[c] == max(counts.values())))
    return answer


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("T", [1, 2, 5, 10, 40])
def test_rules_equal_the_oracle(rule, T):
    stream = np.random.default_rng(T)
    picked, colours = stream.integers(0, 4, size=(400, T)), stream.integers(2, 7, size=(400, T))
    expected = [oracle(p, c, 4, rule) for p, c in zip(picked, colours)]
    assert ball_colours(picked, colours, 4, rule).tolist() == expected


@pytest.mark.parametrize("picked, colours, earliest, most_frequent", [
    ([0, 0, 0, 0], [4, 2, 2, 4], 4, 4),            # two of each: the one that came first
    ([0, 0, 0, 0], [2, 4, 4, 2], 2, 2),
    ([0, 0, 0, 0, 0], [5, 4, 2, 2, 4], 5, 4),      # the tie is between those two alone
    ([0, 0, 0], [3, 6, 6], 3, 6),
    ([0, 1, 0], [3, 6, 6], 3, 3),
    ([1, 1, 1], [3, 6, 6], 1, 1),                  # never picked: white
])
def test_ties_by_hand(picked, colours, earliest, most_frequent):
    both = [int(ball_colours(np.array([picked]), np.array([colours]), 2, rule)[0, 0]) for rule in RULES]
    assert both == [earliest, most_frequent]


@pytest.mark.parametrize("rule", RULES)
@pytest.mark.parametrize("options", [dict(), dict(n_frames=10), dict(n_balls=(2, 5), size=40)], ids=str)
def test_targets_equal_the_oracle_read_from_the_pictures_alone(rule, options):
    "Which ball had which colour is read back from the frames, not from the records."
    clips = blinking_balls(40, seed=2, **options)
    target = clips.target(rule)
    for b in range(40):
        picked, colours = [], []
        for t, frame in enumerate(clips.frames[b]):
            lit = frame > 1
            balls, shown = np.unique(clips.labels[b, t][lit]), np.unique(frame[lit])
            assert len(balls) == len(shown) == 1 and ((frame > 0) == (clips.labels[b, t] > 0)).all()
            picked.append(int(balls[0]) - 1)
            colours.append(int(shown[0]))
        assert picked == clips.picked[b].tolist() and colours == clips.colours[b].tolist()
        expected = np.array([0, *oracle(picked, colours, clips.motion.radii.shape[1], rule)])
        assert (expected[clips.labels[b, -1]] == target[b]).all()


def test_blinks_are_uniform_and_independent():
    clips = blinking_balls(600, n_frames=10, size=4)
    joint = np.bincount((clips.picked * 5 + clips.colours - 2).ravel(), minlength=20) / clips.picked.size
    assert np.abs(joint - 1 / 20).max() < 0.01
    again = (clips.picked[:, 1:] == clips.picked[:, :-1]).mean()
    assert abs(again - 1 / 4) < 0.02
    few = blinking_balls(60, n_balls=(2, 5), size=4)
    assert (few.picked < few.motion.present.sum(axis=1, keepdims=True)).all()


def test_an_unknown_rule_is_named():
    with pytest.raises(ValueError, match="rule must be one of 'earliest', 'most_frequent'; got 'latest'"):
        blinking_balls(1, size=8).target("latest")


# ---------------------------------------------------------------------------------------------------------------- batches
def test_coordinates_are_the_motion_in_the_unit_square():
    x = coordinate_streams(5, n_balls=8, n_frames=30)
    assert x.dtype == np.float32 and x.shape == (5, 30, 8, 2) and np.abs(x).max() <= 0.8 + 1e-6
    batch = coordinate_batch(5, n_balls=8, n_frames=30)
    assert batch["x"].numpy().tobytes() == np.ascontiguousarray(x[:, :-1]).tobytes() and (batch["target"].numpy() == x[:, 1:]).all()


def test_blinking_batch_holds_the_clip():
    clips, batch = blinking_balls(3, 7, n_frames=10), blinking_batch(range(3), 7, n_frames=10, n_patches=64, rule="most_frequent")
    back = from_tiles(np.moveaxis(batch["x"].numpy(), 2, -1), 64)
    assert (to_classes((back * 255).astype(np.uint8)) == clips.frames).all()
    assert (batch["target"].numpy() == clips.target("most_frequent")).all()


@pytest.mark.parametrize("n", [None, 1, 5, 16, 100])
def test_batches_are_a_function_of_the_step(n):
    batches, again = (ClipBatches(partial(coordinate_batch, n_frames=2), 8, n=n, seed=1) for _ in range(2))
    for step in (5, 0, 31):
        assert batches(step)["x"].equal(again(step)["x"])
        assert torch.cat([batches(step, rank, 4)["x"] for rank in range(4)]).equal(batches(step)["x"])
    seen = np.concatenate([batches.indices(step) for step in range(50)])
    assert (seen == np.arange(400)).all() if n is None else all(sorted(seen[k:k + n]) == list(range(n)) for k in range(0, 400 - n + 1, n))


def test_a_training_that_stops_goes_on_as_if_it_had_not(tmp_path):
    def model():
        torch.manual_seed(0)
        return torch.nn.Linear(2, 2)

    def terms(model, batch):
        return {"mse": (model(batch["x"]) - batch["target"]).square().mean()}

    batches = ClipBatches(partial(coordinate_batch, n_frames=4), 4, n=10)
    config = dict(lr=0.1, progress=False, accelerator="cpu", checkpoint_every=2)

    class Stop(Exception):
        pass

    def stops(step):
        if step == 5:
            raise Stop
        return batches(step)

    whole = train(model(), terms, batches, LoopConfig(steps=8, **config))
    with pytest.raises(Stop):
        train(model(), terms, stops, LoopConfig(steps=8, **config), folder=tmp_path)
    rest = train(model(), terms, batches, LoopConfig(steps=8, **config), folder=tmp_path)
    assert rest.resumed_from == 4 and rest.history["mse"].tolist() == whole.history["mse"].tolist()


# ---------------------------------------------------------------------------------------------------------------- boundaries
@pytest.mark.parametrize("call, words", [
    (lambda: ball_motion(0), "indices must name at least one clip, each 0 or above; got 0"),
    (lambda: ball_motion([3, -1]), "indices must name at least one clip"),
    (lambda: ball_motion(1, n_balls=0), "n_balls and n_frames must be at least 1.* got n_balls=0"),
    (lambda: ball_motion(1, n_balls=(4, 2)), r"got n_balls=\(4, 2\)"),
    (lambda: ball_motion(1, n_frames=0), "n_frames=0"),
    (lambda: ball_motion(1, radii=(1.0,)), r"radii and masses positive and as many.* radii=\(1.0,\), masses=\(1.0, 6.0\)"),
    (lambda: ball_motion(1, radii=(6.0,), masses=(1.0,)), "box wider than a ball"),
    (lambda: ball_motion(1, speed=-1), "speed=-1"),
    (lambda: ball_motion(1, physics="quantum"), "physics must be one of 'exact', 'stepped'; got 'quantum'"),
    (lambda: ball_motion(1, n_balls=25), "25 balls .* found no room in a box of side 10"),
    (lambda: bouncing_balls(1, size=0), "size must be at least 1 pixel"),
    (lambda: ClipBatches(coordinate_batch, 0), "batch_size and n must be at least 1; got batch_size=0, n=None"),
    (lambda: ClipBatches(coordinate_batch, 4, n=0), "n=0: n=None is endless"),
    (lambda: ClipBatches(coordinate_batch, 4)(0, 0, 3), "batch_size must be a multiple of the number of processes; got 4 and 3"),
], ids=range(14))
def test_errors_name_argument_and_value(call, words):
    with pytest.raises(ValueError, match=words):
        call()


def test_no_speed_no_motion():
    motion = ball_motion(3, n_frames=4, speed=0)
    assert (motion.positions == motion.positions[:, :1]).all()


def test_labels_of_many_discs_and_their_order():
    where = np.full((1, 1, 2, 2), 5.0)
    assert set(np.unique(disc_labels(where, np.array([[2.0, 1.0]]), 10, 32))) == {0, 1, 2}
    assert set(np.unique(disc_labels(where, np.array([[1.0, 2.0]]), 10, 32))) == {0, 2}


def test_streams_of_two_names_differ():
    assert numpy_stream(0, "bouncing balls", "train", 1).random() != numpy_stream(0, "bouncing balls", "test", 1).random()
