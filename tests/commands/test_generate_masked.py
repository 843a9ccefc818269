"""mmjax generate with masked generators: from text, with masks, variations and clips to go on with."""

from pathlib import Path

import numpy as np
import pytest
from PIL import Image
from runs import Mistake, Once, Run, keep_loaded, noise

import mmjax
from mmjax import data
from mmjax.cli import main
from mmjax.export import ImageGenerator

PROMPTS = [f"a {color} {shape} left of a blue ring" for color in ("red", "green", "cyan", "purple", "yellow")
           for shape in ("circle", "square", "triangle", "ring")]  # fmt: skip
PROMPT = PROMPTS[0]


@pytest.fixture(name="folder", scope="session")
def exported(two_stages: Path, once: Once) -> Path:
    return once("quickstart_model", lambda out: main(["export", f"--workdir={two_stages}", f"--out={out}"]))


@pytest.fixture(name="clips", scope="session")
def model_of_clips(once: Once, run: Run) -> Path:
    """The model folder of the quickstart for clips, trained by one command."""

    def train(out: Path) -> None:
        workdir = out.with_name("quickstart_video")
        done = run("train", "--config=configs/quickstart_video.py:tiny,frames=5", "--workdir", workdir)
        assert noise(done.stderr) == [] and "quickstart_video: all steps done" in done.stdout
        assert "data:image/gif;base64," in (workdir / "report.html").read_text()
        run("export", "--workdir", workdir, "--out", out)

    return once("quickstart_video_model", train)


@pytest.fixture(name="model", scope="module")
def loaded(folder: Path) -> ImageGenerator:
    return mmjax.load(folder)


@pytest.fixture(autouse=True)
def loaded_once(folder: Path, model: ImageGenerator, monkeypatch: pytest.MonkeyPatch) -> None:
    keep_loaded(monkeypatch, {folder: model})


@pytest.fixture(name="image", scope="module")
def stripes(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An image of the model's size, each of its pixels another."""
    path = tmp_path_factory.mktemp("image") / "stripes.png"
    y, x = np.mgrid[0:32, 0:32]
    Image.fromarray(np.stack([x * 8, y * 8, (x + y) * 4], -1).astype(np.uint8)).save(path)
    return path


@pytest.fixture(name="clip", scope="module")
def moving(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder of three frames."""
    folder = tmp_path_factory.mktemp("clip") / "frames"
    folder.mkdir()
    for f in range(3):
        frame = np.zeros((32, 32, 3), np.uint8)
        frame[8:20, 4 * f : 4 * f + 12] = (250, 230, 20)
        Image.fromarray(frame).save(folder / f"{f}.png")
    return folder


def pixels(path: Path) -> np.ndarray:
    with Image.open(path) as image:
        return np.asarray(image.convert("RGB"))


def frames(path: Path) -> np.ndarray:
    with Image.open(path) as film:
        shown = []
        for i in range(film.n_frames):
            film.seek(i)
            shown += [np.asarray(film.convert("RGB"))] * round(film.info["duration"] / 125)  # alike ones are one
        return np.stack(shown)


def save_mask(path: Path, mask: np.ndarray) -> Path:
    Image.fromarray(mask).save(path)
    return path


def test_an_image_depends_on_its_prompt_and_seed_alone(
    model: ImageGenerator, folder: Path, two_stages: Path, tmp_path: Path, run: Run
) -> None:
    drawn = model.generate(PROMPTS, seed=100)
    assert drawn.shape == (20, 32, 32, 3) and drawn.dtype == np.uint8
    assert len(np.unique(drawn.reshape(20, -1), axis=0)) == 20
    for chosen in ([0], [19], [7, 3], [2, 17, 3, 11, 5], list(range(16)), list(range(3, 20))):
        again = model.generate([PROMPTS[i] for i in chosen], seed=[100 + i for i in chosen])
        np.testing.assert_array_equal(again, drawn[chosen])
    np.testing.assert_array_equal(mmjax.load(two_stages).generate(PROMPTS[4:6], seed=104), drawn[4:6])
    assert (model.generate(PROMPTS[:5], seed=101) != drawn[:5]).any(axis=(1, 2, 3)).all()
    # The command, in a process with one device instead of the eight there are here.
    run("generate", f"--model={folder}", "--seed=100", "--prompt", *PROMPTS[:3], f"--out={tmp_path}/{{}}.png")
    for i, image in enumerate(drawn[:3]):
        np.testing.assert_array_equal(pixels(tmp_path / f"{i}.png"), image)


def test_how_it_is_drawn_can_be_chosen(model: ImageGenerator, folder: Path, tmp_path: Path) -> None:
    command = ["generate", f"--model={folder}", "--prompt", PROMPT, "--seed=7"]
    chosen = {"steps": 2, "order": "confidence", "temperature": 0.5, "top_k": 3, "guidance": 1.5}
    chosen["refinement_steps"] = 3
    options = [f"--{name.replace('_', '-')}={value}" for name, value in chosen.items()]
    assert main([*command, *options, f"--out={tmp_path / 'chosen.png'}"]) == 0
    expected = model.generate([PROMPT], seed=7, **chosen)[0]
    np.testing.assert_array_equal(pixels(tmp_path / "chosen.png"), expected)
    assert (expected != model.generate([PROMPT], seed=7)[0]).any()
    assert main([*command, "--top-k=1", "--guidance=0", f"--out={tmp_path / 'one.png'}"]) == 0
    without = model.generate(["something else"], seed=7, top_k=1, guidance=0.0)[0]  # no text, no difference
    np.testing.assert_array_equal(pixels(tmp_path / "one.png"), without)


def test_a_mask_keeps_the_rest(folder: Path, image: Path, tmp_path: Path) -> None:
    mask = np.zeros((32, 32), np.uint8)
    mask[3:18, 16:] = 255
    save_mask(tmp_path / "mask.png", mask)
    command = ["generate", f"--model={folder}", "--prompt", *PROMPTS[:2], f"--image={image}"]
    assert main([*command, f"--mask={tmp_path / 'mask.png'}", f"--out={tmp_path / '{}.png'}"]) == 0
    original, drawn = pixels(image), [pixels(tmp_path / f"{i}.png") for i in range(2)]
    for one in drawn:
        np.testing.assert_array_equal(one[mask == 0], original[mask == 0])
        assert (one != original).any()
    assert (drawn[0] != drawn[1]).any()
    # A larger image is cropped, and its mask with it.
    large = np.repeat(np.repeat(np.pad(mask, ((0, 0), (5, 5))), 2, axis=0), 2, axis=1)
    save_mask(tmp_path / "large_mask.png", large)
    Image.open(image).resize((64, 64)).save(tmp_path / "inner.png")
    wide = Image.new("RGB", (84, 64))
    wide.paste(Image.open(tmp_path / "inner.png"), (10, 0))
    wide.save(tmp_path / "large.png")
    command[-1] = f"--image={tmp_path / 'large.png'}"
    assert main([*command, f"--mask={tmp_path / 'large_mask.png'}", f"--out={tmp_path / 'l{}.png'}"]) == 0
    kept = data.read_image(tmp_path / "large.png", 32, 32)
    kept = np.rint((kept + 1) * 127.5).astype(np.uint8)
    np.testing.assert_array_equal(pixels(tmp_path / "l0.png")[mask == 0], kept[mask == 0])


def test_a_variation_keeps_some_of_the_image(folder: Path, image: Path, tmp_path: Path) -> None:
    command = ["generate", f"--model={folder}", "--prompt", PROMPT, f"--image={image}", "--variation=0.25"]
    for seed in (0, 1):
        assert main([*command, f"--seed={seed}", f"--out={tmp_path / f'{seed}.png'}"]) == 0
    zero, one = (pixels(tmp_path / f"{seed}.png") for seed in (0, 1))
    same = (zero == pixels(image)).all(-1)
    assert same.reshape(8, 4, 8, 4).all(axis=(1, 3)).sum() == 48  # of 64 codes
    assert (zero != one).any()


@pytest.mark.slow
def test_clips_are_drawn_and_gone_on_with(clips: Path, clip: Path, image: Path, tmp_path: Path) -> None:
    command = ["generate", f"--model={clips}", "--prompt", "a red circle moving left", "a blue ring moving up"]
    assert main([*command, f"--out={tmp_path / 'all.gif'}"]) == 0
    assert main([*command, f"--out={tmp_path / '{}.mp4'}"]) == 0
    drawn = frames(tmp_path / "all.gif")
    assert drawn.shape == (5, 32, 64, 3)
    for i in range(2):
        film = data.read_clip(tmp_path / f"{i}.mp4", 128, 128, 5, 8.0)[:, 2::4, 2::4]  # small clips are enlarged
        assert np.abs((film + 1) * 127.5 - drawn[:, :, 32 * i : 32 * i + 32]).mean() < 12  # mp4 is lossy
    for count in (1, 3):
        assert main([*command, f"--clip={clip}", f"--clip-frames={count}", f"--out={tmp_path / 'on.gif'}"]) == 0
        again = frames(tmp_path / "on.gif")
        assert again.shape == (5, 32, 64, 3)
        for f in range(count):
            for half in (again[f, :, :32], again[f, :, 32:]):
                np.testing.assert_array_equal(half, pixels(clip / f"{3 - count + f}.png"))
    # An image is the first frame, and a part of it may be resampled.
    assert main([*command, f"--image={clip / '0.png'}", f"--out={tmp_path / 'from.gif'}"]) == 0
    begun = frames(tmp_path / "from.gif")
    np.testing.assert_array_equal(begun[0, :, :32], pixels(clip / "0.png"))
    mask = np.zeros((32, 32), np.uint8)
    mask[16:] = 255
    save_mask(tmp_path / "mask.png", mask)
    options = [f"--image={clip / '0.png'}", f"--mask={tmp_path / 'mask.png'}", f"--out={tmp_path / 'half.gif'}"]
    assert main([*command, *options]) == 0
    half = frames(tmp_path / "half.gif")
    np.testing.assert_array_equal(half[0, :16, :32], pixels(clip / "0.png")[:16])
    assert (half[0, 16:, :32] != pixels(clip / "0.png")[16:]).any()


def test_a_long_prompt_is_cut_and_said(
    model: ImageGenerator, two_stages: Path, folder: Path, tmp_path: Path, run: Run
) -> None:
    long = PROMPT + " and a green square\n" * 30
    told = f"mmjax: prompt {long.strip()[:60]!r} has more than 12 tokens; what goes beyond is cut\n"
    for name, path in (("folder", folder), ("workdir", two_stages)):  # other libraries log too where Orbax is loaded
        done = run("generate", "--model", path, "--prompt", long, PROMPT, "--out", tmp_path / f"{name}.png")
        assert (done.stdout, done.stderr) == (f"2 images: {tmp_path / name}.png\n", told)
    ids = data.load_tokenizer(folder / "tokenizer.model").encode([long], 12)
    assert (pixels(tmp_path / "folder.png")[:, :32] == model.generate([long])[0]).all() and ids.all()
    assert (tmp_path / "workdir.png").read_bytes() == (tmp_path / "folder.png").read_bytes()


def test_images_and_masks_that_are_wrong(folder: Path, image: Path, tmp_path: Path, mistake: Mistake) -> None:
    out = tmp_path / "out" / "drawn.png"
    command = ("generate", f"--model={folder}", "--prompt", PROMPT, "--out", out)
    good = save_mask(tmp_path / "good.png", np.full((32, 32), 255, np.uint8))
    small = save_mask(tmp_path / "small.png", np.zeros((16, 32), np.uint8))
    grey = save_mask(tmp_path / "grey.png", np.full((32, 32), 130, np.uint8))
    broken = tmp_path / "broken.png"
    broken.write_bytes(good.read_bytes()[:50])
    for options, what in [
        (("--mask", small), f"{small}: has 32 x 16 pixels; a mask must be as large as its image, {image}, which "
                            "has 32 x 32"),
        (("--mask", grey), "mask: must hold only 0 (keep) and 255 (resample), but 1,024 of 1,024 pixels are "
                           "grey, such as 130"),
        (("--mask", broken), f"{broken}: cannot be read as an image: "),
        (("--mask", tmp_path / "none.png"), f"{tmp_path / 'none.png'}: no such file; give the path of an image"),
        ((), "image: needs a mask or a variation"),
        (("--variation=0",), "variation: must be above 0 and at most 1, not 0"),
        (("--variation=nan",), "variation: must be above 0 and at most 1, not nan"),
        (("--clip", image), "--clip, --image: give one of them"),
    ]:  # fmt: skip
        assert mistake(*command, "--image", image, *options).startswith(what)
    for options, what in [
        (("--mask", good), "--mask: needs --image, the image to edit"),
        (("--variation=0.5",), "variation: needs an image"),
        (("--clip", image), "--clip: this model draws images, not clips"),
        (
            ("--reference", image),
            "reference: ",
        ),
    ]:
        assert mistake(*command, *options).startswith(what)
    assert not out.parent.exists()


@pytest.mark.parametrize(("option", "what"), [
    ("--guidance=-1", "sampling.guidance: "),
    ("--guidance=nan", "sampling.guidance: must be finite in float32, not nan"),
    ("--steps=0", "sampling.steps: "),
    ("--temperature=0", "sampling.temperature: "),
    ("--top-k=-1", "sampling.top_k: "),
    ("--refinement-steps=-1", "sampling.refinement_steps: "),
    ("--order=random", "argument --order: invalid choice: 'random'"),
    ("--sharpen=9", "sharpen: amount must be from 0 to 5, not 9"),
    ("--denoise=-1", "denoise: strength must be from 0 to 100, not -1"),
])  # fmt: skip
def test_settings_that_are_wrong(option: str, what: str, folder: Path, tmp_path: Path, mistake: Mistake) -> None:
    out = tmp_path / "drawn.png"
    assert mistake("generate", f"--model={folder}", "--prompt", PROMPT, "--out", out, option).startswith(what)
    assert list(tmp_path.iterdir()) == []


@pytest.mark.slow
def test_clips_that_are_wrong(clips: Path, clip: Path, image: Path, tmp_path: Path, mistake: Mistake) -> None:
    out = tmp_path / "out" / "drawn.gif"
    command = ("generate", f"--model={clips}", "--prompt", "a red circle moving left", "--out")
    line = mistake(*command, tmp_path / "x.png")
    assert line == f"--out {tmp_path / 'x.png'}: this model draws clips; the name must end in .mp4, .gif"
    unreadable = tmp_path / "unreadable.mp4"
    unreadable.write_bytes(b"no clip")
    for options, what in [
        (("--clip", clip / "0.png", "--clip-frames=3"), f"{clip / '0.png'}: ends early: it has 1 frames at 8 a second, "
                                                        "and 3 are needed"),
        (("--clip", clip, "--clip-frames=4"), f"{clip}: ends early: it has 3 frames at 8 a second, and 4 are needed"),
        (("--clip", clip, "--clip-frames=5"), "--clip-frames 5: must be from 1 to 4"),
        (("--clip", clip, "--clip-frames=0"), "--clip-frames 0: must be from 1 to 4"),
        (("--clip", unreadable), f"{unreadable}: cannot be read as a clip: "),
        (("--clip", tmp_path / "none.gif"), f"{tmp_path / 'none.gif'}: no such file; give the path of a clip"),
    ]:  # fmt: skip
        assert mistake(*command, out, *options).startswith(what)
    assert not out.parent.exists()
