"""The vision encoder against its definition in NumPy, on a spectrogram: not square, and of one channel."""

import math

import jax
import jax.numpy as jnp
import numpy as np

from mmjax.models.vision_encoder import VisionEncoder
from mmjax.nn.compute import Compute

PATCH, WIDTH, HEADS = 4, 24, 3
SOUND = jax.random.normal(jax.random.key(0), (2, 20, 12, 1))  # 5 bands of frequency, 3 of time
HIDDEN = np.arange(30).reshape(2, 15) % 4 == 1


def encoder(**changes):
    return VisionEncoder(PATCH, WIDTH, layers=2, heads=HEADS, **changes)


def some_params(module, x=SOUND):
    """Of a size at which every part has a say, for those that begin near 0 as well."""
    params = jax.jit(module.init)(jax.random.key(1), x)["params"]
    leaves, tree = jax.tree.flatten(params)
    keys = jax.random.split(jax.random.key(2), len(leaves))
    return jax.tree.unflatten(
        tree, [x + 0.2 * jax.random.normal(k, x.shape) for x, k in zip(leaves, keys, strict=True)]
    )


def apply(module, params, *seen):
    return np.asarray(jax.jit(module.apply)({"params": params}, *seen))


def normalized(x, params):
    x = (x - x.mean(-1, keepdims=True)) / np.sqrt(x.var(-1, keepdims=True) + 1e-6)
    return x * params["scale"] + params["bias"]


def sines(place, width):
    angle = [place / 10_000 ** (2 * i / width) for i in range(width // 2)]
    return [math.sin(a) for a in angle] + [math.cos(a) for a in angle]


def attended(x, p, turns):
    """Of one example; `turns` are the angles [t, pairs] by which pairs of features are turned, as complex numbers."""
    q, k, v = (np.einsum("td,dhk->htk", x, p[name]["kernel"]) + p[name]["bias"][:, None] for name in "qkv")
    pairs = turns.shape[1]

    def turned(y):
        z = (y[..., :pairs] + 1j * y[..., pairs : 2 * pairs]) * np.exp(1j * turns)
        return np.concatenate([z.real, z.imag, y[..., 2 * pairs :]], axis=-1)

    scores = turned(q) @ turned(k).swapaxes(1, 2) / math.sqrt(q.shape[-1])
    weights = np.exp(scores - scores.max(-1, keepdims=True))
    weights /= weights.sum(-1, keepdims=True)
    return np.einsum("htk,hkd->td", weights @ v, p["out"]["kernel"]) + p["out"]["bias"]


def expected(params, x, hidden, registers):
    """The definition, one example and one patch at a time, in float64."""
    p = jax.tree.map(lambda leaf: np.asarray(leaf, np.float64), params)
    b, high, wide, c = x.shape
    rows, columns, out = high // PATCH, wide // PATCH, []
    for example in range(b):
        tokens, turns = [], []
        for n in range(rows * columns):
            row, column = divmod(n, columns)
            pixels = x[example, row * PATCH :, column * PATCH :][:PATCH, :PATCH].reshape(-1)
            token = pixels @ p["patches"]["kernel"].reshape(PATCH * PATCH * c, WIDTH) + p["patches"]["bias"]
            token = p["mask"] if hidden[example, n] else token
            tokens.append(token + np.array(sines(row, WIDTH // 2) + sines(column, WIDTH // 2)))
            turns.append([place / 100 ** (i / 2) for place in (row, column) for i in range(2)])
        tokens += [*p["register"]]
        turns = np.array(turns + [[0.0] * 4] * registers)
        y = np.array(tokens)
        for layer in range(2):
            q = jax.tree.map(lambda leaf, layer=layer: leaf[layer], p["stack"]["block"])
            y = y + attended(normalized(y, q["norm_self"]), q["self_attention"], turns)
            z = normalized(y, q["norm_mlp"]) @ q["mlp_in"]["kernel"] + q["mlp_in"]["bias"]
            z = z * (1 + np.tanh(math.sqrt(2 / math.pi) * (z + 0.044715 * z**3))) / 2
            y = y + z @ q["mlp_out"]["kernel"] + q["mlp_out"]["bias"]
        out.append(normalized(y[: rows * columns], p["norm"]))
    return np.array(out)


def test_equals_the_definition():
    module = encoder(registers=5, masking=True)
    params = some_params(module)
    found = apply(module, params, SOUND, HIDDEN)
    assert found.shape == (2, 15, WIDTH)
    np.testing.assert_allclose(found, expected(params, np.asarray(SOUND, np.float64), HIDDEN, 5), atol=1e-4)
    other = encoder(registers=5, masking=True, compute=Compute(convolution="matmul", remat=True, unroll=2))
    np.testing.assert_allclose(apply(other, params, SOUND, HIDDEN), found, atol=1e-5)


def test_hidden_patches_are_not_seen():
    module = encoder(masking=True)
    params = some_params(module)
    found = apply(module, params, SOUND, HIDDEN)
    place = np.flatnonzero(HIDDEN[0])[1]
    row, column = (PATCH * i for i in divmod(int(place), 3))
    changed = SOUND.at[0, row : row + PATCH, column : column + PATCH].set(9.0)
    np.testing.assert_array_equal(apply(module, params, changed, HIDDEN), found)
    assert np.abs(apply(module, params, changed)[0] - apply(module, params, SOUND)[0]).max() > 0.1
    none = np.zeros_like(HIDDEN)
    np.testing.assert_allclose(apply(module, params, SOUND, none), apply(module, params, SOUND), atol=1e-6)


def test_other_sides_than_it_was_made_for():
    """Sides that the patch does not divide are as good as with zeros around."""
    module = encoder(registers=2)
    params = some_params(module)
    short = SOUND[:, :, :10]
    padded = jnp.pad(short, ((0, 0), (0, 0), (1, 1), (0, 0)))
    assert apply(module, params, SOUND[:, :8]).shape == (2, 6, WIDTH)
    np.testing.assert_allclose(apply(module, params, short), apply(module, params, padded), atol=1e-5)
