#!/usr/bin/env python3
"""Makes pairs of training checkpoints for measuring deduplication: a small language model trained with Adam (optax) for
some steps, saved with its optimizer state, then trained on with only 30 % of its tensors not frozen, saved again.

    pip install jax optax safetensors numpy
    python make_checkpoints.py FOLDER

Writes FOLDER/NAME.{before,after}.EXT and FOLDER/pairs.json, which says how many bytes of tensors changed in each pair."""

import json
import pickle
import random
import sys
from pathlib import Path

import jax
import jax.numpy as jnp
import numpy as np
import optax
from safetensors.numpy import save_file

LAYERS, WIDTH, VOCABULARY, CONTEXT, BATCH = 8, 512, 8192, 64, 4


def init(key):
    keys = iter(jax.random.split(key, 8 * LAYERS + 2))

    def matrix(*shape):
        return jax.random.normal(next(keys), shape, jnp.float32) * 0.02

    params = {"embedding": matrix(VOCABULARY, WIDTH)}
    for layer in range(LAYERS):
        at = f"layer{layer:02}."
        for name in ("query", "key", "value", "output"):
            params[at + name] = matrix(WIDTH, WIDTH)
        params[at + "up"] = matrix(WIDTH, 4 * WIDTH)
        params[at + "down"] = matrix(4 * WIDTH, WIDTH)
        for name in ("norm1", "norm2"):
            params[at + name] = jnp.ones(WIDTH, jnp.float32)
    return params


def loss(params, tokens):
    def norm(x, scale):
        return scale * x * jax.lax.rsqrt(jnp.mean(x * x, -1, keepdims=True) + 1e-6)

    x = params["embedding"][tokens[:, :-1]]
    mask = jnp.tril(jnp.ones((x.shape[1], x.shape[1]), bool))
    for layer in range(LAYERS):
        at = f"layer{layer:02}."
        h = norm(x, params[at + "norm1"])
        q, k, v = (h @ params[at + name] for name in ("query", "key", "value"))
        scores = jnp.where(mask, q @ k.swapaxes(1, 2) / WIDTH**0.5, -1e9)
        x = x + jax.nn.softmax(scores) @ v @ params[at + "output"]
        h = norm(x, params[at + "norm2"])
        x = x + jax.nn.gelu(h @ params[at + "up"]) @ params[at + "down"]
    logits = x @ params["embedding"].T
    return optax.softmax_cross_entropy_with_integer_labels(logits, tokens[:, 1:]).mean()


def train(params, state, optimizer, trained, steps, seed):
    @jax.jit
    def step(params, state, tokens):
        grads = jax.grad(loss)(params, tokens)
        updates, new = optimizer.update(grads, state, params)
        applied = optax.apply_updates(params, updates)
        keep = {name: applied[name] if name in trained else params[name] for name in params}
        adam, old = new[0], state[0]
        mu = {name: adam.mu[name] if name in trained else old.mu[name] for name in params}
        nu = {name: adam.nu[name] if name in trained else old.nu[name] for name in params}
        return keep, (adam._replace(mu=mu, nu=nu), *new[1:])

    rng = np.random.default_rng(seed)
    for _ in range(steps):
        params, state = step(params, state, rng.integers(0, VOCABULARY, (BATCH, CONTEXT + 1)))
    return params, state


def tensors(params, state):
    adam = state[0]
    flat = {f"model.{name}": np.asarray(value) for name, value in params.items()}
    flat |= {f"adam.mu.{name}": np.asarray(value) for name, value in adam.mu.items()}
    flat |= {f"adam.nu.{name}": np.asarray(value) for name, value in adam.nu.items()}
    return flat


def main():
    folder = Path(sys.argv[1])
    folder.mkdir(parents=True, exist_ok=True)
    params = init(jax.random.key(0))
    optimizer = optax.adam(1e-3)
    state = optimizer.init(params)
    params, state = train(params, state, optimizer, set(params), 12, 1)
    before = tensors(params, state)

    names = sorted(params)
    scattered = set(random.Random(7).sample(names, round(len(names) * 0.3)))
    total = sum(v.nbytes for v in params.values())
    last, size = set(), 0
    for name in reversed(names):
        if size + params[name].nbytes > 0.3 * total:
            break
        last.add(name)
        size += params[name].nbytes

    pairs = []
    for label, trained in (("last-layers", last), ("scattered", scattered), ("all", set(names)), ("none", set())):
        new_params, new_state = train(params, state, optimizer, trained, 6, 2) if trained else (params, state)
        after = tensors(new_params, new_state)
        changed = sum(v.nbytes for k, v in after.items() if v.tobytes() != before[k].tobytes())
        whole = sum(v.nbytes for v in after.values())
        count = sum(v.tobytes() != before[k].tobytes() for k, v in after.items())
        # The step number makes the second header longer, as it does in real runs (99 -> 100).
        for ext in ("safetensors", "npz", "pkl"):
            paths = [folder / f"{label}.{when}.{ext}" for when in ("before", "after")]
            for path, flat, step in ((paths[0], before, 99), (paths[1], after, 10_000)):
                if ext == "safetensors":
                    save_file(flat, path, {"step": str(step)})
                elif ext == "npz":
                    np.savez(path, **flat)
                else:
                    with open(path, "wb") as file:
                        pickle.dump({"step": step, "note": "n" * (step % 89), **flat}, file, protocol=5)
            pairs.append({"pair": label, "format": ext, "before": paths[0].name, "after": paths[1].name,
                          "tensors": len(after), "tensors_changed": count, "bytes": whole, "bytes_changed": changed})
    (folder / "pairs.json").write_text(json.dumps(pairs, indent=1))
    for pair in pairs[::3]:
        print(f"{pair['pair']:12} {pair['tensors_changed']}/{pair['tensors']} tensors, "
              f"{pair['bytes_changed'] / pair['bytes']:.1%} of {pair['bytes'] >> 20} MiB changed")


if __name__ == "__main__":
    main()
