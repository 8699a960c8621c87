"""Makers of tiny sets in the published layouts of the image and video sets; nothing here is read by the package.

The pictures are flat colours; the layouts carry every oddity that a reader must survive, named beside where it is made.
"""
import io
import json
import zipfile
from pathlib import Path

import numpy as np
from PIL import Image


def png(array: np.ndarray, palette: list[int] | None = None) -> bytes:
    "A PNG; with a palette, of indices into it."
    picture, file = Image.fromarray(array), io.BytesIO()
    if palette is not None:
        picture.putpalette(palette)
    picture.save(file, "PNG")
    return file.getvalue()


def jpeg(array: np.ndarray) -> bytes:
    "A JPEG of good quality."
    file = io.BytesIO()
    Image.fromarray(array).save(file, "JPEG", quality=95)
    return file.getvalue()


def store(root, name: str, archives: dict[str, dict[str, bytes]], zipped: bool = False) -> Path:
    "Writes {archive: {path: bytes}} below root/name, as zips or as unpacked."
    home = Path(root) / name
    home.mkdir(parents=True)
    for archive, members in archives.items():
        if zipped:
            with zipfile.ZipFile(home / archive, "w") as box:
                for path, data in members.items():
                    box.writestr(path, data)
        for path, data in ({} if zipped else members).items():
            (home / path).parent.mkdir(parents=True, exist_ok=True)
            (home / path).write_bytes(data)
    return home


def coloured(ids: np.ndarray) -> np.ndarray:
    "A picture in which every id has a colour of its own."
    return np.stack([(ids * 83 + 40) % 256, (ids * 131 + 90) % 256, (ids * 37 + 20) % 256], axis=-1).astype(np.uint8)


COCO_CATEGORIES = [{"id": 1, "name": "person", "supercategory": "person", "isthing": 1},          # ids have gaps, from 1 to 200
                   {"id": 13, "name": "stop sign", "supercategory": "outdoor", "isthing": 1},
                   {"id": 184, "name": "tree-merged", "supercategory": "plant", "isthing": 0}]


def coco(root, zipped: bool = False, change=lambda instances, panoptic: None) -> Path:
    "Two photos of different sizes, one grey. `change` may alter both listings before they are written."
    truth = np.zeros((24, 32), np.int32)
    truth[2:10, 3:9], truth[12:20, 4:20], truth[12:16, 24:31], truth[20:24] = 1, 2, 3, 4   # person, sign, crowd of people, trees
    images = [{"id": 139, "file_name": "000000000139.jpg", "height": 24, "width": 32, "license": 4, "flickr_url": "http://flickr/139"},
              {"id": 785, "file_name": "000000000785.jpg", "height": 16, "width": 20, "license": 5, "flickr_url": "http://flickr/785"}]
    shared = {"info": {"year": 2017}, "licenses": [{"id": 4, "name": "Attribution License"}, {"id": 5, "name": "Attribution-ShareAlike License"}], "images": images}
    runs = np.flatnonzero(np.diff(np.concatenate([[0], (truth == 3).T.ravel(), [0]]).astype(int)))
    counts = np.diff([0, *runs, truth.size]).tolist()
    instances = shared | {"categories": [{k: c[k] for k in ("id", "name", "supercategory")} for c in COCO_CATEGORIES if c["isthing"]], "annotations": [
        {"id": 1, "image_id": 139, "category_id": 1, "iscrowd": 0, "segmentation": [[3, 2, 9, 2, 9, 10, 3, 10]]},
        {"id": 900100000139, "image_id": 139, "category_id": 1, "iscrowd": 1, "segmentation": {"size": [24, 32], "counts": counts}},   # crowds are run lengths
        {"id": 2, "image_id": 139, "category_id": 13, "iscrowd": 0, "segmentation": [[4, 12, 12, 12, 12, 20, 4, 20], [12, 12, 20, 12, 20, 20, 12, 20]]}]}  # in two parts
    colours = {1: 3226956, 2: 6979964, 3: 2038, 4: 65536 * 200}                       # ids are packed colours, any number below 2**24; 0 is void
    ids = np.vectorize(lambda k: colours.get(k, 500))(truth)
    ids[:2] = 0                                                                      # void: nobody annotated
    def picture(values):
        return np.stack([values & 255, values >> 8 & 255, values >> 16], axis=-1).astype(np.uint8)
    panoptic = shared | {"categories": COCO_CATEGORIES, "annotations": [
        {"image_id": 139, "file_name": "000000000139.png", "segments_info": [
            {"id": 500, "category_id": 184, "iscrowd": 0}, {"id": colours[1], "category_id": 1, "iscrowd": 0}, {"id": colours[4], "category_id": 184, "iscrowd": 0},
            {"id": colours[3], "category_id": 1, "iscrowd": 1}, {"id": colours[2], "category_id": 13, "iscrowd": 0}]},
        {"image_id": 785, "file_name": "000000000785.png", "segments_info": [{"id": 9, "category_id": 184, "iscrowd": 0}]}]}     # nothing but stuff
    change(instances, panoptic)
    masks = {"panoptic_val2017/000000000139.png": png(picture(ids)), "panoptic_val2017/000000000785.png": png(picture(np.full((16, 20), 9)))}
    file = io.BytesIO()
    with zipfile.ZipFile(file, "w") as box:                                          # a zip inside the zip of annotations, as published
        for path, data in masks.items():
            box.writestr(path, data)
    inner = {"annotations/panoptic_val2017.zip": file.getvalue()} if zipped else {f"annotations/{path}": data for path, data in masks.items()}
    return store(root, "coco2017", {
        "val2017.zip": {"val2017/000000000139.jpg": jpeg(coloured(truth)), "val2017/000000000785.jpg": jpeg(np.full((16, 20), 99, np.uint8))},   # grey
        "annotations_trainval2017.zip": {"annotations/instances_val2017.json": json.dumps(instances).encode()},
        "panoptic_annotations_trainval2017.zip": {"annotations/panoptic_val2017.json": json.dumps(panoptic).encode(), **inner}}, zipped)


def voc(root, year: int, change=lambda members: None) -> Path:
    "Two photos of different sizes and orientation. Masks have a palette whose indices are ids; 255 is the border around objects."
    top, palette, members = f"VOCdevkit/VOC{year}", np.random.default_rng(0).integers(0, 256, 768).tolist(), {}
    for name, (height, width) in {"2007_000032": (20, 30), "2007_000039": (24, 16)}.items():
        ids = np.zeros((height, width), np.uint8)
        ids[3:13, 2:9], ids[4:12, 3:8] = 255, 1
        ids[6:13, 10:14] = 4                                      # ids 2 and 3 are not there
        kinds = np.select([ids == 1, ids == 4, ids == 255], [10, 15, 255]).astype(np.uint8)
        members |= {f"{top}/JPEGImages/{name}.jpg": jpeg(coloured(ids.astype(np.int32))), f"{top}/SegmentationObject/{name}.png": png(ids, palette),
                    f"{top}/SegmentationClass/{name}.png": png(kinds, palette)}
    members[f"{top}/JPEGImages/2007_000999.jpg"] = jpeg(np.zeros((8, 8, 3), np.uint8))         # most photos have no masks: the lists say which do
    lists = {"train": ["2007_000032"], "val": ["2007_000039"], "trainval": ["2007_000032", "2007_000039"]}
    members |= {f"{top}/ImageSets/Segmentation/{split}.txt": "".join(f"{name}\n" for name in names).encode() for split, names in lists.items()}
    members[f"{top}/ImageSets/Main/trainval.txt"] = b"2007_000999\n"                           # a list of the same name that is not for masks
    change(members)
    return store(root, f"voc{year}", {"VOCtrainval.tar": members})


def clevrtex(root, change=lambda members: None) -> Path:
    "Ten scenes of the full set in two numbered folders, and one out of distribution. The picture has four channels, the mask a palette."
    members = {}
    for n, variant in [*((n, "full") for n in range(10)), (0, "outd")]:
        ids = np.zeros((12, 16), np.uint8)
        ids[2:8, 2:8], ids[6:10, 8:14] = 1, 2
        stem = f"clevrtex_{variant}/{n // 6}/CLEVRTEX_{variant}_{n:06d}"        # published: a thousand in a folder
        frame = np.concatenate([coloured(ids.astype(np.int32)), np.full((12, 16, 1), 255, np.uint8)], axis=-1)
        things = [{"index": 1, "shape": "cube", "material": "lava", "size": "small", "rotation": 12.5},
                  {"index": 2, "shape": "teapot", "material": "snow", "size": "large", "rotation": 300.0}]
        members |= {f"{stem}.png": png(frame), f"{stem}_flat.png": png(ids, [0, 0, 0, 255, 0, 0, 0, 255, 0]),
                    f"{stem}_depth_0001.png": png(ids), f"{stem}.json": json.dumps({"num_objects": 2, "ground_material": "sand", "objects": things}).encode()}
    change(members)
    return store(root, "clevrtex", {"clevrtex_full.tar.gz": members})
