"""What every objective exports loads without selfsup, to equal outputs; one child process serves all objectives."""

from __future__ import annotations

import functools
import json
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from safetensors.torch import load_file, save_file

from contract.case import BY_GRADIENT, load_case
from selfsup import training as verbs
from selfsup.encoder import evaluating
from selfsup.errors import UserError
from selfsup.exports import export, snippet
from selfsup.image_encoder import ImageEncoder
from selfsup.ops.holes import block_holes
from selfsup.predictors.filler import Filler
from selfsup.predictors.generator import Generator
from selfsup.predictors.inpainter import Inpainter
from selfsup.predictors.pair import Pair
from selfsup.predictors.ranker import Ranker
from selfsup.run import Run
from selfsup.text_encoder import TextEncoder
from selfsup.training import train

TEXT = "hidden things are found"
NETWORKS: dict[str, tuple[str, int, dict]] = {  # beside those of the objectives: every way in which a network is loaded
    "plain stem, small pictures": ("resnet18", 32, {}),
    "stock stem": ("resnet18", 64, {}),
    "transformer": ("vit_tiny_patch16_224", 32, {"img_size": 32, "patch_size": 8, "depth": 2}),
}
OUTPUTS = ("features", "hidden", "vector", "logits", "filled")

STRANGER = """
import json, sys
from pathlib import Path

class NoSelfsup:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "selfsup":
            raise ImportError(f"{name}: an export must load without selfsup")

sys.meta_path.insert(0, NoSelfsup())
import torch
from safetensors.torch import load_file, save_file

torch.set_num_threads(1)
for job in json.loads(Path(sys.argv[1]).read_text()):
    scope = {"text": job["text"], "texts": [job["text"], "found"], "following": job["text"], **load_file(job["inputs"])}
    with torch.no_grad():
        exec(job["code"], scope)
    found = {name: scope[name].contiguous() for name in job["outputs"] if name in scope}
    save_file(found, job["out"])
assert not any(name.partition(".")[0] == "selfsup" for name in sys.modules)
"""


def pictures(encoder: ImageEncoder) -> np.ndarray:
    """(5, S, S, C) uint8."""
    size, channels = encoder.about.size, len(encoder.about.mean)
    return np.random.default_rng(0).integers(0, 256, (5, size, size, channels), dtype=np.uint8)


def inputs_of(encoder: ImageEncoder) -> dict[str, torch.Tensor]:
    """The same as (5, C, S, S) in [0, 1], and a hole in each."""
    shown = torch.from_numpy(pictures(encoder)).permute(0, 3, 1, 2).contiguous() / 255
    return {"pictures": shown, "hole": block_holes(torch.rand(5, 3, generator=torch.Generator()), shown.shape[2], 0.3)}


def wanted(run: Run, name: str) -> dict[str, torch.Tensor]:
    """What the run's own network gives, by the name that the printed code gives it."""
    objective = run.objective()
    for predictor in (found for found in objective.predictors() if found.kind == name):
        if isinstance(predictor, Inpainter):
            given = inputs_of(predictor.encoder)
            return {"filled": predictor.fill(given["pictures"], given["hole"])}
        if isinstance(predictor, Pair):
            sides = predictor.sides()
            seen, told = sides["image"].encode(pictures(predictor.image)), sides["text"].encode([TEXT, "found"])
            return {"logits": predictor.scale * seen @ told.T}
        assert isinstance(predictor, Generator | Filler | Ranker), f"say here what {name} should give"
        texts = (TEXT, TEXT) if isinstance(predictor, Ranker) else (TEXT,)
        given = predictor.tokenizer(*texts, return_tensors="pt")
        with evaluating(predictor.network):
            return {"logits": predictor.network(**given).logits}
    encoder = objective.encoders()[name]
    if isinstance(encoder, TextEncoder) and encoder.reading.pool == "pooler":
        return {"vector": encoder.encode([TEXT])}
    if isinstance(encoder, TextEncoder):
        plain = TextEncoder(encoder.model, encoder.tokenizer, encoder.context)  # the code gives hidden states alone
        return {"hidden": plain.encode([TEXT])}
    assert isinstance(encoder, ImageEncoder), f"say here what {name} should give"
    return {"features": encoder.encode(pictures(encoder))}


@pytest.fixture(scope="module")
def trained(tmp_path_factory) -> Callable[[str], Run]:
    """A run of three steps of an objective, by name: an export is the same after more, and without pictures."""
    root = tmp_path_factory.mktemp("trained")

    @functools.cache
    def of(name: str) -> Run:
        with pytest.MonkeyPatch.context() as patch:
            patch.setattr(verbs, "report", lambda *_: None)
            return train(load_case(name).run_recipe(3), root / name, quiet=True)

    return of


@pytest.fixture(scope="module")
def jobs(trained, tmp_path_factory) -> list[dict]:
    """Every export of every objective, run by a process that cannot import selfsup."""
    folder: Path = tmp_path_factory.mktemp("exports")
    found = []
    for objective in BY_GRADIENT:
        run = trained(objective)
        names = {*run.objective().encoders()}
        names |= {predictor.kind for predictor in run.objective().predictors()}
        codes = export(run.folder, folder / objective)
        assert codes.keys() == names
        for name, code in codes.items():
            inputs = folder / f"{objective}-{name}.in"
            encoder = next(iter(run.objective().encoders().values()))
            given = inputs_of(encoder) if isinstance(encoder, ImageEncoder) else {}
            save_file(given or {"nothing": torch.zeros(1)}, inputs)
            code = code.partition("\nfrom sentence_transformers")[0]  # which need not be installed
            found.append(
                {"objective": objective, "name": name, "code": code, "text": TEXT, "inputs": str(inputs)}
                | {"out": str(inputs.with_suffix(".out")), "outputs": OUTPUTS}
            )
    for name, (network, size, arguments) in NETWORKS.items():
        encoder = ImageEncoder.create(network, arguments, size, (0.4, 0.5, 0.6), (0.2, 0.3, 0.4))
        place = folder / name.replace(" ", "-").replace(",", "")
        encoder.save(place)
        save_file(inputs_of(encoder), f"{place}.in")
        save_file({"features": encoder.encode(pictures(encoder))}, f"{place}.right")
        found.append(
            {"objective": None, "name": name, "code": snippet(encoder, place), "text": TEXT, "inputs": f"{place}.in"}
            | {"out": f"{place}.out", "outputs": OUTPUTS}
        )
    (folder / "jobs.json").write_text(json.dumps(found))
    command = [sys.executable, "-I", "-c", STRANGER, str(folder / "jobs.json")]
    done = subprocess.run(command, capture_output=True, text=True, timeout=120, check=False)
    assert done.returncode == 0, done.stderr
    return found


def test_exports_equal_the_run(case, trained, jobs):
    if case.name not in BY_GRADIENT:
        pytest.skip("vectors of words are no network: see test_word_vectors.py")
    mine = [job for job in jobs if job["objective"] == case.name]
    assert mine
    for job in mine:
        right, got = wanted(trained(case.name), job["name"]), load_file(job["out"])
        assert got.keys() == right.keys(), f"the code of {job['name']} gives {sorted(got)}"
        for name, value in right.items():
            output = got[name].mean(1) if name == "hidden" else got[name]
            assert output.shape == value.shape
            assert torch.allclose(output, value, rtol=1e-5, atol=1e-5), f"{job['name']}: {name}"
            assert output.numel() == 1 or output.std() > 0


@pytest.mark.parametrize("name", NETWORKS)
def test_every_kind_of_network_loads(name, jobs):
    (job,) = (job for job in jobs if job["name"] == name)
    right, got = load_file(Path(job["out"]).with_suffix(".right")), load_file(job["out"])
    assert torch.allclose(got["features"], right["features"], rtol=1e-5, atol=1e-5)
    assert got["features"].std() > 0
    assert ("model.conv1 = torch.nn.Conv2d(3, 64" in job["code"]) == (name == "plain stem, small pictures")
    assert ("local-dir:" in job["code"]) == (name != "plain stem, small pictures")


def test_the_card_holds_the_code(case, trained, jobs):
    for job in (job for job in jobs if job["objective"]):
        card = (Path(job["out"]).parent / job["objective"] / job["name"] / "README.md").read_text()
        assert job["code"].strip() in card and f"`{job['objective']}`" in card


def test_export_refuses_a_folder_with_content(case, trained, tmp_path):
    (tmp_path / "mine.txt").write_text("keep")
    with pytest.raises(UserError, match="not empty"):
        export(trained(case.name).folder, tmp_path)
    assert load_case(case.name) is case and (tmp_path / "mine.txt").read_text() == "keep"
