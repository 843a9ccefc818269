"""Tokens of captions against Stanford's tokenizer: what it gave for some, and itself where there is Java."""

import json
import os
import random
import shutil
import subprocess
from pathlib import Path

import pytest

from mmjax.evaluate.penn_treebank import tokenize

# Captions and what PTBTokenizer 3.4.1 with pycocoevalcap's list of punctuation made of them.
CASES = {
    "A man's dog isn't on it's  bed.": "a man 's dog is n't on it 's bed",
    "Two dogs' tails; they cannot, wanna.": "two dogs tails they can not wan na",
    "A sign says \"STOP\" and 'Go'!": "a sign says stop and go",
    "A black-and-white T-shirt, (left) of [it].": "a black-and-white t-shirt -lrb- left -rrb- of -lsb- it -rsb-",
    "8:25 on a clock; 1,000 at 12:30pm, 5 % of $5.00": "8:25 on a clock 1,000 at 12:30 pm 5 % of $ 5.00",
    "Mr. Smith at St. James St. in the U.S. at 5 p.m. vs. me.": (
        "mr. smith at st. james st. in the u.s. at 5 p.m. vs. me"
    ),
    "ice skating/skiing w/ a 12-year-old & AT&T": "ice skating/skiing w / a 12-year-old & at&t",
    "wow!! what?! a -- b ... c": "wow !! what ?! a b c",
    "don’t “quote” it — café №5": "do n't quote it café № 5",
    "the '60s and 90's o'clock y'all rock 'n' roll": "the '60s and 90 's o'clock y' all rock 'n' roll",
    "No. 7 is no. #1 or #hashtag": "no. 7 is no # 1 or #hashtag",
    "colour and grey": "colour and grey",
    "": "",
    " . ": "",
}


@pytest.mark.parametrize("caption", CASES)
def test_equals_the_stanford_tokenizer(caption: str) -> None:
    assert tokenize(caption) == CASES[caption].split()


def test_long_captions_are_fast() -> None:
    assert tokenize("a'" * 20_000 + "." * 20_000 + "b" * 20_000)[-1] == "b" * 20_000


def reference(captions: list[str], folder: Path) -> list[list[str]]:
    """What pycocoevalcap's PTBTokenizer gives, which itself would write into its package's folder."""
    pycocoevalcap = pytest.importorskip("pycocoevalcap")
    if shutil.which("java") is None:
        pytest.skip("needs Java, such as Debian's default-jre-headless")
    from pycocoevalcap.tokenizer import ptbtokenizer

    file = folder / "captions.txt"
    file.write_text("\n".join(captions) + "\n", encoding="utf-8")
    jar = Path(pycocoevalcap.__path__[0]) / "tokenizer" / ptbtokenizer.STANFORD_CORENLP_3_4_1_JAR
    command = ["java", "-Dfile.encoding=UTF-8", "-cp", str(jar), "edu.stanford.nlp.process.PTBTokenizer"]
    done = subprocess.run([*command, "-preserveLines", "-lowerCase", str(file)], capture_output=True, check=True)
    lines = [line.rstrip().split(" ") for line in done.stdout.decode().split("\n")[:-1]]
    assert len(lines) == len(captions)
    return [[word for word in words if word and word not in ptbtokenizer.PUNCTUATIONS] for words in lines]


def differing(captions: list[str], folder: Path) -> list[tuple[list[str], list[str]]]:
    pairs = [(tokenize(caption), words) for caption, words in zip(captions, reference(captions, folder), strict=True)]
    return [(ours, theirs) for ours, theirs in pairs if ours != theirs]


def test_cases_equal_the_java_program(tmp_path: Path) -> None:
    captions = [caption for caption in CASES if caption.strip()]
    assert reference(captions, tmp_path) == [CASES[caption].split() for caption in captions]


@pytest.fixture(scope="module")
def coco() -> list[str]:
    if "MMJAX_COCO_DIR" not in os.environ:
        pytest.skip("needs real captions: set MMJAX_COCO_DIR to a folder of COCO")
    annotations = Path(os.environ["MMJAX_COCO_DIR"]) / "annotations"
    files = [json.loads((annotations / f"captions_{split}2017.json").read_bytes()) for split in ("train", "val")]
    return [record["caption"].replace("\n", " ") for file in files for record in file["annotations"]][:20_000]


def test_coco_captions_equal_the_java_program(coco: list[str], tmp_path: Path) -> None:
    assert differing(coco, tmp_path) == []


def test_perturbed_captions_rarely_differ(coco: list[str], tmp_path: Path) -> None:
    things = """don't it's dogs' 's U.S. a.m. mr. St. ave. 12:30 1,000 3.5 #5 5% $5 1/2 t-shirt & AT&T w/ and/or "stop"
        'stop' (left) ... -- - — ; : ! ?! !! , o'clock y'all '60s 1950's 4x4 5'2" 747 R2-D2 ½ café cannot No. 7 man’s
        “stop” ‘hi’ Jr. etc. vs. mph. 12-year-old clock. * + = / [a] {b} 8:25. 5-7 6ft"""
    rng = random.Random(0)
    captions = []
    for _ in range(1000):
        words = rng.choice(coco).split()
        for _ in range(rng.randint(1, 3)):
            words.insert(rng.randint(0, len(words)), rng.choice(things.split()))
        captions.append(" ".join(words))
    assert len(differing(captions, tmp_path)) <= 5
