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
    panoptic = shared | {"categories": [dict(c) for c in COCO_CATEGORIES], "annotations": [
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


def compressed(counts: list[int]) -> str:
    "The compressed form, written independently of the reader: five bits a character, differences from the fourth number on."
    text = []
    for n, count in enumerate(counts):
        value = count - (counts[n - 2] if n > 2 else 0)
        while True:
            group, value = value & 31, value >> 5
            more = value != (-1 if group & 16 else 0)
            text.append(chr(48 + (group | (32 if more else 0))))
            if not more:
                break
    return "".join(text)


def ytvis(root, name: str = "ytvis_hq", listing: str = "ytvis_hq-train.json", change=lambda found: None) -> Path:
    "One video of three frames: two tracks that overlap, one unseen at first, one at last (null), and a crowd. HQ has compressed runs, 2019 and 2022 plain ones."
    where = [(np.s_[2:8, 2:8], (0, 1)), (np.s_[2:8, 6:14], (1, 2)), (np.s_[12:14, 10:12], (0, 1, 2))]

    def runs(part):
        mask = np.zeros((16, 20), int)
        mask[part] = 1
        edges = np.flatnonzero(np.diff(np.concatenate([[0], mask.T.ravel(), [0]])))
        counts = np.diff([0, *edges, mask.size]).tolist()
        return {"size": [16, 20], "counts": compressed(counts) if name == "ytvis_hq" else counts}

    found = {"info": {}, "licenses": [], "categories": [{"id": 1, "name": "person"}, {"id": 2, "name": "giant_panda"}],
             "videos": [{"id": 1, "width": 20, "height": 16, "length": 3, "file_names": [f"0043f083b5/{k:05d}.jpg" for k in (0, 5, 10)]}],    # every fifth frame
             "annotations": [{"id": n + 1, "video_id": 1, "category_id": min(n + 1, 2), "iscrowd": int(n == 2), "width": 20, "height": 16, "length": 3,
                              "segmentations": [runs(part) if k in steps else None for k in range(3)]} for n, (part, steps) in enumerate(where)]}
    change(found)
    folder = "valid" if listing.startswith("valid") else "train"
    frames = {f"{folder}/JPEGImages/0043f083b5/{k:05d}.jpg": jpeg(np.full((16, 20, 3), 20 * k, np.uint8)) for k in (0, 5, 10)}
    return store(root, name, {"train.zip": {listing: json.dumps(found).encode(), **frames}})


def clevrer(root, video: bytes, number: int = 0, split: str = "train", change=lambda found: None, n_steps: int = 3) -> Path:
    "A video and its annotation, a thousand to a folder as published. Objects may be outside the view."
    folder = f"{number // 1000 * 1000:05d}-{number // 1000 * 1000 + 1000:05d}"
    found = {"scene_index": number, "video_filename": f"video_{number:05d}.mp4",
             "object_property": [{"object_id": k, "color": c, "material": "metal", "shape": s} for k, c, s in ((0, "red", "cube"), (2, "blue", "sphere"))],
             "motion_trajectory": [{"frame_id": t, "objects": [{"object_id": k, "location": [t, k, 0.2], "orientation": [0, 0, 1], "velocity": [1, 0, 0],
                                    "angular_velocity": [0, 0, 0], "inside_camera_view": t > 0} for k in (0, 2)]} for t in range(n_steps)],
             "collision": [{"object_ids": [0, 2], "frame_id": 1, "location": [0, 0, 0]}]}
    change(found)
    return store(root, "clevrer", {"all.zip": {f"video_{split}/video_{folder}/video_{number:05d}.mp4": video,
                                                f"annotation_{split}/annotation_{folder}/annotation_{number:05d}.json": json.dumps(found).encode()}})


def proto(number: int, value: bytes) -> bytes:
    "A field of bytes in a protocol buffer."
    return bytes([number << 3 | 2]) + size_bytes(len(value)) + value


def size_bytes(n: int) -> bytes:
    "An integer, seven bits a byte."
    n, out = n % 2**64, b""
    while n > 127:
        n, out = n >> 7, out + bytes([n & 127 | 128])
    return out + bytes([n])


def example(features: dict) -> bytes:
    "A tf.train.Example of lists of bytes, float arrays and integer arrays."
    entries = b""
    for name, values in features.items():
        if isinstance(values, list):
            inside = proto(1, b"".join(proto(1, value) for value in values))
        elif np.asarray(values).dtype.kind == "f":
            inside = proto(2, proto(1, np.asarray(values, "<f4").tobytes()))
        else:
            inside = proto(3, proto(1, b"".join(size_bytes(int(n)) for n in np.ravel(values))))
        entries += proto(1, proto(1, name.encode()) + proto(2, inside))
    return proto(1, entries)


def crc(data: bytes) -> bytes:
    "The masked CRC32C, bit by bit."
    value = 0xFFFFFFFF
    for byte in data:
        value ^= byte
        for _ in range(8):
            value = value >> 1 ^ (0x82F63B78 if value & 1 else 0)
    value ^= 0xFFFFFFFF
    return (((value >> 15 | value << 17) + 0xA282EAD8) & 0xFFFFFFFF).to_bytes(4, "little")


def tfrecord(messages: list[bytes]) -> bytes:
    "A TFRecord file."
    heads = [len(message).to_bytes(8, "little") for message in messages]
    return b"".join(head + crc(head) + message + crc(message) for head, message in zip(heads, messages))


def movi(root, letter: str, split: str = "train", sizes=None, change=lambda features: None) -> Path:
    "Three clips of two frames in two files. Depth has 16 bits, visibility is stored, the second instance leaves; an unread feature lies between."
    files, side = {}, 16                                              # the folder names the published size; the pictures are smaller
    for size in sizes or (128 if letter in "ab" else 256,):
        clips = []
        for n in range(3):
            ids = np.zeros((2, side, side), np.uint8)
            ids[:, 2:6, 2:7], ids[0, 8:12, 8:10] = 1, 2
            levels = np.zeros((2, side, side), np.uint16)
            levels[:, 0, 0] = 65535
            features = {"metadata/video_name": [str(n).encode()], "metadata/num_instances": np.array([2]), "metadata/depth_range": np.array([2.0, 10.0], np.float32),
                        "video": [png(coloured(frame.astype(np.int32))) for frame in ids], "segmentations": [png(frame) for frame in ids], "depth": [png(frame) for frame in levels],
                        "forward_flow": [bytes(4 * side * side)] * 2, "instances/visibility": np.array([[20, 20], [8, 0]]),
                        "instances/category": np.array([1, 16]), "instances/shape_label": np.array([0, 2])}
            for key, width in (("positions", 3), ("velocities", 3), ("quaternions", 4), ("angular_velocities", 3), ("image_positions", 2)):
                features[f"instances/{key}"] = np.arange(2 * 2 * width, dtype=np.float32).reshape(2, 2, width)      # instance, then frame
            change(features)
            clips.append(example(features))
        place = f"{size}x{size}/1.0.0/movi_{letter}-{split}.tfrecord"
        files |= {f"{place}-00000-of-00002": tfrecord(clips[:2]), f"{place}-00001-of-00002": tfrecord(clips[2:])}
    return store(root, f"movi_{letter}", {"all.zip": files})
