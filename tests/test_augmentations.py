"Augmentations against slow twins written sample by sample, their distributions, and the batches made of them."
import itertools
import pickle
from collections import Counter
from functools import partial

import numpy as np
import pytest
import torch
from scipy.interpolate import CubicSpline
from scipy.spatial.transform import Rotation

from slotpapers.core.seeds import numpy_stream, torch_stream
from slotpapers.data import augmentations, augmented_batches
from slotpapers.data.augmentations import (ORDERS, add_noise, cut_lengths, mask_segments, negate, permute_segments, rotate,
                                           rotation_matrices, scale, shuffle_axes, spline_matrix, time_flip, time_warp, warped_times)
from slotpapers.data.augmented_batches import (EIGHT, Augmented, altered_copies, changed_windows, fixed_batches, masked_windows,
                                               one_view, ranked_candidates, two_views)

ALL = {"noise": add_noise, "scale": scale, "negate": negate, "flip": time_flip, "rotate": rotate, "shuffle": shuffle_axes,
       "permute": permute_segments, "warp": time_warp, "joint warp": partial(time_warp, joint=True)}


def windows(n=6, n_steps=100, dtype=torch.float64):
    return torch.from_numpy(numpy_stream(0, "augmentation tests").normal(3, 2, (n, 3, n_steps))).to(dtype)


def stream(*path):
    return torch_stream(0, "augmentation tests", *path)


@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
@pytest.mark.parametrize("name", ALL)
def test_every_change_keeps_shape_and_type_repeats_and_leaves_its_input_alone(name, dtype):
    x = windows(dtype=dtype)
    before = x.clone()
    changed = ALL[name](x, stream(name))
    assert changed.shape == x.shape and changed.dtype == dtype and torch.isfinite(changed).all() and not changed.equal(x)
    assert ALL[name](x, stream(name)).equal(changed) and x.equal(before)
    assert name in ("negate", "flip") or not ALL[name](x, stream(name, "other")).equal(changed)


@pytest.mark.parametrize("name", ALL)
def test_without_a_generator_the_global_one_is_used(name):
    x = windows()
    with torch.random.fork_rng():
        torch.manual_seed(3)
        first = ALL[name](x, None)
        torch.manual_seed(3)
        assert ALL[name](x, None).equal(first)


def test_rotation_matrices_are_scipys():
    draw = numpy_stream(0, "rotations")
    axes, angles = draw.normal(size=(50, 3)), draw.uniform(-np.pi, np.pi, 50)
    ours = rotation_matrices(torch.from_numpy(axes), torch.from_numpy(angles))
    theirs = Rotation.from_rotvec(axes / np.linalg.norm(axes, axis=1, keepdims=True) * angles[:, None]).as_matrix()
    assert np.abs(ours.numpy() - theirs).max() < 1e-12
    assert np.abs(torch.linalg.det(ours).numpy() - 1).max() < 1e-12


def test_a_rotation_turns_every_sample_of_a_window_alike_and_keeps_its_length():
    x = windows()
    turned = rotate(x, stream("turn"))
    assert (turned.norm(dim=1) - x.norm(dim=1)).abs().max() < 1e-10
    gram = lambda v: torch.einsum("bit,bis->bts", v, v)
    assert (gram(turned) - gram(x)).abs().max() < 1e-9                    # all angles between samples are kept too


def test_directions_of_axes_are_uniform_and_angles_fill_the_circle():
    x = torch.eye(3, dtype=torch.float64).expand(4000, 3, 3)
    turns = rotate(x, stream("many"))                                     # the matrices themselves
    trace = torch.einsum("bii->b", turns)
    angles = ((trace - 1) / 2).clamp(-1, 1).arccos()                      # |angle|, uniform in (0, pi)
    assert abs(float(angles.mean()) - np.pi / 2) < 0.05 and abs(float((angles < np.pi / 4).double().mean()) - 0.25) < 0.03
    assert turns.mean(dim=0)[~torch.eye(3, dtype=torch.bool)].abs().max() < 0.04


def test_windows_of_one_group_share_their_draw_whatever_the_groups_are_called():
    x = windows(1).expand(6, -1, -1)
    for change in (rotate, shuffle_axes):
        made = change(x, stream("groups", 5), torch.tensor([7, -2, 7, 7, 30, -2]))
        assert made[0].equal(made[2]) and made[0].equal(made[3]) and made[1].equal(made[5])
    assert len({tuple(v.flatten().tolist()) for v in rotate(x, stream("groups"), torch.tensor([7, -2, 7, 7, 30, -2]))}) == 3


def test_too_few_groups(plain_calls):
    for change in (rotate, shuffle_axes):
        with pytest.raises(ValueError, match="a group for each of the 6 windows; got \\(3,\\)"):
            change(windows(), None, torch.tensor([0, 0, 1]))


def test_orders_of_axes_and_their_mirrors():
    assert ORDERS[0] == (0, 1, 2)
    signs = [round(np.linalg.det(np.eye(3)[list(order)])) for order in ORDERS]
    assert [k for k, sign in enumerate(signs) if sign > 0] == [0, 3, 4]
    x = windows(1).expand(900, -1, -1)
    assert (shuffle_axes(x, stream("others"), among="others") != x).flatten(1).any(dim=1).all()
    with pytest.raises(ValueError, match="among must be one of 'all', 'others', 'rotations'; got 'mirrors'"):
        shuffle_axes(x, None, among="mirrors")


def permuted_by_loop(x, lengths, order):
    pieces = np.split(x, np.cumsum(lengths)[:-1], axis=-1)
    return np.concatenate([pieces[k] for k in order], axis=-1)


@pytest.mark.parametrize("n_segments, min_length", [(4, 10), (5, 0), (6, 0), (2, 50), (10, 10), (3, 1)])
def test_permutation_against_numpy(n_segments, min_length):
    x = windows(40)
    generator, again = stream("cut"), stream("cut")
    made = permute_segments(x, generator, n_segments, min_length).numpy()
    lengths = cut_lengths(x, again, n_segments, min_length).numpy()
    orders = torch.rand(40, n_segments, generator=again).argsort(dim=1).numpy()
    assert lengths.min() >= min_length and (lengths.sum(axis=1) == 100).all()
    for row in range(40):
        assert np.array_equal(made[row], permuted_by_loop(x[row].numpy(), lengths[row], orders[row]))


def test_cuts_are_distributed_as_cuts_redrawn_until_they_fit():
    n, total, n_segments, least = 6000, 9, 3, 2
    found = Counter(map(tuple, cut_lengths(torch.zeros(n, 1, total), stream("cuts"), n_segments, least).tolist()))
    fitting = [np.diff([0, a, b, total]) for a, b in itertools.combinations(range(total + 1), 2)]
    fitting = {tuple(f.tolist()) for f in fitting if f.min() >= least}
    assert set(found) == fitting
    expected = n / len(fitting)
    assert sum((count - expected) ** 2 / expected for count in found.values()) < 29.6      # chi-square, 9 degrees, p = 0.0005


@pytest.mark.parametrize("n_segments, min_length", [(1, 10), (4, 26), (4, -1)])
def test_cuts_that_cannot_be_made(n_segments, min_length):
    with pytest.raises(ValueError, match=f"fit 100 samples; got {n_segments} of {min_length}"):
        permute_segments(windows(), None, n_segments, min_length)


@pytest.mark.parametrize("joint", [False, True])
def test_warp_against_scipy_and_numpy(joint):
    x = windows(5)
    made = time_warp(x, stream("warp"), sigma=0.2, joint=joint)
    rows = 5 if joint else 15
    speeds = 1 + 0.2 * torch.randn(rows, 6, generator=stream("warp")).double().numpy()
    knots = np.linspace(0, 99, 6)
    for row in range(15):
        v = CubicSpline(knots, speeds[row // 3 if joint else row])(np.arange(100))
        assert v.min() > 0.05
        passed = np.concatenate([[0], np.cumsum(v[1:])])
        expected = np.interp(np.arange(100), passed / passed[-1] * 99, x[row // 3, row % 3].numpy())
        assert np.abs(made[row // 3, row % 3].numpy() - expected).max() < 1e-10


def test_a_wild_warp_still_goes_forward_and_ends_where_it_should():
    times = warped_times(windows(200), stream("wild"), 200, 1.5, 6)
    assert (times.diff(dim=1) > 0).all() and (times[:, 0] == 0).all() and (times[:, -1] - 99).abs().max() < 1e-9
    x = windows(200)
    made = time_warp(x, stream("wild"), sigma=1.5)
    assert torch.isfinite(made).all() and torch.allclose(made[:, :, [0, -1]], x[:, :, [0, -1]])


def test_spline_matrix_passes_through_its_knots():
    assert np.abs(spline_matrix(101, 6)[::20] - np.eye(6)).max() < 1e-12
    assert np.abs(spline_matrix(250, 6).sum(axis=1) - 1).max() < 1e-12              # constant speed stays constant


@pytest.mark.parametrize("n_steps, n_segments, n_masked", [(250, 10, 5), (100, 10, 5), (103, 10, 3), (50, 5, 0), (50, 5, 5)])
def test_masks_cover_whole_segments(n_steps, n_segments, n_masked):
    x = windows(30, n_steps)
    seen, mask = mask_segments(x, stream("mask"), n_segments, n_masked)
    segment = np.arange(n_steps) * n_segments // n_steps
    per = np.stack([mask[:, segment == k].double().mean(dim=1).numpy() for k in range(n_segments)], axis=1)
    assert set(np.unique(per)) <= {0.0, 1.0} and (per.sum(axis=1) == n_masked).all()
    assert torch.where(mask[:, None], 0.0, x).equal(seen)


def test_masks_favour_no_segment():
    _, mask = mask_segments(torch.ones(4000, 1, 10), stream("favour"))
    assert (mask.double().mean(dim=0) - 0.5).abs().max() < 0.03


def test_masks_that_cannot_be_made():
    for n_segments, n_masked in [(10, 11), (101, 5), (10, -1)]:
        with pytest.raises(ValueError, match=f"got {n_masked} of {n_segments}"):
            mask_segments(windows(), None, n_segments, n_masked)
    with pytest.raises(ValueError, match="fill must be one of 'zero', 'mean'"):
        mask_segments(windows(), None, fill="noise")


# ---- batches -------------------------------------------------------------------------------------------------------

def plain(step):
    return {"x": windows(24, 60) + step}


MAKES = {"masked": masked_windows, "changed": changed_windows, "views": two_views, "copies": altered_copies,
         "copies by window": partial(altered_copies, per="window"), "ranked": partial(ranked_candidates, n_anchors=6, n_same=2)}


@pytest.mark.parametrize("name", MAKES)
def test_batches_are_a_function_of_the_step_and_travel_to_processes(name):
    batches = pickle.loads(pickle.dumps(Augmented(plain, MAKES[name], each=8, seed=4)))
    once, again, later = batches(2), batches(2), batches(3)
    assert all(once[key].equal(again[key]) for key in once)
    assert any(not (once[key].double() + 1).equal(later[key].double()) for key in once)
    other = Augmented(plain, MAKES[name], each=8, seed=5)(2)
    assert any(not once[key].equal(other[key]) for key in once)


def test_processes_take_their_share_of_participants():
    batches = Augmented(plain, partial(ranked_candidates, n_anchors=3, n_same=2), each=8)
    parts = [batches(0, rank, 3) for rank in range(3)]
    assert torch.cat([p["x"] for p in parts]).equal(plain(0)["x"])
    assert all(p["candidates"].max() < 8 for p in parts) and not parts[0]["anchors"].equal(parts[1]["anchors"])
    with pytest.raises(ValueError, match="24 windows of a batch must be a multiple of the 5 processes"):
        batches(0, 0, 5)


def test_fixed_batches_cover_everything_once():
    x, groups = windows(20, 60), torch.arange(20) // 5
    made = fixed_batches(x, masked_windows, groups, batch_size=8, seed=1)
    assert [len(b["x"]) for b in made] == [8, 8, 4] and torch.cat([b["target"] for b in made]).equal(x)
    assert all(a["mask"].equal(b["mask"]) for a, b in zip(made, fixed_batches(x, masked_windows, groups, batch_size=8, seed=1)))
    assert not made[0]["mask"].equal(made[1]["mask"])


def test_labels_tell_what_was_done():
    x = windows(200)
    upright = partial(changed_windows, generator=None)
    for k, (asked, undone) in enumerate([((time_flip,), lambda v: v.flip(-1)), ((negate,), lambda v: -v)]):
        torch.manual_seed(0)
        made = upright(x, groups=torch.zeros(200, dtype=torch.long), asked=asked)
        turn = torch.linalg.lstsq(x[made["changed"][:, 0] == 0][0].T, made["x"][made["changed"][:, 0] == 0][0].T).solution
        back = torch.einsum("ij,bjt->bit", turn, made["x"])
        picked = made["changed"][:, 0] == 1
        assert (back[~picked] - x[~picked]).abs().max() < 1e-9 and (undone(back[picked]) - x[picked]).abs().max() < 1e-9
        assert 60 < picked.sum() < 140


def test_no_mirrors_if_so_wished():
    x = windows(1).expand(60, -1, -1)
    hand = lambda v: torch.linalg.det(v[:, :, [3, 30, 77]]).sign()
    mirrored = changed_windows(x, stream("hand"), torch.arange(60), asked=(negate,), probability=0)
    upright = changed_windows(x, stream("hand"), torch.arange(60), asked=(negate,), probability=0, among="rotations")
    assert (hand(mirrored["x"]) != hand(x)).any() and (hand(upright["x"]) == hand(x)).all()


def test_views_with_certainty_and_never():
    x = windows()
    assert one_view(x, stream("view"), probability=0).equal(x)
    always = two_views(x, stream("view"), changes=(negate, time_flip), probability=1)
    assert always["a"].equal(-x.flip(-1)) and always["b"].equal(always["a"])


def test_copies_by_window_and_by_batch():
    x, marks = windows(300), tuple(partial(lambda v, g, k: v + 10.0 ** k, k=k) for k in range(8))
    sums = lambda copies: ((copies["copy"] - x)[:, 0, 0]).round().long().tolist()
    by_batch, by_window = altered_copies(x, stream("copy"), changes=marks), altered_copies(x, stream("copy"), changes=marks, per="window")
    assert len(set(sums(by_batch))) == 1 and len(set(sums(by_window))) == 28                # pairs of eight
    assert all(sorted(str(s).replace("0", "")) == ["1", "1"] for s in sums(by_window))        # two different ones
    with pytest.raises(ValueError, match="per must be one of 'batch', 'window'; got 'epoch'"):
        altered_copies(x, None, per="epoch")
    assert len(EIGHT) == 8


@pytest.mark.parametrize("n_anchors, n_same", [(6, 2), (3, 7), (12, 4), (15, 3)])
def test_candidates_never_repeat_and_the_own_ones_are_own(n_anchors, n_same):
    groups = torch.arange(24) // 8
    made = ranked_candidates(windows(24, 60), stream("ranked"), groups, n_anchors=n_anchors, n_same=n_same)
    assert made["candidates"].shape == (n_anchors, n_same + n_anchors - 1)
    for anchor, row in zip(made["anchors"].tolist(), made["candidates"].tolist()):
        assert len({anchor, *row}) == n_same + n_anchors and set(row[n_same:]) == set(made["anchors"].tolist()) - {anchor}
        assert {int(groups[k]) for k in row[:n_same]} == {int(groups[anchor])}


@pytest.mark.parametrize("n_anchors, n_same", [(7, 2), (6, 7), (0, 2), (27, 0)])
def test_anchors_that_cannot_be_had(n_anchors, n_same):
    with pytest.raises(ValueError, match=f"got n_anchors={n_anchors}, n_same={n_same} and 8 windows: take fewer"):
        ranked_candidates(windows(24, 60), None, torch.arange(24) // 8, n_anchors=n_anchors, n_same=n_same)


def test_modules_name_what_they_export():
    assert {"time_warp", "mask_segments", "rotate"} <= set(augmentations.__all__) and "Augmented" in augmented_batches.__all__
