"""Generated scenes at 64x64: drawing them, and reading them back from prepared shards.

    python benchmarks/scenes.py [--allocator no-mmap]

The baseline asks every pixel of every frame whether it lies in an object, one object after another, with the same shapes, textures and
motion: the obvious way, without patches. Its frames are the same but for pixels on the very edge of a shape. "drawn" is what
`scene_images` and `scene_videos` return, record and all; "read" opens the same scenes from memory-mapped shards and touches their pixels.
`frames per second` counts the frames of all scenes of a call over the median CPU time. The rendered case needs pybullet (extra
`scenes`) and has no baseline of its own: it is one candidate, at 128x128.
"""
import importlib.util
import tempfile

import numpy as np

import measure
from slotpapers.core.seeds import numpy_stream
from slotpapers.data.scene_motion import simulate
from slotpapers.data.scene_parts import DIFFICULTIES, turn, weave
from slotpapers.data.scene_sets import PreparedScenes, save_scenes
from slotpapers.data.scenes import scene_images, scene_videos
from slotpapers.data.scenes_2d import SHAPES, draw_plan, paint_background

EVERY = "every pixel asked"
FOLDERS = []      # temporary folders live as long as the process


def every_pixel(seed, index, step, n_steps, size=64):
    "Frames and segments of a scene without a moving camera, by full frames."
    times = np.arange(n_steps) / 12
    plan = draw_plan(numpy_stream(seed, "scenes", index), step)
    motion = simulate(plan.start, plan.speeds, plan.radii, plan.layers, times)
    frames, segments = paint_background(plan.background, np.zeros((n_steps, 2)), size), np.zeros((n_steps, size, size), np.int32)
    column, row = np.meshgrid(np.arange(size) + 0.5, np.arange(size) + 0.5)
    for t in range(n_steps):
        for k in np.argsort(-plan.layers, kind="stable"):
            (c,), (s,) = turn(np.array([plan.angles[k] + plan.spins[k] * times[t]]))
            x, y = ((a - motion.positions[t, k, i] * size) / (plan.radii[k] * size) for i, a in enumerate((column, row)))
            u, v = (c * x + s * y).astype(np.float32), (c * y - s * x).astype(np.float32)
            inside = SHAPES[plan.shapes[k]](u, v)
            frames[t][inside] = plan.textures[k].ramp()[weave(plan.textures[k], u[inside], v[inside])]
            segments[t][inside] = k + 1
    return frames, segments


def candidates(difficulty, n, n_steps):
    "n scenes of so many frames, drawn and read; by every pixel where the camera rests."
    step = DIFFICULTIES[difficulty]
    scenes = scene_images(n, difficulty=difficulty) if n_steps == 1 else scene_videos(n, difficulty=difficulty, n_steps=n_steps)
    FOLDERS.append(tempfile.TemporaryDirectory())
    save_scenes(scenes, FOLDERS[-1].name + "/set")
    prepared = PreparedScenes(FOLDERS[-1].name + "/set")
    made = {} if step.camera else {EVERY: lambda: [every_pixel(0, i, step, n_steps) for i in range(n)]}
    return made | {"drawn": lambda: [scenes[i] for i in range(n)],
                   "read": lambda: [int(s.frames.max()) + int(s.segments.max()) for s in prepared]}


def facts(difficulty, n, n_steps):
    "Frames per second, and how many pixels differ from the baseline."
    found = candidates(difficulty, n, n_steps)
    seconds = measure.take_turns({k: v for k, v in found.items() if k != EVERY}, 5)
    said = {f"frames per second, {name}": round(n * n_steps / float(np.median(spent))) for name, spent in seconds.items()}
    if EVERY in found:
        pairs = list(zip(found[EVERY](), found["drawn"]()))
        said["pixels whose id differs from the baseline's"] = float(f"{np.mean([(a[1] != s.segments).mean() for a, s in pairs]):.1e}")
    return said


def case(difficulty, n, n_steps, goal=None):
    camera = DIFFICULTIES[difficulty].camera > 0
    return measure.Case(lambda: candidates(difficulty, n, n_steps), "drawn" if camera else EVERY,
                        f"step {difficulty}, {n} scenes of {n_steps} frame{'s' * (n_steps > 1)}, 64x64", goals={"drawn": goal} if goal else {},
                        facts=lambda: facts(difficulty, n, n_steps), peak=(difficulty, n_steps) == ("C", 24))


def rendered():
    scenes = scene_videos(2, difficulty="C", n_steps=12, size=128, dimensions=3)
    return {"drawn": lambda: [scenes[i] for i in range(2)]}


def rendered_facts():
    seconds = measure.take_turns(rendered(), 5)["drawn"]
    return {"milliseconds a frame, building and physics included": round(1000 * float(np.median(seconds)) / 24, 2)}


CASES = {f"clips {name}": case(name, 8, 24, goal=3 if name == "C" else None) for name in DIFFICULTIES}
CASES |= {f"images {name}": case(name, 40, 1) for name in ("A", "C", "D")}
MISSING = {}
if importlib.util.find_spec("pybullet"):
    CASES["rendered"] = measure.Case(rendered, "drawn", "step C on pybullet, 2 clips of 12 frames, 128x128", facts=rendered_facts, peak=False)
else:
    MISSING["rendered"] = "pybullet is not installed: pip install -e '.[scenes]'"

if __name__ == "__main__":
    measure.run(__file__, CASES, missing=MISSING)
