"""The data: 1,797 handwritten digits (UCI ML hand-written digits, in scikit-learn) and two photographs (Wikimedia
Commons, in scikit-learn). Raw, they are small PNG and JPEG files; processed, digits turned, shifted and scaled over
patches of the photographs: 32 × 32 pixels, a dozen of each, as one would make them to train on."""

from __future__ import annotations

import csv
import io
from importlib import resources

import numpy
from PIL import Image
from sklearn.datasets import load_digits

SIDE = 32
VARIANTS = 12
TEST_SHARE = 5  # every fifth digit is held out


def raw_files() -> dict[str, tuple[bytes, dict[str, str]]]:
    """Key → (bytes, user metadata) of everything that is uploaded raw."""
    digits = load_digits()
    files: dict[str, tuple[bytes, dict[str, str]]] = {}
    table = io.StringIO()
    rows = csv.writer(table)
    rows.writerow(["key", "label", "split"])
    for number, (image, label) in enumerate(zip(digits.images, digits.target)):
        split = "test" if number % TEST_SHARE == 0 else "train"
        key = f"digits/{number:05d}.png"
        files[key] = (png((image * 15.9375).astype(numpy.uint8)), {"label": str(label), "split": split})
        rows.writerow([key, label, split])
    for name in ("china.jpg", "flower.jpg"):
        files[f"photos/{name}"] = (resources.files("sklearn.datasets.images").joinpath(name).read_bytes(), {})
    files["labels.csv"] = (table.getvalue().encode(), {})
    return files


def png(pixels: numpy.ndarray) -> bytes:
    out = io.BytesIO()
    Image.fromarray(pixels).save(out, format="PNG")
    return out.getvalue()


def grey(encoded: bytes) -> numpy.ndarray:
    return numpy.asarray(Image.open(io.BytesIO(encoded)).convert("L"))


def variant(digit: numpy.ndarray, photos: list[numpy.ndarray], rng: numpy.random.Generator) -> numpy.ndarray:
    """One training image: the digit turned, shifted and scaled, over a darkened patch of a photograph."""
    side = int(rng.integers(22, 31))
    drawn = Image.fromarray(digit).resize((side, side), Image.Resampling.BICUBIC)
    drawn = drawn.rotate(float(rng.uniform(-12, 12)), Image.Resampling.BILINEAR)
    canvas = Image.new("L", (SIDE, SIDE))
    middle = (SIDE - side) // 2
    canvas.paste(drawn, (middle + int(rng.integers(-2, 3)), middle + int(rng.integers(-2, 3))))
    photo = photos[int(rng.integers(len(photos)))]
    top, left = int(rng.integers(photo.shape[0] - SIDE)), int(rng.integers(photo.shape[1] - SIDE))
    patch = photo[top : top + SIDE, left : left + SIDE].astype(numpy.float32) * float(rng.uniform(0.0, 0.3))
    return numpy.maximum(numpy.asarray(canvas, numpy.float32), patch).clip(0, 255).astype(numpy.uint8)
