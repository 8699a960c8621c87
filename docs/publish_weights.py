"""Copies the weights of one model out of a pre-training run, with a card that says what they are:

    python docs/publish_weights.py results/cpu/slotfm-pretrain slotfm 0 data/models/slotfm-wisdm2019

The folder gets model.safetensors, config.json, training.json (what the run recorded of this model) and README.md, which is
made of training.json and config.json alone.
"""
import shutil
import sys
from pathlib import Path

from slotpapers.core.results import read_json, whole_folder, write_json

REBUILT = {"rebuild_rmse": "error of the rebuilt window (RMSE, m/s²)", "high_band_energy_ratio": "energy above 4 Hz kept (1 is all of it)"}


def training_of(stage: Path, arm: str, seed: int) -> dict:
    "What the run in `stage` recorded of one model."
    metrics, run = read_json(stage / "metrics.json"), read_json(stage / "run.json")
    scores = {row["metric"]: row["value"] for row in metrics["scores"] if (row["arm"], row["seed"]) == (arm, seed)}
    if not scores:
        raise ValueError(f"{stage} has no scores of {arm!r}, seed {seed}: it has {sorted({(r['arm'], r['seed']) for r in metrics['scores']})}")
    data = {key: metrics["data"][0][key] for key in ("name", "simulated", "licence", "windows", "participants", "participants_published", "fs", "seconds")}
    parameters = {key: metrics["parameters"][key] for key in ("steps", "participants_per_batch", "windows_per_participant", "lr")}
    return {"arm": arm, "seed": seed, "profile": metrics["profile"], "data": data, "parameters": parameters, "scores": scores,
            "run": {key: run[key] for key in ("commit", "fingerprint", "processor", "threads", "versions")}}


def card(name: str, training: dict, config: dict) -> str:
    "The model card."
    data, how = training["data"], training["parameters"]
    of = f" of {data['participants_published']} published" if data["participants_published"] else ""
    hours = data["windows"] * data["seconds"] / 3600
    measured = "\n".join(f"| {label} | {training['scores'][key]:.3f} |" for key, label in REBUILT.items())
    return f"""---
library_name: slotpapers
license: apache-2.0
tags: [accelerometer, slot-attention]
---
# {name}

SlotFM ([arXiv 2509.21673](https://arxiv.org/abs/2509.21673)) in small: {data['seconds']:g} s of acceleration become {config['n_slots']} slots of {config['slot_dim']} numbers.
A re-implementation by slotpapers; the authors of the paper have published no weights, and these are not theirs.

```python
from slotpapers.models import SlotFM
model = SlotFM.from_pretrained("data/models/{name}")
slots = model.encode(x, fs={config['fs']:g}, unit="{config['unit']}")      # x (n, {config['channels']}, {config['n_steps']}), gravity included
```

## Input
{config['channels']} axes, {config['unit']} with gravity, {config['fs']:g} Hz, {config['n_steps']} samples a window. Other rates, units and shapes are refused; `slotpapers.data.accelerometer.prepare` converts.

## Training
Without labels, by rebuilding windows in three frequency bands: {how['steps']} steps of {how['participants_per_batch']} x {how['windows_per_participant']} windows, Adam at {how['lr']:g}, arm `{training['arm']}`, seed {training['seed']},
profile `{training['profile']}`; {config['hidden']} channels and {config['n_blocks']} residual block a band, where the paper has 256 and 4.

| held-out participants | |
|---|---|
{measured}

## Data and licence
{data['name']}{' (simulated)' if data['simulated'] else ''}: {data['participants']}{of} participants, four fifths of them to train on, {hours:.0f} hours in all; licence of the data: {data['licence']}.
Credit for WISDM 2019: G. M. Weiss, K. Yoneda, T. Hayajneh, "Smartphone and Smartwatch-Based Biometrics Using Activities of Daily Living", IEEE Access 7, 2019. The weights are under the
licence of this repository (Apache-2.0); no recording can be read out of them that we know of, and nobody has tried hard.

## Limits
Small and shortly trained: an example of the format, not a foundation model. On other people and another sensor place, pre-training of this size has so far shown no gain over the same encoder untrained, and a random
forest on plain statistics is better (`report/cpu/slotfm/probe.md`). Slot k of these weights is not slot k of any others. Not for medical use.

## Origin
Code {training['run']['commit']}, fingerprint {training['run']['fingerprint']}, torch {training['run']['versions']['torch']}, {training['run']['threads']} thread of {training['run']['processor']}. Everything above is in `training.json` and `config.json`.
"""


def main(words: list[str]) -> int:
    stage, arm, seed, out = Path(words[0]), words[1], int(words[2]), Path(words[3])
    weights = stage / "weights" / f"{arm}-{seed}"
    training, config = training_of(stage, arm, seed), read_json(weights / "config.json")
    with whole_folder(out) as part:
        for name in ("model.safetensors", "config.json"):
            shutil.copyfile(weights / name, part / name)
        write_json(part / "training.json", training)
        (part / "README.md").write_text(card(out.name, training, config), encoding="utf-8")
    print(f"written to {out}: {sum(p.stat().st_size for p in out.iterdir()) / 1e3:.0f} kB")
    return 0


if __name__ == "__main__":
    sys.exit(main(sys.argv[1:]))
