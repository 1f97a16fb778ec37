"""Cut squares from photos: crops12 for P-Net, crops24 for R-Net, crops48 for O-Net.

    python crops.py PHOTOS

As in MTCNN, each network gets the squares that the previous network classified as faces, and
squares near them. Up to half of the crops kept are faces, so that the outputs vary.
"""

import random
import sys
from pathlib import Path

import numpy as np
import torch
from mtcnn import ONet, PNet, RNet
from PIL import Image

SQUARES = 150  # per photo
MOST = 12_000  # crops per size, at most half of them faces


def around(box, image, count=4):
    """Yield squares near a box, a little larger or smaller."""
    for _ in range(count):
        side = max(12, int((box[2] - box[0]) * random.uniform(0.8, 1.25)))
        x = int(box[0] + side * random.uniform(-0.15, 0.15))
        y = int(box[1] + side * random.uniform(-0.15, 0.15))
        if min(x, y) >= 0 and x + side <= image.width and y + side <= image.height:
            yield x, y, x + side, y + side


def somewhere(image):
    """Return a random square with a side of 0.1 to 0.7 of the image's shorter side."""
    side = int(min(image.size) * random.uniform(0.1, 0.7))
    x = random.randint(0, image.width - side)
    y = random.randint(0, image.height - side)
    return x, y, x + side, y + side


@torch.inference_mode()
def are_faces(network, crops):
    """Return for each crop whether a network classifies it as a face."""
    pixels = torch.from_numpy(np.stack(crops)).permute(0, 3, 1, 2).float()
    return (network((pixels - 127.5) / 128)[-1].flatten(1)[:, 1] > 0.5).tolist()


def main(photos):
    random.seed(0)
    networks = {12: PNet().eval(), 24: RNet().eval(), 48: ONet().eval()}
    kept = {size: ([], []) for size in networks}
    for file in sorted(path for path in Path(photos).rglob("*.*") if path.is_file()):
        image = Image.open(file).convert("RGB")
        boxes = [somewhere(image) for _ in range(SQUARES)]
        for size, network in networks.items():
            if not boxes:
                break
            crops = [np.asarray(image.resize((size, size), 2, box)) for box in boxes]
            faces = are_faces(network, crops)
            for crop, face in zip(crops, faces, strict=True):
                kept[size][face].append(crop)
            taken = [box for box, face in zip(boxes, faces, strict=True) if face]
            boxes = [near for box in taken for near in (box, *around(box, image))]
    for size, (others, faces) in kept.items():
        random.shuffle(others)
        random.shuffle(faces)
        faces = faces[: MOST // 2]
        folder = Path(f"crops{size}")
        folder.mkdir(exist_ok=True)
        for number, crop in enumerate([*others[: MOST - len(faces)], *faces]):
            Image.fromarray(crop).save(folder / f"{number:05}.png")
        print(f"{folder}: {number + 1}, of which {len(faces)} are faces to the network")


if __name__ == "__main__":
    main(sys.argv[1])
