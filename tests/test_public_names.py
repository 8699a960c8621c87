"The names that users rely on: design promises them, and each room re-exports what its index says."
import importlib
import inspect

import pytest

PROMISED = {  # module: {name: parameters that must exist, in this order, before any others}
    "slotpapers.data.accelerometer": {"load_dataset": ["name", "root", "fs", "seconds", "position"], "prepare": ["x", "fs", "unit", "to_fs"],
                                      "windows": ["x", "fs", "seconds"]},
    "slotpapers.blocks.bands": {"Bands": ["edges", "fs", "n_steps"]},
    "slotpapers.blocks.slot_attention": {"SlotAttention": ["slot_dim", "token_dim", "n_iters"], "FixedSlots": ["n_slots", "slot_dim"],
                                         "GaussianSlots": ["n_slots", "slot_dim"], "InvertedAttention": []},
    "slotpapers.blocks.preheating": {"Preheater": ["slot_dim", "token_dim", "n_heads"]},
    "slotpapers.blocks.state_space": {"selective_scan": ["u", "dt", "A", "B", "C", "D", "state", "backend", "discretization"],
                                      "MambaBlock": ["dim", "expand", "state_dim", "conv_width"]},
    "slotpapers.objectives.reconstruction": {"ssim_loss": ["x", "y", "window", "signed"], "ms_stft_loss": ["x", "y", "n_ffts"]},
    "slotpapers.data.balls": {"bouncing_balls": ["indices", "seed", "split", "n_frames", "size", "n_balls"],
                              "blinking_balls": ["indices", "seed", "split", "n_frames", "size", "n_balls"],
                              "coordinate_streams": ["indices", "seed", "split", "n_frames", "n_balls"]},
    "slotpapers.evaluation.segmentation": {"adjusted_rand_index": ["pred", "true", "foreground_only", "ignore_index", "legacy_overflow"],
                                           "mean_best_overlap": ["pred", "true", "include_background", "ignore_index"],
                                           "mean_iou": ["pred", "true", "include_background", "ignore_index"]},
    "slotpapers.models": {"SlotFM": [], "SlotSSM": ["n_slots", "slot_dim"], "OCSlotSSM": [], "SmoothSA": ["n_slots", "slot_dim", "token_dim", "n_tokens"]},
    "slotpapers.models.slotfm_baselines": {"WindowModel": ["channels", "n_steps", "fs", "unit", "hidden", "n_blocks", "dim"], "parameter_table": []},
    "slotpapers.objectives.contrastive": {"nt_xent": ["a", "b", "temperature"], "relative_contrastive": ["anchors", "candidates", "distances", "temperature"]},
    "slotpapers.core.records": {"Windows": ["x", "y", "classes", "subject", "start", "source", "valid"], "SlotOutput": ["slots", "masks", "trace"]},
    "slotpapers.core.scene_records": {"Scene": ["frames", "segments", "n_objects", "classes", "attributes", "tracks", "depth"]},
    "slotpapers.data.images": {"load_images": ["name", "root", "split"]},
    "slotpapers.data.video": {"load_videos": ["name", "root", "split"]},
    "slotpapers.data.scenes": {"scene_images": ["n", "seed", "difficulty", "size"], "scene_videos": ["n", "seed", "difficulty", "size", "n_steps", "fps"]},
    "slotpapers.runs": {"main": [], "execute": ["run", "parameters", "out"]},
}
DEFAULTS = {
    "slotpapers.data.accelerometer.load_dataset": {"root": None, "fs": 50.0, "seconds": 5.0, "position": None},
    "slotpapers.data.accelerometer.prepare": {"to_fs": 50.0},
    "slotpapers.blocks.bands.Bands": {"edges": (1.0, 4.0), "fs": 50.0, "n_steps": 250},
    "slotpapers.blocks.slot_attention.SlotAttention": {"token_dim": None, "n_iters": 3},
    "slotpapers.blocks.preheating.Preheater": {"n_heads": 4},
    "slotpapers.blocks.state_space.selective_scan": {"D": None, "state": None, "backend": "auto", "discretization": "mamba"},
    "slotpapers.blocks.state_space.MambaBlock": {"expand": 1.25, "state_dim": 16, "conv_width": 4},
    "slotpapers.objectives.reconstruction.ssim_loss": {"signed": False},
    "slotpapers.objectives.reconstruction.ms_stft_loss": {"n_ffts": (16, 32, 64, 128)},
    "slotpapers.data.balls.bouncing_balls": {"seed": 0, "n_frames": 20, "size": 64, "n_balls": 4},
    "slotpapers.data.balls.blinking_balls": {"seed": 0, "n_frames": 5, "size": 64, "n_balls": 4},
    "slotpapers.evaluation.segmentation.adjusted_rand_index": {"foreground_only": False, "ignore_index": None, "legacy_overflow": False},
    "slotpapers.evaluation.segmentation.mean_best_overlap": {"include_background": False, "ignore_index": None},
    "slotpapers.evaluation.segmentation.mean_iou": {"include_background": False, "ignore_index": None},
    "slotpapers.models.SmoothSA": {"n_slots": 7, "slot_dim": 256, "token_dim": 384, "n_tokens": 256, "n_iters_first": 3, "n_iters_rest": 1, "detach_features": "first10",
                                   "query_noise": True, "straight_through": True, "window": 6},
    "slotpapers.models.SlotFM": {"n_slots": 8, "slot_dim": 32, "n_iters": 3, "hidden": 256, "n_blocks": 4, "edges": (1.0, 4.0), "fs": 50.0, "n_steps": 250},
    "slotpapers.models.SlotSSM": {"n_slots": 6, "slot_dim": 64, "state_dim": 16, "expand": 1.25, "n_heads": 4},
    "slotpapers.models.OCSlotSSM": {"n_slots": 11, "slot_dim": 192, "image_size": 128},
}
ROOMS = {
    "core": ["STANDARD_GRAVITY", "Scene", "SlotOutput", "Windows", "check_finite", "check_gravity", "check_option", "check_shape", "forked_rng", "load_arrays", "numpy_stream", "read_json", "save_arrays", "to_metres_per_second_squared", "torch_stream", "write_json", "write_results", "write_text"],
    "data": ["Augmented", "ClipBatches", "DATASETS", "PreparedScenes", "SceneBatches", "WeightedParticipants", "altered_copies", "blinking_balls", "blinking_batch", "bouncing_balls", "bouncing_batch", "changed_windows", "coordinate_batch", "coordinate_streams", "evaluation_batches", "evaluation_view", "find", "fixed_batches", "load_dataset", "load_images", "load_prepared", "load_videos", "masked_windows", "participant_folds", "prepare", "ranked_candidates", "save_prepared", "save_scenes", "scene_images", "scene_videos", "simulated_windows", "training_view", "two_views", "windows"],
    "blocks": ["BAND_SWEEP", "Bands", "BoxSlots", "BroadcastDecoder", "ConvTokens", "EncoderTransition", "FixedSlots", "GaussianSlots", "IdentityTransition", "InvertedAttention", "MambaBlock", "MambaState", "MaskedDecoder", "MixtureDecoder", "PatchTokens", "PreheatedStart", "Preheater", "Projector", "RandSFQ", "SlotAttention", "SlotEncoder", "SlotMixer", "SlotTransformerDecoder", "cached_features", "dinov2", "make_encoder", "selective_scan"],
    "models": ["AugmentationPredictor", "Autoencoder", "MaskedAutoencoder", "OCSlotSSM", "RelCon", "SimCLR", "SlotFM", "SlotFMOutput", "SlotPipeline", "SlotSSM", "SlotStream", "SmoothSA", "SmoothSAOutput", "StreamState", "Supervised", "VideoOutput", "WindowModel", "build_model", "rollout"],
    "objectives": ["LastColours", "NextFrame", "Reconstruction", "SmoothSAObjective", "agree", "band_weights", "classify", "mean_terms", "ms_stft_loss", "mse_loss", "nt_xent", "preheat_loss", "rank", "rebuild_from_copies", "rebuild_windows", "recognise_changes", "regress", "relative_contrastive", "slot_contrast", "slotfm_loss", "smoothsa_loss", "ssim_loss"],
    "training": ["LoopConfig", "Trained", "train"],
    "evaluation": ["adjusted_rand_index", "colour_error", "confusion", "fit_probe", "foreground_error", "frame_mse", "judge", "load_claims", "macro_f1", "mean_best_overlap", "mean_iou", "mean_of_scored", "precompute", "rmse", "trivial_blinking_scores", "trivial_rollout_scores"],
    "figures": ["save_figure", "save_table", "score_table", "slot_colors", "use_theme"],
}


@pytest.mark.parametrize("module, names", PROMISED.items(), ids=list(PROMISED))
def test_promised_names_and_parameters(module, names):
    for name, parameters in names.items():
        found = list(inspect.signature(getattr(importlib.import_module(module), name)).parameters)
        assert [p for p in found if p in parameters] == parameters, f"{module}.{name} takes {found}"


@pytest.mark.parametrize("path, defaults", DEFAULTS.items(), ids=list(DEFAULTS))
def test_promised_defaults(path, defaults):
    module, _, name = path.rpartition(".")
    parameters = inspect.signature(getattr(importlib.import_module(module), name)).parameters
    assert {k: parameters[k].default for k in defaults} == defaults


@pytest.mark.parametrize("room, names", ROOMS.items(), ids=list(ROOMS))
def test_rooms_re_export_their_public_names(room, names):
    module = importlib.import_module(f"slotpapers.{room}")
    assert sorted(module.__all__) == sorted(names)
    assert all(hasattr(module, name) for name in names)


def test_slotfm_has_its_methods():
    from slotpapers.models import SlotFM
    assert all(callable(getattr(SlotFM, name)) for name in ("encode", "reconstruct", "save_pretrained", "from_pretrained"))


def test_smoothsa_has_its_methods():
    from slotpapers.models import SmoothSA
    methods = ("encode", "initialise", "aggregate", "transition", "decode", "stream", "save_pretrained", "from_pretrained")
    assert all(callable(getattr(SmoothSA, name)) for name in methods)


def test_typed_and_versioned(root):
    import slotpapers
    assert (root / "slotpapers/py.typed").exists()
    assert f"version = {slotpapers.__version__}\n" in (root / "settings.ini").read_text()
