"Segmentation scores: equal to scikit-learn and to brute force, whatever the type, the names and what is left out."
import inspect
import itertools
import math

import numpy as np
import pytest
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score

from slotpapers.core.seeds import torch_stream
from slotpapers.evaluation import segmentation as S
from slotpapers.evaluation.segmentation import adjusted_rand_index, contingency, contingency_by_loop, mean_best_overlap, mean_iou, mean_of_scored

SMALL = [(1, 1), (7,), (3, 5), (8, 8), (2, 6, 5), (16, 16), (4, 24, 20)]


def case(k):
    "A batch of label maps: sizes, numbers of labels and what is special about them drawn from stream k."
    stream = np.random.default_rng([7, k])
    shape = (3, *SMALL[k % len(SMALL)])
    clusters, objects = stream.integers(1, 9, size=2)                       # more slots than objects, fewer, one cluster
    true = stream.integers(0, objects, size=shape)
    pred = np.where(stream.random(shape) < stream.choice([0, 0.3, 0.9]), true % clusters, stream.integers(0, clusters, size=shape))
    if k % 5 == 0:
        true[0] = 0                                                         # no object
    if k % 7 == 0:
        true = np.where(stream.random(shape) < 0.3, 255, true)              # not annotated
    if k % 11 == 0:
        true[1], pred[2] = 255, 3                                           # nothing annotated; one cluster
    return torch.tensor(pred), torch.tensor(true)


def rand_by_hand(pred, true, foreground_only, ignore):
    keep = (true != ignore) & ((true != 0) | (not foreground_only))
    return adjusted_rand_score(true[keep], pred[keep]) if keep.any() else math.nan


def iou_by_hand(pred, true, include_background, ignore, ignored_in_union=False):
    "IoU of each cluster with each segment, from boolean masks."
    annotated = true != ignore
    segments = [j for j in np.unique(true[annotated]) if j != 0 or include_background]
    rows = []
    for i in np.unique(pred):
        cluster = (pred == i) & (annotated | ignored_in_union)
        rows.append([(cluster & (true == j)).sum() / (cluster | (true == j)).sum() for j in segments])
    return np.array(rows).reshape(len(rows), len(segments))


def matched_by_hand(iou):
    "The best sum over all ways to give each segment a cluster of its own, or none."
    clusters, segments = iou.shape
    padded = np.vstack([iou, np.zeros((segments, segments))])
    return max(sum(padded[i, j] for j, i in enumerate(chosen)) for chosen in itertools.permutations(range(clusters + segments), segments))


# ---------------------------------------------------------------------------------------------------------------- parity
@pytest.mark.parametrize("k", range(20))
def test_counts_equal_the_slow_twin(k):
    pred, true = case(k)
    counts, names = contingency(pred, true)
    rows = range(int(pred.min()), int(pred.max()) + 1)
    for table, slow in zip(counts, contingency_by_loop(pred, true)):
        assert {(i, int(j)): int(n) for i, row in zip(rows, table) for j, n in zip(names, row) if n} == slow


@pytest.mark.parametrize("foreground_only", [False, True])
@pytest.mark.parametrize("ignore_index", [None, 255])
def test_rand_index_equals_scikit_learn_on_hundreds_of_cases(foreground_only, ignore_index):
    for k in range(110):
        pred, true = case(k)
        ours = adjusted_rand_index(pred, true, foreground_only=foreground_only, ignore_index=ignore_index)
        theirs = [rand_by_hand(p, t, foreground_only, ignore_index) for p, t in zip(pred.numpy(), true.numpy())]
        assert ours.dtype == torch.float64 and np.allclose(ours, theirs, atol=1e-12, rtol=0, equal_nan=True), k


@pytest.mark.parametrize("include_background", [False, True])
@pytest.mark.parametrize("ignore_index", [None, 255])
@pytest.mark.parametrize("ignored_in_union", [False, True])
def test_overlaps_equal_boolean_masks_and_scipy_on_hundreds_of_cases(include_background, ignore_index, ignored_in_union):
    keywords = dict(include_background=include_background, ignore_index=ignore_index, ignored_in_union=ignored_in_union)
    for k in range(80):
        pred, true = case(k)
        best, matched = mean_best_overlap(pred, true, **keywords), mean_iou(pred, true, **keywords)
        for n in range(len(pred)):
            iou = iou_by_hand(pred[n].numpy(), true[n].numpy(), include_background, ignore_index, ignored_in_union)
            if not iou.shape[1]:
                assert best[n].isnan() and matched[n].isnan(), k
                continue
            assert abs(best[n] - iou.max(axis=0).mean()) < 1e-12, k
            assert abs(matched[n] - iou[linear_sum_assignment(-iou)].sum() / iou.shape[1]) < 1e-12, k
            assert matched[n] <= best[n] + 1e-12, k


def test_matching_equals_trying_every_assignment():
    "Up to 4 segments: no solver involved on the other side."
    checked = 0
    for k in range(300):
        pred, true = case(k)
        if len(pred.unique()) + len(true.unique()) > 8 or len(true.unique()) > 4:
            continue
        ours = mean_iou(pred, true, include_background=True)
        for n in range(len(pred)):
            iou = iou_by_hand(pred[n].numpy(), true[n].numpy(), True, None)
            assert abs(ours[n] - matched_by_hand(iou) / iou.shape[1]) < 1e-12, k
            checked += 1
    assert checked > 100


@pytest.mark.parametrize("clusters, objects, kept", [(7, 5, 0.0), (24, 11, 0.7), (3, 21, 0.5), (1, 4, 0.0), (11, 11, 0.999)])
def test_a_whole_clip_of_24_frames_of_256_pixels(clusters, objects, kept):
    stream = torch_stream(1, "clip", clusters)
    true = torch.randint(0, objects, (1, 24, 256, 256), generator=stream)
    noise = torch.randint(0, clusters, true.shape, generator=stream)
    pred = torch.where(torch.rand(true.shape, generator=stream) < kept, true % clusters, noise)
    p, t = pred[0].flatten().numpy(), true[0].flatten().numpy()
    assert abs(adjusted_rand_index(pred, true).item() - adjusted_rand_score(t, p)) < 1e-12
    fg = adjusted_rand_index(pred.to(torch.uint8), true.to(torch.uint8), foreground_only=True)
    assert abs(fg.item() - adjusted_rand_score(t[t > 0], p[t > 0])) < 1e-12
    counts = np.bincount(p * objects + t, minlength=clusters * objects).reshape(clusters, objects)
    iou = counts / (counts.sum(1, keepdims=True) + counts.sum(0) - counts)
    assert abs(mean_best_overlap(pred, true).item() - iou[:, 1:].max(axis=0).mean()) < 1e-12
    assert abs(mean_iou(pred, true, include_background=True).item() - iou[linear_sum_assignment(-iou)].sum() / objects) < 1e-12


def test_almost_one_cluster_keeps_its_digits():
    "Where R - E cancels: one pixel of a million elsewhere on both sides."
    true = torch.zeros(2, 1000, 1000, dtype=torch.int16)
    pred = true.clone()
    true[:, 0, 0] = pred[0, 0, 0] = pred[1, 0, 1] = 1
    ours = adjusted_rand_index(pred, true)
    assert ours[0] == 1 and abs(ours[1] - adjusted_rand_score(true[1].flatten(), pred[1].flatten())) < 1e-15 and abs(ours[1] + 1e-6) < 1e-9


# ---------------------------------------------------------------------------------------------------------------- invariances
SCORES = [adjusted_rand_index, mean_best_overlap, mean_iou]
DTYPES = [torch.uint8, torch.int8, torch.int16, torch.int32, torch.int64, torch.uint16, torch.uint32, torch.uint64]


@pytest.mark.parametrize("dtype", DTYPES, ids=str)
@pytest.mark.parametrize("score", SCORES)
def test_every_integer_type_gives_the_same(score, dtype):
    pred, true = case(13)
    for there, back in ((pred.to(dtype), true), (pred, true.to(dtype)), (pred.to(dtype), true.to(dtype))):
        assert score(there, back).equal(score(pred, true))


@pytest.mark.parametrize("score", SCORES)
def test_names_of_clusters_do_not_matter_and_narrow_types_do_not_wrap(score):
    pred, true = case(13)
    expected = score(pred, true)
    assert score((255 - pred).to(torch.uint8), true).equal(expected)
    assert score((-128 + pred).to(torch.int8), true).equal(expected)
    assert score(-pred, true).equal(expected)
    for scale in (10**4, 10**12, 2**60):                                       # names far apart are renumbered
        assert torch.allclose(score(pred * scale - 3, true), expected, atol=1e-12, rtol=0)
        assert torch.allclose(score(pred, true * scale), expected, atol=1e-12, rtol=0)
    assert score(pred + 2**40, true).equal(expected)                           # near each other, far from 0
    pixels = torch.randperm(true[0].numel(), generator=torch_stream(0, "pixels"))
    assert score(pred.flatten(1)[:, pixels], true.flatten(1)[:, pixels]).equal(expected)


@pytest.mark.parametrize("score", SCORES)
def test_samples_do_not_mix(score):
    pred, true = (torch.cat(both) for both in zip(*[case(k) for k in range(13, 200, 7 * 5)]))
    assert len(pred) > 10
    together = score(pred, true)
    alone = torch.cat([score(p[None], t[None]) for p, t in zip(pred, true)])
    assert torch.allclose(together, alone, atol=1e-12, rtol=0, equal_nan=True)
    large = torch.randint(0, 4, (5, 300, 300), generator=torch_stream(0, "large"))         # larger than one group of the fast path
    noisy = torch.where(large == 2, 0, large)
    assert score(noisy, large).equal(torch.cat([score(p[None], t[None]) for p, t in zip(noisy, large)]))


@pytest.mark.parametrize("score", SCORES)
def test_perfect_is_one_and_nothing_is_nan(score):
    _, true = case(13)
    assert (score(true * 5 + 2, true) == 1).all()
    background = torch.zeros(2, 4, 4, dtype=torch.long)
    words = {"foreground_only": True} if score is adjusted_rand_index else {"include_background": False}
    assert score(background, background, **words).isnan().all()
    assert score(true, torch.full_like(true, 9), ignore_index=9, **words).isnan().all()
    assert (score(background, background, **{next(iter(words)): score is not adjusted_rand_index}) == 1).all()
    assert score(true[:0], true[:0]).shape == (0,)
    assert score(true[:, :0], true[:, :0]).isnan().all() and len(true[:, :0]) == 3
    assert score(torch.tensor([3]), torch.tensor([1])).tolist() == [1.0]       # a sample of one pixel


def test_degenerate_rand_cases_are_those_of_scikit_learn():
    one, nine = torch.zeros(1, 9, dtype=torch.long), torch.arange(9)[None]
    for pred, true in itertools.product((one, nine, nine // 3), repeat=2):
        assert abs(adjusted_rand_index(pred, true).item() - adjusted_rand_score(true[0], pred[0])) < 1e-15


def test_background_of_the_truth_leaves_and_that_of_the_prediction_stays():
    true = torch.tensor([[0, 0, 1, 1, 2, 2]])
    assert adjusted_rand_index(torch.tensor([[5, 6, 0, 0, 1, 1]]), true, foreground_only=True) == 1
    assert mean_iou(torch.tensor([[3, 3, 0, 0, 1, 1]]), true) == 1
    spill = torch.tensor([[0, 0, 0, 0, 1, 1]])                                  # the first cluster is half background
    assert mean_iou(spill, true).item() == 0.75 and mean_best_overlap(spill, true).item() == 0.75


def test_a_tube_punishes_a_swap_that_frames_do_not():
    true = torch.tensor([[[1, 1, 2, 2], [1, 1, 2, 2]]])
    swapped = torch.tensor([[[1, 1, 2, 2], [2, 2, 1, 1]]])
    for score in SCORES:
        assert (score(swapped[0], true[0]) == 1).all() and score(swapped, true) < 0.5


# ---------------------------------------------------------------------------------------------------------------- the overflow
def random_clip(n_frames):
    "7 labels drawn at random, on segments that cover 60, 20 and 20 percent."
    stream = torch_stream(0, "random clip", n_frames)
    shape = (1, n_frames, 256, 256)
    share = torch.rand(shape, generator=stream)
    return torch.randint(0, 7, shape, generator=stream), (share > 0.6).long() + (share > 0.8).long()


def released(pred, true, foreground_only):
    "The index in 64-bit integers that wrap around, by NumPy, from one-hot sums: R, A, B, A B / T."
    keep = (true >= (1 if foreground_only else 0)).flatten()
    p, t = pred.flatten().numpy()[keep], true.flatten().numpy()[keep]
    n = np.array([[((p == i) & (t == j)).sum() for j in np.unique(t)] for i in np.unique(p)], np.int64)
    R, A, B = ((x * (x - 1)).sum() for x in (n, n.sum(1), n.sum(0)))
    wrapped = (int(A) * int(B) + 2**63) % 2**64 - 2**63
    E = wrapped / (len(p) * (len(p) - 1))
    return (R - E) / ((A + B) / 2 - E)


@pytest.mark.parametrize("frames, expected, foreground", [(1, 0.0, None), (5, 0.214, None), (24, 0.216, 0.222)])
def test_the_overflow_of_the_released_code(frames, expected, foreground):
    pred, true = random_clip(frames)
    for foreground_only, value in ((False, expected), (True, foreground)):
        old = adjusted_rand_index(pred, true, foreground_only=foreground_only, legacy_overflow=True).item()
        assert abs(old - released(pred, true, foreground_only)) < 1e-12
        assert abs(adjusted_rand_index(pred, true, foreground_only=foreground_only).item()) < 5e-4
        assert value is None or abs(old - value) < 0.005


def test_without_overflow_both_agree():
    for k in range(60):
        pred, true = case(k)
        both = [adjusted_rand_index(pred, true, legacy_overflow=legacy) for legacy in (False, True)]
        assert torch.allclose(*both, atol=1e-9, rtol=0, equal_nan=True)


def test_one_image_overflows_when_one_segment_dominates_both_sides():
    true = torch.zeros(1, 256, 256, dtype=torch.long)
    true[:, :40, :40] = 1
    pred = true.clone()
    pred[:, :60, :20] = 1
    right, old = (adjusted_rand_index(pred, true, legacy_overflow=legacy).item() for legacy in (False, True))
    assert abs(right - adjusted_rand_score(true.flatten(), pred.flatten())) < 1e-12 and abs(old - right) > 0.1


# ---------------------------------------------------------------------------------------------------------------- boundaries
def test_means_count_what_was_not_scored():
    assert mean_of_scored(torch.tensor([0.5, math.nan, 1.0], dtype=torch.float64)) == {"mean": 0.75, "scored": 2, "not_scored": 1}
    none = mean_of_scored(torch.full((2,), math.nan))
    assert math.isnan(none["mean"]) and none["scored"] == 0 and none["not_scored"] == 2


@pytest.mark.parametrize("score", SCORES)
@pytest.mark.parametrize("pred, true, words", [
    (torch.rand(1, 4), torch.zeros(1, 4), r"pred must hold integer labels; got torch.float32: take argmax over slots"),
    (torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 4, dtype=torch.bool), r"true must hold integer labels; got torch.bool"),
    (torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 5, dtype=torch.long), r"of one shape; got \(1, 4\) and \(1, 5\): was one of them"),
    (torch.tensor(1), torch.tensor(1), r"must be label maps \(B, \.\.\.\)"),
], ids=["soft", "boolean", "shape", "scalar"])
def test_errors_name_argument_and_cure(score, pred, true, words, plain_calls):
    with pytest.raises(ValueError, match=words):
        score(pred, true)


def test_numbered_pixels_are_refused_before_memory_is_spent():
    pixels = torch.arange(40_000).reshape(1, 200, 200)
    with pytest.raises(ValueError, match="got 40000 and 40000 in 1 samples: score fewer samples a call, or were pixels numbered"):
        adjusted_rand_index(pixels, pixels)


def test_another_device_is_named(plain_calls):
    with pytest.raises(ValueError, match="must be on one device; got cpu and meta"):
        S.contingency(torch.zeros(1, 4, dtype=torch.long), torch.zeros(1, 4, dtype=torch.long, device="meta"))


@pytest.mark.skipif(not torch.cuda.is_available(), reason="needs a GPU")
@pytest.mark.parametrize("score", SCORES)
def test_a_gpu_gives_the_same(score):
    for k in range(0, 150, 7):
        pred, true = case(k)
        there = score(pred.cuda(), true.cuda(), ignore_index=255)
        assert there.device.type == "cuda" and torch.allclose(there.cpu(), score(pred, true, ignore_index=255), atol=1e-12, equal_nan=True)


def test_signatures_are_the_promised_ones():
    for score, first in ((adjusted_rand_index, "foreground_only"), (mean_best_overlap, "include_background"), (mean_iou, "include_background")):
        keywords = [p for p in inspect.signature(score).parameters.values() if p.kind is p.KEYWORD_ONLY]
        assert [p.name for p in keywords[:2]] == [first, "ignore_index"] and not any(p.default for p in keywords)
