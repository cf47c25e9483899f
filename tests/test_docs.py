"""README, docs and examples do what they say: their commands and code are run."""

from __future__ import annotations

import json
import re
import runpy
import shlex
from pathlib import Path

import numpy as np
import pytest

from selfsup.cli import run

pytestmark = pytest.mark.usefixtures("short_fits")

ROOT = Path(__file__).parents[1]
EXAMPLES = sorted((ROOT / "examples").glob("*.py"))


def code_blocks(page: str, language: str) -> list[str]:
    """Fenced blocks of a language."""
    return re.findall(rf"```{language}\n(.*?)```", (ROOT / page).read_text(encoding="utf-8"), re.DOTALL)


@pytest.mark.parametrize("example", EXAMPLES, ids=[path.stem for path in EXAMPLES])
def test_examples_run_and_are_short(example: Path, capsys: pytest.CaptureFixture) -> None:
    assert len(example.read_text().splitlines()) <= 40
    runpy.run_path(str(example), run_name="__main__")
    said = capsys.readouterr().out
    assert re.search(
        {
            "elsewhere": r"difference: (0\.0|\d\.?\d*e-0[5-9])",
            "language": r"run +\d\.\d+ bits",
            "pictures": r"shows a 0",
        }[example.stem],
        said,
    ), said


def test_quickstart_code_runs(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = code_blocks("docs/quickstart.md", "python")
    exec(compile(code, "quickstart", "exec"), {"__name__": "quickstart"})
    assert "torch.Size([10, " in capsys.readouterr().out


def test_objective_of_the_docs_trains_and_evaluates(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    (code,) = code_blocks("docs/add-an-objective.md", "python")
    Path("turned.py").write_text(code)
    for line in re.findall(r"^    selfsup (.*)$", (ROOT / "docs/add-an-objective.md").read_text(), re.MULTILINE):
        assert run(shlex.split(line)) == 0, line
    assert (tmp_path / "runs/turned/pictures/loss.png").exists()


def commands(text: str) -> list[list[str]]:
    """Every `selfsup` command in a text, a budget of a few steps in place of the one it has."""
    found = []
    for line in re.findall(r"^(?:    |\$ )selfsup (.*?)(?:\s+#.*)?$", text, re.MULTILINE):
        words = shlex.split(re.sub(r"--more \S+", "--more 1", re.sub(r"--(?:minutes|steps|epochs) \S+", "", line)))
        short = ["--steps", "3", "--batch", "8", *(["--row", "64"] if words[:2] == ["train", "word2vec"] else [])]
        found.append([*words, *short] if words[0] in ("train", "audit") else words)
    return found


def test_readme_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    photos, labelled, book = readme_data(tmp_path)
    assert photos.exists() and labelled.exists() and book.exists()
    found = commands((ROOT / "README.md").read_text())
    assert {words[0] for words in found} >= {
        "train",
        "eval",
        "export",
        "generate",
        "fill",
        "continue",
        "embed",
        "resume",
        "list",
    }
    for words in found:
        assert run(words) == 0, " ".join(words)


def test_quickstart_text_commands_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    readme_data(tmp_path)
    page = (ROOT / "docs/quickstart.md").read_text()
    found = commands(page[page.index("\n## Text") : page.index("\n## Was it worth it")])
    assert len(found) >= 10
    for words in found:
        assert run(words) == 0, " ".join(words)


def test_commands_of_the_page_of_choices_are_those_of_the_readme() -> None:
    found = commands((ROOT / "docs/which-objective.md").read_text())
    known = commands((ROOT / "README.md").read_text())
    assert len(found) >= 4 and all(words in known for words in found)


def readme_data(folder: Path) -> tuple[Path, Path, Path]:
    """The folders and files that the README's commands name."""
    from PIL import Image

    generator = np.random.default_rng(0)
    for place in ("photos", "labelled/cat", "labelled/dog"):
        (folder / place).mkdir(parents=True)
        for number in range(24):
            pixels = generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)
            Image.fromarray(pixels).save(folder / place / f"{number}.png")
    (folder / "damaged").mkdir()
    damaged = generator.integers(0, 256, (20, 24, 4), dtype=np.uint8)
    damaged[..., 3] = 255
    damaged[4:12, 6:14, 3] = 0
    Image.fromarray(damaged).save(folder / "damaged" / "0.png")
    words = [" ".join(generator.choice(["the", "cat", "sat", "on", "a", "mat"], 12)) for _ in range(400)]
    (folder / "book.txt").write_text(".\n".join(words))
    (folder / "books").mkdir()
    for number in range(30):
        words = generator.choice(["king", "queen", "man", "woman", "rules", "works"], 200)
        (folder / "books" / f"{number}.txt").write_text(" ".join(words))
    (folder / "tests").mkdir()
    (folder / "tests" / "pairs.tsv").write_text("king\tqueen\t9\nman\twoman\t8\nking\tworks\t1\nrules\tworks\t2\n")
    (folder / "passages.txt").write_text("A mat sat on the cat.\nThe mat.\n")
    rows = "".join(f"the cat sat {number},{('good', 'bad')[number % 2]}\n" for number in range(12))
    for name in ("reviews", "examples"):
        (folder / f"{name}.csv").write_text(f"text,label\n{rows}")
    pairs = [
        json.dumps({"word": "mat", "sentence1": f"Mat {n}.", "sentence2": f"The mat of {n}.", "label": n % 2 == 0})
        for n in range(60)
    ]
    (folder / "pairs.jsonl").write_text("\n".join(pairs))
    embedding_data(folder, generator)
    caption_data(folder, generator)
    return folder / "photos", folder / "labelled", folder / "book.txt"


def caption_data(folder: Path, generator: np.random.Generator) -> None:
    """Pictures with captions, and captions by themselves."""
    from PIL import Image

    (folder / "captioned").mkdir()
    lines = []
    for number in range(48):
        Image.fromarray(generator.integers(0, 256, (20, 24, 3), dtype=np.uint8)).save(
            folder / f"captioned/{number}.png"
        )
        texts = [" ".join(generator.choice(["a", "dog", "cat", "in", "the", "snow"], 5)) for _ in range(2)]
        lines.append({"file_name": f"{number}.png", "text": texts[0], "texts": texts})
    (folder / "captioned" / "metadata.jsonl").write_text("\n".join(map(json.dumps, lines)))
    (folder / "captions.jsonl").write_text("\n".join(json.dumps({"text": line["text"]}) for line in lines))


def embedding_data(folder: Path, generator: np.random.Generator) -> None:
    """Pairs, documents, rated pairs and a collection, for embeddings of texts."""
    texts = [" ".join(generator.choice(["king", "queen", "man", "rules", "works", "a", "the"], 14)) for _ in range(60)]
    (folder / "documents").mkdir()
    for number, text in enumerate(texts):
        (folder / "documents" / f"{number}.txt").write_text(text)

    def write(name: str, rows: list[dict]) -> None:
        (folder / name).write_text("".join(json.dumps(row) + "\n" for row in rows))

    write("documents.jsonl", [{"text": text} for text in texts])
    write("questions.jsonl", [{"query": text[:20], "positive": text[20:]} for text in texts])
    rated = "".join(f"{text[:20]},{text[15:40]},{number % 5}\n" for number, text in enumerate(texts))
    (folder / "rated.csv").write_text(f"sentence1,sentence2,score\n{rated}")
    (folder / "collection").mkdir()
    documents = [{"_id": str(n), "title": "", "text": text} for n, text in enumerate(texts)]
    write("collection/corpus.jsonl", documents)
    write("collection/queries.jsonl", [{"_id": str(n), "text": text[:20]} for n, text in enumerate(texts[:8])])
    judged = "".join(f"{n}\t{n}\t1\n" for n in range(8))
    (folder / "collection" / "qrels.tsv").write_text(f"query-id\tcorpus-id\tscore\n{judged}")


def test_objectives_page_is_up_to_date() -> None:
    generated = runpy.run_path(str(ROOT / "docs" / "generate.py"))
    assert (ROOT / "docs" / "objectives.md").read_text() == generated["page"]()


def test_every_verb_is_documented() -> None:
    from selfsup.cli import verbs

    pages = "".join(path.read_text() for path in (ROOT / "README.md", *(ROOT / "docs").glob("*.md")))
    missing = [verb for verb in verbs() if f"selfsup {verb}" not in pages]
    assert not missing
