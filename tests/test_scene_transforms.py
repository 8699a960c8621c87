"Views, prepared shards and batches of scenes: each trap of cropping and boxes, and exact resume."
import json
from dataclasses import replace

import numpy as np
import pytest
import torch

from slotpapers.core.scene_records import Scene, condition_boxes, one_hot
from slotpapers.core.seeds import numpy_stream
from slotpapers.data.scene_sets import PreparedScenes, SceneBatches, clip_start, evaluation_batches, save_scenes
from slotpapers.data.scene_transforms import (
    IMAGENET_MEAN, IMAGENET_STD, central_square, crop, evaluation_view, flip, nearest, normalised, pixels_again, random_crop, resize, resize_frames,
    training_view)
from slotpapers.data.scenes import scene_images, scene_videos


def wide(n_steps=2, height=20, width=36, n_objects=300) -> Scene:
    "A scene with more ids than a byte holds, one column each, some ignored."
    segments = np.zeros((n_steps, height, width), np.int32)
    for t in range(n_steps):
        segments[t].ravel()[:n_objects] = 1 + np.arange(n_objects)
    segments[:, -1, :3] = -1
    frames = numpy_stream(0, "wide").integers(0, 256, size=(*segments.shape, 3), dtype=np.uint8)
    return Scene(frames, segments, n_objects, classes=[str(k) for k in range(n_objects)], depth=segments.astype(np.float32), tracks={"p": np.zeros((n_steps, n_objects, 2))})


# Traps


@pytest.mark.parametrize("case", range(5))
def test_boxes_belong_to_what_is_seen_after_crop_flip_and_resize(case):
    scene = scene_videos(5, difficulty="D", n_steps=3)[case]
    view = training_view(scene, numpy_stream(0, case), 40, mirrored=1.0)
    for t in range(3):
        for k in range(view.n_objects):
            rows, columns = np.nonzero(view.segments[t] == k + 1)
            assert view.boxes[t, k].tolist() == ([columns.min(), rows.min(), columns.max(), rows.max()] if len(rows) else [0] * 4)
    plain = training_view(scene, numpy_stream(0, case), 40, mirrored=0.0)
    seen = plain.visible > 0
    assert (view.boxes[seen][:, [0, 2]] == 39 - plain.boxes[seen][:, [2, 0]]).all() and (view.frames == plain.frames[:, :, ::-1]).all()


def test_a_crop_packs_ids_and_keeps_names_with_their_pixels():
    scene = scene_images(1, difficulty="A", n_objects=(6, 6))[0]
    for i in range(10):
        view = training_view(scene, numpy_stream(1, i), 32, area=(0.1, 0.2), mirrored=0.0)
        assert set(np.unique(view.segments)) - {0} == set(range(1, view.n_objects + 1))
        for k in range(view.n_objects):
            colour = np.median(view.frames[0][view.segments[0] == k + 1], axis=0)
            same = [np.abs(colour - np.median(scene.frames[0][scene.segments[0] == j + 1], axis=0)).max() for j in range(6)
                    if (scene.classes[j], scene.attributes["colour"][j]) == (view.classes[k], view.attributes["colour"][k])]
            assert min(same) < 60                              # the name still names that colour


def test_the_background_stays_background_when_a_crop_leaves_none():
    scene = replace(scene_images(1)[0], segments=np.full((1, 64, 64), 2, np.int32))
    view = training_view(scene, numpy_stream(0), 16)
    assert view.n_objects == 1 and (view.segments == 1).all() and one_hot(view.segments, 4)[0].sum() == 0


def test_more_than_255_ids_survive():
    scene = wide()
    assert resize(scene, 40, 72).segments.max() == 300 and flip(scene).segments.max() == 300
    assert training_view(scene, numpy_stream(0), 20).segments.dtype == np.int32


def test_channels_and_condition_rows_are_fixed():
    for view in (evaluation_view(s, 32) for s in scene_images(5, difficulty="C")):
        assert one_hot(view.segments, 9).shape == (10, 1, 32, 32) and condition_boxes(view, 9).shape == (9, 4)


def test_ignored_pixels_stay_ignored_and_ids_are_never_mixed():
    scene = wide()
    for view in (flip(scene), resize(scene, 37, 51), crop(scene, 15, 0, 5, 9)):
        assert (view.segments == -1).any() and set(np.unique(view.segments)) <= set(np.unique(scene.segments))
        assert (view.depth == view.segments).all()               # depth goes the way of the ids


# Geometry


@pytest.mark.parametrize("n_in, n_out", [(5, 5), (10, 3), (3, 10), (64, 63), (1, 4), (480, 256)])
def test_nearest_is_nearest_exact(n_in, n_out):
    x = torch.arange(n_in).double().reshape(1, 1, n_in, 1)
    assert nearest(n_in, n_out).tolist() == torch.nn.functional.interpolate(x, (n_out, 1), mode="nearest-exact")[0, 0, :, 0].long().tolist()


def test_resized_frames_are_antialiased():
    frames = np.zeros((1, 64, 64, 3), np.uint8)
    frames[:, :, ::2] = 200                                       # stripes finer than the output
    assert np.abs(resize_frames(frames, 16, 16).astype(int)[:, :, 1:-1] - 100).max() <= 3
    assert (resize_frames(np.full((2, 9, 7, 3), 77, np.uint8), 20, 5) == 77).all()


def test_views_of_frames_that_are_no_square():
    scene = wide(height=20, width=36, n_objects=10)
    whole = evaluation_view(scene, 20)
    assert (whole.frames == scene.frames[:, :, 8:28]).all()
    tall = evaluation_view(wide(height=36, width=20, n_objects=10), 20)
    assert tall.frames.shape == (2, 20, 20, 3)
    assert central_square(7, 4) == (1, 0, 4, 4)


def test_a_crop_that_never_fits_becomes_the_central_square():
    assert random_crop(numpy_stream(0), 50, 50, area=(1.0, 1.0), aspect=(2.0, 2.0)) == (0, 0, 50, 50)
    assert random_crop(numpy_stream(0), 50, 80, area=(1.0, 1.0), aspect=(4.0, 4.0)) == (0, 15, 50, 50)


def test_crops_reach_everywhere():
    found = np.array([random_crop(numpy_stream(0, i), 100, 100) for i in range(300)])
    assert found[:, 0].min() == 0 and (found[:, 0] + found[:, 2]).max() == 100 and found[:, 2].min() >= 75 * 0.99


@pytest.mark.parametrize("call, said", [
    (lambda s: crop(s, 0, 0, 65, 10), r"the crop \(top=0, left=0, height=65, width=10\) must lie within the frame of 64 by 64"),
    (lambda s: crop(s, -1, 0, 5, 5), "must lie within"),
    (lambda s: crop(s, 0, 0, 0, 5), "must lie within"),
    (lambda s: resize(s, 0, 5), "at least 1; got 0 and 5"),
    (lambda s: random_crop(numpy_stream(0), 9, 9, area=(0.5, 1.5)), r"within 0 to 1.* got area=\(0.5, 1.5\)"),
    (lambda s: random_crop(numpy_stream(0), 9, 9, aspect=(2, 1)), r"aspect=\(2, 1\)"),
], ids=["too large", "outside", "empty", "no size", "area", "aspect"])
def test_views_refuse(call, said):
    with pytest.raises(ValueError, match=said):
        call(scene_images(1)[0])


def test_tracks_leave_with_the_geometry_and_stay_without():
    scene = scene_images(1)[0]
    assert scene.tracks and not flip(scene).tracks and not crop(scene, 0, 0, 9, 9).tracks and resize(scene, 32, 32).tracks


def test_normalised_and_back():
    scene = wide()
    x = normalised(scene.frames)
    expected = (scene.frames.astype(np.float64) - IMAGENET_MEAN) / IMAGENET_STD
    assert x.dtype == torch.float32 and np.abs(x.numpy().transpose(0, 2, 3, 1) - expected).max() < 1e-5
    assert (pixels_again(x) == scene.frames).all() and pixels_again(x[0]).shape == (20, 36, 3)
    assert (normalised(scene.frames, (0.0,) * 3, (255.0,) * 3).max() <= 1)


# Generated sets


@pytest.mark.parametrize("change, said", [
    (dict(difficulty="Z"), "difficulty must be one of 'A'"), (dict(dimensions=4), "dimensions must be one of 2, 3"), (dict(n=0), "n must be at least 1"),
    (dict(seed=-1), "seed must be at least 0"), (dict(size=8), "size must be at least 16"), (dict(n_objects=(3, 2)), r"n_objects must be .* got \(3, 2\)"),
    (dict(n_objects=(0, 2)), "1 <= fewest"), (dict(n_objects=(5, 65)), "most <= 64"), (dict(n_steps=0), "n_steps must be at least 1"), (dict(fps=0), "fps must be above 0"),
], ids=lambda v: next(iter(v)) if isinstance(v, dict) else "")
def test_generators_refuse(change, said):
    with pytest.raises(ValueError, match=said):
        scene_videos(**change)


def test_sets_are_sequences():
    scenes = scene_images(3, 4, difficulty="B", size=32)
    assert len(list(scenes)) == 3 and (scenes[-1].frames == scenes[2].frames).all() and scenes[1].name == "generated B (2-D)"
    with pytest.raises(IndexError, match="within the 3 scenes"):
        scenes[3]
    assert scenes[0].fps == 0 and scene_videos(1, fps=24)[0].fps == 24


def test_absent_pybullet_is_named(monkeypatch):
    import sys
    monkeypatch.setitem(sys.modules, "pybullet", None)
    with pytest.raises(ImportError, match=r"pip install 'slotpapers\[scenes\]'"):
        scene_images(1, dimensions=3)


# Prepared sets


def test_scenes_of_any_size_and_length_come_back(tmp_path):
    scenes = [wide(), wide(1, 30, 11, 40), *(replace(s, depth=s.segments.astype(np.float32)) for s in scene_videos(2, n_steps=3, size=24))]
    save_scenes(scenes, tmp_path / "set", shard_bytes=3000, name="mixed", licence="CC0")
    opened = PreparedScenes(tmp_path / "set")
    assert opened.manifest["name"] == "mixed" and opened.manifest["licence"] == "CC0" and opened.manifest["frames"] == 9 and opened.manifest["shards"] > 1
    for a, b in zip(opened, scenes, strict=True):
        for name in ("frames", "segments", "depth", "boxes", "visible"):
            assert (getattr(a, name) == getattr(b, name)).all() and getattr(a, name).dtype == getattr(b, name).dtype
        assert (a.classes, a.attributes, a.fps, a.name, a.source, a.licence, a.simulated) == (b.classes, b.attributes, b.fps, b.name, b.source, b.licence, b.simulated)
        assert a.tracks.keys() == b.tracks.keys() and all((a.tracks[k] == b.tracks[k]).all() for k in a.tracks)


def test_many_objects_are_kept_in_four_bytes(tmp_path):
    scene = replace(scene_images(1, size=16)[0], n_objects=40000, classes=None, attributes={}, tracks={})
    save_scenes([scene], tmp_path / "set")
    assert np.load(tmp_path / "set/segments-0000.npy").dtype == np.int32 and PreparedScenes(tmp_path / "set")[0].n_objects == 40000


def test_reading_one_scene_opens_one_shard(tmp_path):
    save_scenes(scene_images(9, size=16), tmp_path / "set", shard_bytes=3 * 16 * 16 * 2)
    opened = PreparedScenes(tmp_path / "set")
    opened[4]
    assert sorted(opened.maps) == [f"{name}-0002.npy" for name in ("about", "depth", "frames", "segments")]
    assert isinstance(opened[4].frames.base, np.memmap) or isinstance(opened[4].frames, np.memmap)


def test_a_set_appears_whole_or_not_at_all(tmp_path):
    def broken():
        yield from scene_images(3, size=16)
        raise OSError("disk full")

    with pytest.raises(OSError, match="disk full"):
        save_scenes(broken(), tmp_path / "set", shard_bytes=1)
    assert list(tmp_path.iterdir()) == []
    save_scenes(scene_images(2, size=16), tmp_path / "set")
    with pytest.raises(OSError):
        save_scenes(broken(), tmp_path / "set")
    assert len(PreparedScenes(tmp_path / "set")) == 2           # the old one is untouched


def test_prepared_sets_refuse(tmp_path):
    with pytest.raises(ValueError, match="at least one; got none"):
        save_scenes([], tmp_path / "set")
    bare = replace(scene_images(1)[0], depth=None)
    with pytest.raises(ValueError, match="depth must be there for all scenes or for none"):
        save_scenes([scene_images(1)[0], bare], tmp_path / "set")
    with pytest.raises(FileNotFoundError, match="make them with save_scenes"):
        PreparedScenes(tmp_path)
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine/thesis.txt").write_text("years of work")
    with pytest.raises(ValueError, match="no prepared set"):
        save_scenes([bare], tmp_path / "mine")
    assert (tmp_path / "mine/thesis.txt").exists()
    (tmp_path / "other").mkdir()
    (tmp_path / "other/manifest.json").write_text(json.dumps({"fs": 50}))
    with pytest.raises(ValueError, match="something else than scenes"):
        PreparedScenes(tmp_path / "other")
    save_scenes([bare], tmp_path / "set")
    assert PreparedScenes(tmp_path / "set")[0].depth is None
    with pytest.raises(IndexError, match="within the 1 scenes"):
        PreparedScenes(tmp_path / "set")[1]
    (tmp_path / "set/frames-0000.npy").unlink()
    with pytest.raises(ValueError, match="missing or not what was written"):
        PreparedScenes(tmp_path / "set")
    PreparedScenes(tmp_path / "set", verify=False)


# Batches


def test_batches_of_a_prepared_set_equal_those_of_its_source(tmp_path):
    source = scene_videos(6, difficulty="C", n_steps=5, size=32)
    save_scenes(source, tmp_path / "set")
    pairs = [SceneBatches(s, 3, seed=2, size=24, clip_length=2, n_rows=9) for s in (source, PreparedScenes(tmp_path / "set"))]
    for step in (5, 0, 3):
        one, two = (batches(step) for batches in pairs)
        assert one.keys() == two.keys() == {"x", "segments", "boxes"} and all(torch.equal(one[k], two[k]) for k in one)


def test_batches_depend_on_seed_and_step_alone():
    make = lambda seed: SceneBatches(scene_images(12, difficulty="B"), 4, seed=seed, size=32)
    ahead, later = make(0), make(0)
    for step in range(7):
        ahead(step)
    assert torch.equal(ahead(7)["x"], later(7)["x"]) and not torch.equal(make(1)(7)["x"], later(7)["x"])
    assert not torch.equal(later(0)["x"], later(3)["x"])            # another epoch, another order and other views
    alone = SceneBatches(scene_images(1, difficulty="C"), 1, size=32)
    assert not torch.equal(alone(0)["x"], alone(1)["x"])            # the same scene, seen differently at another step
    same = [np.flatnonzero(later.indices(s) == later.indices(0)[0]) for s in range(3, 6)]
    assert sum(len(s) for s in same) == 1


def test_batches_have_the_right_views():
    scenes = scene_videos(4, difficulty="A", n_steps=6, size=32)
    plain = SceneBatches(scenes, 4, size=32, clip_length=6, n_rows=8, augment=False)
    batch = plain(0)
    for row, index in enumerate(plain.indices(0)):
        assert (pixels_again(batch["x"][row]) == scenes[index].frames).all()
        assert (batch["segments"][row].numpy() == scenes[index].segments).all() and batch["segments"].dtype == torch.int64
        n = scenes[index].n_objects
        assert np.allclose(batch["boxes"][row, :, :n] * 32, scenes[index].boxes) and (batch["boxes"][row, :, n:] == -1).all()


def test_shares_of_processes_make_up_the_batch():
    batches = SceneBatches(scene_images(8), 4, size=24)
    parts = [batches(1, rank, 4) for rank in range(4)]
    assert torch.equal(torch.cat([p["segments"] for p in parts]), batches(1)["segments"])
    with pytest.raises(ValueError, match="multiple of the 3 processes; got 4"):
        batches(0, 0, 3)


def test_batches_refuse():
    scenes = scene_videos(2, n_steps=3, difficulty="D")
    with pytest.raises(ValueError, match="batch_size must be 1 to 2"):
        SceneBatches(scenes, 3)
    with pytest.raises(ValueError, match="clip_length must be at least 1"):
        SceneBatches(scenes, 2, clip_length=0)
    with pytest.raises(ValueError, match="at most 3, the frames of the video; got 4"):
        SceneBatches(scenes, 2, clip_length=4, size=24)(0)
    with pytest.raises(ValueError, match="n_rows must be at least"):
        SceneBatches(scenes, 2, n_rows=3, size=64)(0)


def test_clips_cover_a_video_on_a_grid():
    assert {clip_start(numpy_stream(0, i), 24, 24) for i in range(5)} == {0}
    assert {clip_start(numpy_stream(0, i), 25, 6) for i in range(99)} == {0, 6, 12, 18, 19}


def test_evaluation_sees_everything_once():
    scenes = scene_videos(5, n_steps=2, size=24)
    batches = list(evaluation_batches(scenes, 2, size=24, n_rows=7))
    assert [len(b["x"]) for b in batches] == [2, 2, 1] and batches[0]["boxes"].shape == (2, 2, 7, 4)
    assert (pixels_again(torch.cat([b["x"] for b in batches])) == np.stack([s.frames for s in scenes])).all()
    assert next(evaluation_batches(scenes, 5, size=24, still=True))["x"].shape == (5, 3, 24, 24)
    with pytest.raises(ValueError, match=r"have \[2, 3\] frames and cannot be stacked: use batch_size=1"):
        list(evaluation_batches([scenes[0], scene_videos(1, n_steps=3)[0]], 2, size=24))
    with pytest.raises(ValueError, match="batch_size must be at least 1"):
        list(evaluation_batches(scenes, 0))


def test_a_killed_training_continues_exactly(tmp_path):
    from slotpapers.training.loop import LoopConfig, train
    save_scenes(scene_images(8, difficulty="A", size=16), tmp_path / "set")
    batches = SceneBatches(PreparedScenes(tmp_path / "set"), 4, size=16)

    def run(folder, steps_before_dying=None):
        torch.manual_seed(0)
        model, seen = torch.nn.Conv2d(3, 3, 1), []
        def feed(step):
            if step == steps_before_dying:
                raise KeyboardInterrupt
            return batches(step)
        objective = lambda model, batch: {"mse": (model(batch["x"]) - batch["x"]).square().mean()}
        config = LoopConfig(steps=6, checkpoint_every=2, progress=False, accelerator="cpu")
        try:
            train(model, objective, feed, config, folder=folder)
        except KeyboardInterrupt:
            assert steps_before_dying is not None
        return model.weight.detach().clone()

    whole = run(tmp_path / "whole")
    run(tmp_path / "cut", 5)
    assert torch.equal(run(tmp_path / "cut"), whole)
