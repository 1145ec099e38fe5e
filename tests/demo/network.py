"""A small neural network in numpy: two hidden layers, ReLU, softmax cross-entropy, Adam. Deterministic: the same state
and the same batches give the same numbers, so that a resumed run can be held against the one that was killed."""

from __future__ import annotations

import io

import numpy

LAYERS = (1024, 768, 256, 10)
RATE, DECAY_1, DECAY_2, EPSILON = 6e-4, 0.9, 0.999, 1e-8


class Network:
    def __init__(self, seed: int = 7) -> None:
        rng = numpy.random.default_rng(seed)
        self.step = 0
        self.weights: dict[str, numpy.ndarray] = {}
        for index, (wide, narrow) in enumerate(zip(LAYERS, LAYERS[1:])):
            scale = numpy.sqrt(2 / wide)
            self.weights[f"w{index}"] = (rng.standard_normal((wide, narrow)) * scale).astype(numpy.float32)
            self.weights[f"b{index}"] = numpy.zeros(narrow, numpy.float32)
        self.first = {name: numpy.zeros_like(w) for name, w in self.weights.items()}
        self.second = {name: numpy.zeros_like(w) for name, w in self.weights.items()}

    def layers(self, images: numpy.ndarray) -> list[numpy.ndarray]:
        """What each layer says of images (n × 1024 bytes): input, hidden ones, logits."""
        values = [images.astype(numpy.float32) / 127.5 - 1.0]
        last = len(LAYERS) - 2
        for index in range(last + 1):
            value = values[-1] @ self.weights[f"w{index}"] + self.weights[f"b{index}"]
            values.append(value if index == last else numpy.maximum(value, 0, out=value))
        return values

    def features(self, images: numpy.ndarray) -> numpy.ndarray:
        return self.layers(images)[-2]

    def predict(self, images: numpy.ndarray) -> numpy.ndarray:
        return self.layers(images)[-1].argmax(axis=1)

    def train(self, images: numpy.ndarray, labels: numpy.ndarray) -> float:
        """One step of Adam; returns the loss before it."""
        values = self.layers(images)
        logits = values[-1] - values[-1].max(axis=1, keepdims=True)
        chances = numpy.exp(logits)
        chances /= chances.sum(axis=1, keepdims=True)
        rows = numpy.arange(len(labels))
        loss = float(-numpy.log(chances[rows, labels] + 1e-12).mean())
        slope = chances
        slope[rows, labels] -= 1
        slope /= len(labels)
        self.step += 1
        for index in range(len(LAYERS) - 2, -1, -1):
            below = values[index]
            slopes = {f"w{index}": below.T @ slope, f"b{index}": slope.sum(axis=0)}
            if index:
                slope = (slope @ self.weights[f"w{index}"].T) * (below > 0)
            for name, value in slopes.items():
                self.adam(name, value)
        return loss

    def adam(self, name: str, slope: numpy.ndarray) -> None:
        first, second = self.first[name], self.second[name]
        first *= DECAY_1
        first += (1 - DECAY_1) * slope
        second *= DECAY_2
        second += (1 - DECAY_2) * slope * slope
        rate = RATE * float(numpy.sqrt(1 - DECAY_2**self.step) / (1 - DECAY_1**self.step))
        self.weights[name] -= rate * first / (numpy.sqrt(second) + EPSILON)

    # --- to and from files ---------------------------------------------------------------------------------

    def dump(self, optimizer: bool = True) -> bytes:
        arrays = {"step": numpy.int64(self.step)} | {f"weights.{n}": a for n, a in self.weights.items()}
        if optimizer:
            arrays |= {f"first.{n}": a for n, a in self.first.items()}
            arrays |= {f"second.{n}": a for n, a in self.second.items()}
        out = io.BytesIO()
        numpy.savez(out, **arrays)
        return out.getvalue()

    @classmethod
    def load(cls, data: bytes) -> "Network":
        made = cls()
        with numpy.load(io.BytesIO(data)) as arrays:
            made.step = int(arrays["step"])
            for group in ("weights", "first", "second"):
                for name in made.weights:
                    if f"{group}.{name}" in arrays:
                        getattr(made, group)[name] = arrays[f"{group}.{name}"]
        return made
