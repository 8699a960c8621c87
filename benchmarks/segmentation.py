"""Segmentation scores of a batch of clips, against a loop over clips with scikit-learn and SciPy.

    python benchmarks/segmentation.py [--allocator no-mmap]

The adjusted Rand index is held against `sklearn.metrics.adjusted_rand_score` on each flattened clip, as most code bases do; for the
foreground the loop selects the pixels first. The overlaps have no common peer: their baseline makes one-hot masks by
broadcasting, as object-centric code bases do, and matches with SciPy. Labels are int64 unless the case says otherwise. `one image` is
the shape where a batch has nothing to gain from.
"""
import torch
from scipy.optimize import linear_sum_assignment
from sklearn.metrics import adjusted_rand_score

import measure
from slotpapers.evaluation.segmentation import adjusted_rand_index, mean_best_overlap, mean_iou

PEER, MASKS = "loop over clips, scikit-learn", "one-hot masks, SciPy"


def clips(B, T, H, W, slots, objects, dtype=torch.int64):
    "Blocks of 16 pixels as objects, and a prediction that is right on two pixels of three."
    stream = torch.Generator().manual_seed(0)
    blocks = torch.randint(0, objects + 1, (B, T, H // 16, W // 16), generator=stream)
    true = blocks.repeat_interleave(16, dim=2).repeat_interleave(16, dim=3)
    noise = torch.randint(0, slots, true.shape, generator=stream)
    pred = torch.where(torch.rand(true.shape, generator=stream) < 0.67, true % slots, noise)
    return pred.to(dtype), true.to(dtype)


def rand_by_loop(pred, true, foreground_only=False):
    scores = []
    for p, t in zip(pred.flatten(1).numpy(), true.flatten(1).numpy()):
        scores.append(adjusted_rand_score(t[t > 0], p[t > 0]) if foreground_only else adjusted_rand_score(t, p))
    return torch.tensor(scores, dtype=torch.float64)


def overlaps_by_masks(pred, true, slots, objects):
    "IoU (B, slots, objects) from one-hot masks: the whole batch in floating point."
    masks = torch.nn.functional.one_hot(pred.flatten(1).long(), slots).float()
    segments = torch.nn.functional.one_hot(true.flatten(1).long(), objects + 1).float()[..., 1:]
    inside = masks.transpose(1, 2) @ segments
    return inside / (masks.sum(1)[:, :, None] + segments.sum(1)[:, None] - inside).clamp(min=1)


def matched_by_masks(pred, true, slots, objects):
    scores = []
    for p, t in zip(pred.split(1), true.split(1)):
        iou = overlaps_by_masks(p, t, slots, objects)[0].numpy()
        rows, columns = linear_sum_assignment(-iou)
        scores.append(iou[rows, columns].sum() / objects)
    return torch.tensor(scores, dtype=torch.float64)


def rand_case(shape, slots, objects, dtype=torch.int64, foreground_only=False, goal=None, peak=True):
    def build():
        pred, true = clips(*shape, slots, objects, dtype)
        return {PEER: lambda: rand_by_loop(pred, true, foreground_only),
                "adjusted_rand_index": lambda: adjusted_rand_index(pred, true, foreground_only=foreground_only)}

    words = f"{'foreground ' if foreground_only else ''}ARI, (B, T, H, W) = {shape}, {slots} slots, {objects} objects, {str(dtype)[6:]}"
    return measure.Case(build, PEER, words, goals={"adjusted_rand_index": goal} if goal else {}, facts=lambda: difference(build()), peak=peak)


def match_case(shape, slots, objects, score, name):
    def build():
        pred, true = clips(*shape, slots, objects)
        theirs = (lambda: matched_by_masks(pred, true, slots, objects)) if name == "mean_iou" else (
            lambda: torch.cat([overlaps_by_masks(p, t, slots, objects).amax(1).mean(1) for p, t in zip(pred.split(1), true.split(1))]))
        return {MASKS: theirs, name: lambda: score(pred, true)}
    return measure.Case(build, MASKS, f"{name}, (B, T, H, W) = {shape}, {slots} slots, {objects} objects", facts=lambda: difference(build()))


def difference(candidates):
    one, other = (call().double() for call in candidates.values())
    return {"largest difference": float(f"{(one - other).abs().max():.2g}")}


CASES = {
    "64 clips": rand_case((64, 6, 128, 128), 7, 5, goal=10),
    "64 clips, uint8": rand_case((64, 6, 128, 128), 7, 5, torch.uint8),
    "64 clips, foreground": rand_case((64, 6, 128, 128), 7, 5, foreground_only=True, goal=10),
    "64 clips, 24 slots": rand_case((64, 6, 128, 128), 24, 20),
    "one clip of 24 x 256 x 256": rand_case((1, 24, 256, 256), 11, 10),
    "one image": rand_case((1, 1, 128, 128), 7, 5),
    "mean best overlap": match_case((64, 6, 128, 128), 7, 5, mean_best_overlap, "mean_best_overlap"),
    "mean IoU": match_case((64, 6, 128, 128), 7, 5, mean_iou, "mean_iou"),
}

if __name__ == "__main__":
    measure.run(__file__, CASES, peers=("scikit-learn",))
