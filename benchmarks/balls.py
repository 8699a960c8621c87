"""How many frames a second the ball benchmarks are made at, on one thread.

    python benchmarks/balls.py [--allocator no-mmap]

There is no peer to hold them against: the generators of the papers' data were not published. The baseline makes the same
clips one at a time; the difference is what doing 64 together gains. `frames per second` is measured on clips that were not made before, by CPU time.
"""
import time

import measure
from slotpapers.data.ball_batches import ClipBatches, blinking_batch, bouncing_batch, coordinate_batch
from slotpapers.data.balls import blinking_balls, bouncing_balls, coordinate_streams

ONE, ALL = "one clip at a time", "64 clips together"


def rate(make, frames, **options):
    "Frames per CPU second over 8 fresh batches of 64 clips."
    make(64, **options)
    began = time.process_time()
    for step in range(1, 9):
        make(range(64 * step, 64 * (step + 1)), **options)
    return {"frames per second": round(8 * 64 * frames / (time.process_time() - began))}


def case(make, frames, words, goal=None, **options):
    def build():
        return {ONE: lambda: [make([i], **options) for i in range(64)], ALL: lambda: make(range(64), **options)}
    return measure.Case(build, ONE, words, goals={ALL: goal} if goal else {}, facts=lambda: rate(make, frames, **options))


def batch_case(make, frames, words, **options):
    batches = ClipBatches(lambda indices, seed: make(indices, seed, **options), 64)
    return measure.Case(lambda: {ONE: lambda: [make([i], **options) for i in range(64)], ALL: lambda: batches(0)}, ONE, words,
                        facts=lambda: rate(make, frames, **options))


CASES = {
    "bouncing, 64 pixels": case(bouncing_balls, 20, "bouncing_balls, 20 frames of 64 x 64, 4 balls"),
    "bouncing, 32 pixels": case(bouncing_balls, 20, "bouncing_balls, 20 frames of 32 x 32, 4 balls", size=32),
    "bouncing, 16 pixels": case(bouncing_balls, 20, "bouncing_balls, 20 frames of 16 x 16, 3 balls", size=16, n_balls=3),
    "bouncing, half steps": case(bouncing_balls, 20, "bouncing_balls, 20 frames of 64 x 64, 4 balls, the classic physics", physics="stepped"),
    "bouncing, many balls": case(bouncing_balls, 50, "bouncing_balls, 50 frames of 64 x 64, 6 to 8 balls", n_frames=50, n_balls=(6, 8)),
    "blinking, T = 5": case(blinking_balls, 6, "blinking_balls, 5 + 1 frames of 64 x 64, 4 balls"),
    "blinking, T = 10": case(blinking_balls, 11, "blinking_balls, 10 + 1 frames of 64 x 64, 4 balls", n_frames=10),
    "coordinates": case(coordinate_streams, 17, "coordinate_streams, 17 steps, 4 balls"),
    "a batch of bouncing": batch_case(bouncing_batch, 20, "the same 64 pixels as tensors for training"),
    "a batch of blinking": batch_case(blinking_batch, 6, "T = 5 as tiles in RGB and target, P = 16"),
    "a batch of coordinates": batch_case(coordinate_batch, 17, "17 steps, 4 balls as tensors for training"),
}

if __name__ == "__main__":
    measure.run(__file__, CASES)
