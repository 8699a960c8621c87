"""Real pictures and clips, all the way: published files, reader, a frozen encoder in DINOv2's format, SmoothSA, masks, scores.

The weights are random and tiny, so the scores mean nothing: what is shown is that every part takes what the part before it gives.
"""
import pytest
import torch
from einops import rearrange

from slotpapers.blocks.vision_encoders import cached_features, dinov2
from slotpapers.core.seeds import forked_rng, torch_stream
from slotpapers.data.images import load_images
from slotpapers.data.scene_sets import evaluation_batches
from slotpapers.data.scene_transforms import evaluation_view, pixels_again
from slotpapers.core.scene_records import choose_frames
from slotpapers.data.video import load_videos
from slotpapers.evaluation.segmentation import adjusted_rand_index, mean_best_overlap
from slotpapers.models import SmoothSA
from slotpapers.recipes.smoothsa_scores import label_maps

SIZE = 64      # pixels; the encoder sees 56 x 56, sixteen patches of 14


def model(folder, **settings):
    "SmoothSA in small on the tiny DINOv2."
    with forked_rng(0, "real scenes"):
        return SmoothSA(n_slots=5, slot_dim=16, token_dim=24, n_tokens=16, decoder_dim=16, decoder_layers=1,
                        encoder=dict(kind="dinov2", source=str(folder / "registers")), **settings).eval()


def check_partition(masks):
    assert torch.isfinite(masks).all() and torch.allclose(masks.sum(dim=-2), torch.ones(()), atol=1e-5)


def test_coco_to_masks(data_root, checkpoints, tmp_path):
    pytest.importorskip("pycocotools")
    scenes = [scene for scene in load_images("coco2017", data_root, split="val", masks="instances", overlap="later") if scene.n_objects > 1][:4]
    [batch] = evaluation_batches(scenes, 4, size=SIZE, still=True)
    images = rearrange(torch.tensor(pixels_again(batch["x"])), "B H W c -> B c H W")     # the encoder normalises by itself
    made = model(checkpoints, transition="none")
    assert made.encoder.fingerprint() == dinov2(checkpoints / "registers").fingerprint()
    with torch.no_grad():
        out = made(images, generator=torch_stream(0, "coco"))
    assert out.masks.shape == out.decoder_masks.shape == (4, 5, 16)
    check_partition(out.masks), check_partition(out.decoder_masks)
    labels = label_maps(out.masks, SIZE)
    assert labels.shape == batch["segments"].shape == (4, SIZE, SIZE) and len(labels.unique()) > 1
    for score in (adjusted_rand_index(labels, batch["segments"], ignore_index=-1), mean_best_overlap(labels, batch["segments"], ignore_index=-1)):
        assert score.shape == (4,) and torch.isfinite(score).all() and score.abs().max() < 1
    made.save_pretrained(tmp_path)
    with torch.no_grad():
        again = SmoothSA.from_pretrained(tmp_path).eval()(images, generator=torch_stream(0, "coco"))
    assert again.masks.equal(out.masks)


def test_clevrer_to_masks(data_root, checkpoints, tmp_path):
    pytest.importorskip("av")
    clip = choose_frames(load_videos("clevrer", data_root, split="validation")[0], 40, 6)
    view = evaluation_view(clip, SIZE)
    frames = rearrange(torch.from_numpy(view.frames), "T H W c -> 1 T c H W")
    made = model(checkpoints)
    with torch.no_grad():
        out = made(frames, generator=torch_stream(0, "clevrer"))
        stream = made.stream(generator=torch_stream(0, "clevrer"))
        steps = [stream.step(frame) for frame in frames.unbind(1)]
    check_partition(out.masks), check_partition(out.decoder_masks)
    assert torch.allclose(torch.stack([step.masks for step in steps], dim=1), out.masks, atol=1e-5)
    assert label_maps(out.masks, SIZE).shape == (1, 6, SIZE, SIZE)
    assert not torch.allclose(out.masks[:, 0], out.masks[:, -1], atol=1e-4), "the frames differ, and so must the masks"
    kept = cached_features(made.encoder, frames[0].numpy(), tmp_path)
    with torch.no_grad():
        assert torch.allclose(made.encoder(frames[0]), torch.tensor(kept[:]).float(), atol=2e-3)
