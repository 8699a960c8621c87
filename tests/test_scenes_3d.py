"Scenes on pybullet, where it is installed: the record, reproducibility, and physics that makes sense."
import numpy as np
import pytest

from slotpapers.data.scene_parts import DIFFICULTIES

pytest.importorskip("pybullet", reason="pybullet is not installed: pip install 'slotpapers[scenes]'")

from slotpapers.data.scenes import scene_images, scene_videos  # noqa: E402
from slotpapers.data.scenes_3d import SOLIDS, Look, bmp, draw_scene_3d  # noqa: E402


@pytest.mark.parametrize("difficulty", DIFFICULTIES)
def test_records_of_every_step(difficulty):
    step = DIFFICULTIES[difficulty]
    for s in scene_videos(2, 3, difficulty=difficulty, size=48, n_steps=4, dimensions=3):
        assert s.simulated and s.frames.shape == (4, 48, 48, 3) and step.n_objects[0] <= s.n_objects <= step.n_objects[1]
        assert set(s.classes) <= set(SOLIDS[:step.shapes]) and s.tracks["rotation"].shape == (4, s.n_objects, 4)
        assert (s.visible[0] > 0).sum() >= 0.6 * s.n_objects and np.isfinite(s.depth).all() and s.depth.min() > 2 and s.depth.max() < 40
        assert ("plain" in s.attributes["texture"]) == (difficulty == "A")
        assert (s.visible == [[(frame == k + 1).sum() for k in range(s.n_objects)] for frame in s.segments]).all()


def test_index_seed_and_neighbours():
    scenes = scene_images(5, 1, difficulty="B", size=32, dimensions=3)
    again = [scenes[i] for i in (4, 1)]
    assert (again[0].frames == scenes[4].frames).all() and (again[1].segments == scenes[1].segments).all()
    assert not (scenes[0].frames == scenes[1].frames).all()
    assert not (scene_images(1, 2, difficulty="B", size=32, dimensions=3)[0].frames == scenes[0].frames).all()
    long, short = (draw_scene_3d(0, 0, DIFFICULTIES["A"], size=32, n_steps=t) for t in (6, 3))
    assert (long.frames[:3] == short.frames).all() and (long.tracks["position"][:3] == short.tracks["position"]).all()


def test_objects_fall_rest_and_slow_down():
    s = scene_videos(1, 0, difficulty="A", size=16, n_steps=48, dimensions=3)[0]
    z, speed = s.tracks["position"][..., 2], np.linalg.norm(s.tracks["velocity"], axis=-1)
    assert z.min() > 0 and z[-1].max() < 1.0 and speed[-1].max() < speed[0].max()
    d = draw_scene_3d(0, 0, DIFFICULTIES["D"], size=16, n_steps=2)
    assert 1 <= (np.linalg.norm(d.tracks["velocity"][0], axis=-1) > 0).sum() <= 3


def test_depth_is_nearer_where_an_object_stands_before_the_floor():
    s = draw_scene_3d(0, 2, DIFFICULTIES["A"], size=64)
    for k in range(s.n_objects):
        rows, columns = np.nonzero(s.segments[0] == k + 1)
        top = rows.min()
        column = columns[rows == top][0]
        if top > 0 and s.segments[0, top - 1, column] == 0:
            assert s.depth[0, top, column] < s.depth[0, top - 1, column]       # the floor behind is farther


def test_a_moving_camera_moves_the_floor():
    rest, moving = (draw_scene_3d(0, 1, DIFFICULTIES[k], size=48, n_steps=6) for k in ("D", "E"))
    floor = lambda s: np.any(s.frames[0] != s.frames[-1], axis=-1)[(s.segments[0] == 0) & (s.segments[-1] == 0)].mean()
    assert floor(rest) < 0.02 < 0.1 < floor(moving)


def test_a_picture_file_holds_its_pixels():
    from io import BytesIO

    from PIL import Image

    from slotpapers.data.scene_parts import Texture
    picture = Look(Texture("checks", (250, 10, 20), (5, 200, 90)), 8, 2.0).picture()
    assert (np.asarray(Image.open(BytesIO(bmp(picture)))) == picture).all()
