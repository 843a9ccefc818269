"""Whether emoji are drawn as their names say, by classifiers trained on real ones; distances to the true drawings.

The classifiers are kernel ridge regressions (Saunders, Gammerman and Vovk 1998) with a Gaussian kernel, of the activity
and gender on the image reduced to 16 x 16 pixels, of the tone on a histogram of colors. They are trained on the real
combinations of the split "train" and on blurred, noisy and shifted copies; their accuracy on the true drawings of the
evaluated combinations, which they have not seen, is reported beside that on generated ones.
"""

import functools
from collections.abc import Callable, Iterable, Mapping, Sequence
from typing import Any

import jax
import jax.numpy as jnp
import numpy as np
from jaxtyping import Array, Float, Float64, Int64, UInt8
from PIL import Image

from mmjax.config import Config
from mmjax.config.schema import require
from mmjax.evaluate.reconstruction import frechet_distance, random_features, random_kernels
from mmjax.evaluate.rows import predicted
from mmjax.evaluate.spec import EvaluatorSpec
from mmjax.models import lpips
from mmjax.sample.postprocess import to_uint8
from mmjax.scenes import emoji
from mmjax.types import Batch, Evaluator, Predict, Results, Samples

RECOGNIZED = ("tone", "activity", "gender", "all")
METRICS = (*(f"emoji/{each}" for each in RECOGNIZED), *(f"emoji/real_{each}" for each in RECOGNIZED),
           "emoji/distance", "emoji/frechet_distance")  # fmt: skip
LAYOUT, COLORS, BINS = 16, 32, 6  # pixels of the reduced images, bins of each color channel
NOISE = 8.0  # standard deviation in copies, of 255
RIDGE = 1e-3
PIECE = 16  # training images in memory at a time

Classify = Callable[[UInt8[np.ndarray, "n y x 3"]], Int64[np.ndarray, " n"]]


def evaluator(config: Config) -> Evaluator:
    """An evaluator of generated emoji.

    Yields, of combinations of an activity that training has, a gender and a tone, the fractions whose image is
    recognized as of its "emoji/tone", "emoji/activity", "emoji/gender" and all three, and the same of the true drawings
    as "emoji/real_...". OpenMoji draws many a person as it draws the man, so that the gender is whether it is a woman.

    Yields "emoji/distance", the mean perceptual distance to the true drawing, and "emoji/frechet_distance" between all
    generated images and all true drawings, both on the networks of the config's perceptual.weights, else on one of
    fixed random weights, whose numbers compare only with each other. Yields the samples "languages", the same emoji
    from their names in each language of the config.
    """
    background = emoji.color(config.data.emoji.background) if config.data.emoji.background != "random" else (255,) * 3

    def evaluate(predict: Predict, batches: Callable[[], Iterable[Batch]]) -> Results:
        known = {each.code: each for each in emoji.all_emoji()}
        drawn: list[np.ndarray] = []
        asked: list[emoji.Emoji] = []
        for batch, outputs in predicted(predict, batches):
            drawn.extend(to_uint8(outputs["image"]))
            asked.extend(known[code] for code in batch["id"])
        if not asked:
            return
        real = [emoji.draw(each.code, config.data.size, background) for each in asked]
        combined = [i for i, each in enumerate(asked) if each.combines and each.split != "unseen"]
        if combined:
            labels = [asked[i] for i in combined]
            for prefix, images in (("", drawn), ("real_", real)):
                judge = trained_judge(config.data.size, background)
                found = recognized(judge, np.stack([images[i] for i in combined]), labels)
                yield from ((f"emoji/{prefix}{name}", float(np.mean(right))) for name, right in found.items())
        yield from _distances(config, np.stack(drawn), np.stack(real))
        yield from _languages(config, predict, batches, background)

    return evaluate


def recognized(
    judge: Mapping[str, tuple[Classify, tuple[str, ...]]],
    images: UInt8[np.ndarray, "n y x 3"],
    asked: Sequence[emoji.Emoji],
) -> dict[str, Any]:
    """Whether each image is recognized as what was asked for, bool [n] by name of the aspect, and in "all" of them."""
    found = {}
    for aspect, (classify, classes) in judge.items():
        said = [classes[label] for label in classify(images).tolist()]
        found[aspect] = np.array([a == b for a, b in zip(said, map(ASPECTS[aspect], asked), strict=True)])
    return found | {"all": np.all(list(found.values()), axis=0)}


ASPECTS: Mapping[str, Callable[[emoji.Emoji], str]] = {
    "tone": lambda each: each.tones[0],
    "activity": lambda each: each.activity,
    "gender": lambda each: "woman" if each.gender == "woman" else "man or person",
}


@functools.lru_cache(maxsize=1)
def trained_judge(size: int, background: tuple[int, ...]) -> dict[str, tuple[Classify, tuple[str, ...]]]:
    """Classifiers of each aspect with the names of their classes, trained on real combinations of the split "train"."""
    examples = [each for each in emoji.all_emoji() if each.combines and each.split == "train"]
    rngs = np.random.default_rng(0), np.random.default_rng(1)
    pieces = []  # [copy][feature] of each
    for start in range(0, len(examples), PIECE):
        images = np.stack([emoji.draw(each.code, size, background) for each in examples[start : start + PIECE]])
        blurred, other = (_blurred(images, rng) for rng in rngs)
        copies = images, blurred, np.roll(other, 1, axis=(1, 2))
        pieces.append([(layout(each), colors(each)) for each in copies])
    layout_, colors_ = (np.concatenate([piece[c][f] for c in range(3) for piece in pieces]) for f in range(2))
    judge: dict[str, tuple[Classify, tuple[str, ...]]] = {}
    for aspect, of in ASPECTS.items():
        classes = tuple(sorted({of(each) for each in examples}))
        labels = np.array([classes.index(of(each)) for each in examples] * 3)
        features, known = (colors, colors_) if aspect == "tone" else (layout, layout_)
        judge[aspect] = classifier(features, known, labels), classes
    return judge


def classifier(
    features: Callable[[UInt8[np.ndarray, "n y x 3"]], Float64[np.ndarray, "n d"]],
    known: Float64[np.ndarray, "m d"],
    labels: Int64[np.ndarray, " m"],
) -> Classify:
    """Fits a kernel ridge regression to one-hot labels; the bandwidth is the median of the squared distances."""
    distances = _squared_distances(known, known)
    bandwidth = float(np.median(distances))
    kernel = np.exp(-distances / bandwidth) + RIDGE * np.eye(len(known))
    weights = np.linalg.solve(kernel, np.eye(int(labels.max()) + 1)[labels])

    def classify(images: UInt8[np.ndarray, "n y x 3"]) -> Int64[np.ndarray, " n"]:
        found = np.exp(-_squared_distances(features(images), known) / bandwidth) @ weights
        return np.argmax(found, axis=1)

    return classify


def _squared_distances(a: Float64[np.ndarray, "n d"], b: Float64[np.ndarray, "m d"]) -> Float64[np.ndarray, "n m"]:
    return np.maximum((a * a).sum(axis=1)[:, None] + (b * b).sum(axis=1)[None] - 2 * a @ b.T, 0)


def _reduced(images: UInt8[np.ndarray, "n y x 3"], side: int) -> UInt8[np.ndarray, "n {side} {side} 3"]:
    return np.stack([np.asarray(Image.fromarray(each).resize((side, side), Image.Resampling.BOX)) for each in images])


def _blurred(images: UInt8[np.ndarray, "n y x 3"], rng: np.random.Generator) -> UInt8[np.ndarray, "n y x 3"]:
    """Copies at half the resolution with noise, as a visual tokenizer may leave them."""
    height, width = images.shape[1:3]
    half = _reduced(images, width // 2)
    coarse = np.stack([np.asarray(Image.fromarray(each).resize((width, height))) for each in half])
    noise = rng.normal(0, NOISE, images.shape)
    return np.clip(np.rint(coarse + noise), 0, 255).astype(np.uint8)


def layout(images: UInt8[np.ndarray, "n y x 3"]) -> Float64[np.ndarray, "n d"]:
    """Images reduced to 16 x 16 pixels, values from 0 to 1."""
    return _reduced(images, LAYOUT).reshape(len(images), -1) / 255


def colors(images: UInt8[np.ndarray, "n y x 3"]) -> Float64[np.ndarray, "n d"]:
    """Square roots of the histograms of colors, each pixel shared by the eight nearest bins by trilinear weights."""
    values = _reduced(images, COLORS).reshape(len(images), -1, 3) / 255 * (BINS - 1)
    low = np.minimum(values.astype(np.int64), BINS - 2)
    rest = values - low
    found = np.zeros((len(images), BINS**3))
    rows = np.arange(len(images))[:, None]
    for corner in np.ndindex(2, 2, 2):
        upper = np.array(corner)
        weights = np.where(upper, rest, 1 - rest).prod(axis=2)
        np.add.at(found, (rows, (low + upper) @ np.array([BINS * BINS, BINS, 1])), weights)
    return np.sqrt(found / values.shape[1])


def _distances(config: Config, drawn: UInt8[np.ndarray, "n y x 3"], real: UInt8[np.ndarray, "n y x 3"]) -> Results:
    params: Any = random_kernels()
    features: Callable[..., Any] = random_features
    distance: Callable[..., Any] = random_distance
    if config.perceptual.weights:
        params = lpips.read(config.perceptual, config.data.size)
        features, distance = lpips.last_features, lpips.distance
    both = [(each / np.float32(127.5) - 1).astype(np.float32) for each in (drawn, real)]
    # One image at a time, so that any number of them fits into memory and is compiled once.
    apart = jax.jit(lambda a, b: jax.lax.map(lambda pair: distance(params, pair[0][None], pair[1][None])[0], (a, b)))
    found = jax.jit(lambda x: jax.lax.map(lambda image: features(params, image[None])[0], x))
    yield "emoji/distance", float(np.mean(apart(*both)))
    if len(drawn) >= 2:  # a covariance needs two
        yield "emoji/frechet_distance", frechet_distance(*(np.asarray(found(x), np.float64) for x in both))


def random_distance(
    kernels: Sequence[Any], a: Float[Array, "b y x c"], b: Float[Array, "b y x c"]
) -> Float[Array, " b"]:
    """The distance of LPIPS (Zhang et al. 2018, equation 1) with the random network of random_features, unweighted."""
    total = jnp.zeros(a.shape[0])
    for kernel in kernels:
        a, b = (
            jax.nn.relu(
                jax.lax.conv_general_dilated(x, kernel, (2, 2), "SAME", dimension_numbers=("NHWC", "HWIO", "NHWC"))
            )
            for x in (a, b)
        )
        x, y = (each / (jnp.linalg.norm(each, axis=-1, keepdims=True) + 1e-6) for each in (a, b))
        total += jnp.mean(jnp.sum(jnp.square(x - y), axis=-1), axis=(1, 2))
    return total


def _languages(
    config: Config, predict: Predict, batches: Callable[[], Iterable[Batch]], background: tuple[int, ...]
) -> Results:
    """Yields the samples "languages", with a row for each and one of the true drawings."""
    languages, count = config.data.emoji.languages, config.evaluate.samples
    batch = next(iter(batches()), None) if count and len(languages) > 1 else None
    if batch is None:
        return
    rows: dict[str, np.ndarray] = {}
    shown = np.flatnonzero(batch["mask"])[:count].tolist()
    for place, language in enumerate(languages):
        names = [captions[place] if captions else "" for captions in batch["captions"]]
        rows[language] = to_uint8(predict({**batch, "text": names})["image"])[shown]
    rows["original"] = np.stack([emoji.draw(batch["id"][i], config.data.size, background) for i in shown])
    yield "languages", Samples([" · ".join(batch["captions"][i]) for i in shown], rows)


def _metrics(config: Config) -> tuple[str, ...]:
    # No combination of the split "unseen" has an activity that the classifiers know.
    return METRICS[2 * len(RECOGNIZED) :] if config.data.evaluation_split == "unseen" else METRICS


def _check(config: Config) -> None:
    require(
        config.data.source == "emoji",
        f"evaluate.evaluators: emoji is for data.source=emoji, not {config.data.source}; leave it out",
    )


EVALUATOR = EvaluatorSpec(
    build=evaluator,
    metrics=_metrics,
    predictions=("image",),
    fields=("text",),
    check=_check,
)
