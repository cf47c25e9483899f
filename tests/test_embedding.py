"""Encoding many texts: order, groups, roles; blocks that survive a kill; the file; sentence-transformers' vectors."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import signal
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import numpy as np
import pyarrow.parquet
import pytest
import torch

from contract.processes import join, start, start_group
from selfsup import cli, embedding
from selfsup.data.tokenizer import train_tokenizer
from selfsup.embedding import embed
from selfsup.encoder import load_encoder
from selfsup.errors import UserError
from selfsup.image_encoder import ImageEncoder
from selfsup.nn.ragged import close_groups
from selfsup.sentence_files import loads_as_sentences, write_sentences
from selfsup.text_encoder import TextEncoder
from selfsup.text_network import Family, Shape
from selfsup.text_reading import Reading
from selfsup.vectors import Blocks

ROWS = 14
EMPTY = 5
ROLES = Reading("cls", normalize=True, query="find: ", document="read: ")
READINGS: dict[str, tuple[Family, Reading]] = {
    "mean": ("encoder", Reading()),
    "roles": ("encoder", ROLES),
    "decoder": ("decoder", Reading(normalize=True)),
}


def encoder_of(family: Family = "encoder", reading: Reading | None = None, seed: int = 0) -> TextEncoder:
    """A small one with fresh weights that reads 32 bytes."""
    torch.manual_seed(seed)
    encoder = TextEncoder.create(family, train_tokenizer("byte", 261, []), 32, Shape(2, 2, 16))
    encoder.reading = reading or Reading()
    return encoder


def texts() -> list[str]:
    """Of many lengths in no order, some longer than is read, one empty."""
    found = ["ab c" * (1 + 7 * row % 11) + str(row) for row in range(ROWS)]
    found[EMPTY] = ""
    return found


@pytest.fixture
def place(tmp_path: Path) -> Path:
    """A folder with an encoder and a table of texts."""
    encoder_of(reading=ROLES).save(tmp_path / "encoder")
    (tmp_path / "table.jsonl").write_text("\n".join(json.dumps({"text": text}) for text in texts()))
    return tmp_path


@pytest.fixture(autouse=True)
def small_blocks(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(embedding, "BLOCK", 4)


def embed_it(place: Path, name: str = "v.npy", **settings: object) -> Path:
    """Embed the table with the encoder."""
    file = embed(place / "encoder", str(place / "table.jsonl"), place / name, quiet=True, **settings)  # type: ignore[arg-type]
    assert file == place / name
    return file


def by_hand(place: Path, role: str | None = None) -> np.ndarray:
    """The vectors one by one."""
    encoder = load_encoder(place / "encoder")
    assert isinstance(encoder, TextEncoder)
    found = [encoder.encode([text], role).numpy() for text in texts()]  # type: ignore[arg-type]
    found[EMPTY][:] = np.nan
    return np.concatenate(found)


class TestGroups:
    @pytest.mark.parametrize("spare", [0, 5, 1000])
    def test_all_rows_once_within_bounds(self, spare: int) -> None:
        length = torch.randint(1, 30, (200,), generator=torch.Generator().manual_seed(0))
        groups = close_groups(length, 100, spare)
        assert sorted(torch.cat(groups).tolist()) == list(range(200))
        for rows in groups:
            sizes = length[rows]
            assert sizes[0] == sizes.max() and (len(rows) == 1 or len(rows) * sizes[0] <= 100)
            assert int((sizes[0] - sizes).sum()) <= spare

    def test_few_rows_of_other_lengths_join(self) -> None:
        groups = close_groups(torch.tensor([9, 10, 10, 4, 4, 4]), 100, 2)
        assert [rows.tolist() for rows in groups] == [[1, 2, 0], [3, 4, 5]]

    def test_a_row_that_is_too_long_is_alone(self) -> None:
        assert [rows.tolist() for rows in close_groups(torch.tensor([50, 50, 3]), 10, 0)] == [[0], [1], [2]]


class TestEncode:
    @pytest.mark.parametrize("which", READINGS)
    def test_order_and_roles(self, which: str) -> None:
        encoder = encoder_of(*READINGS[which])
        for role in (None, "query", "document"):
            alone = torch.cat([encoder.encode([text], role) for text in texts()])  # type: ignore[arg-type]
            assert torch.allclose(encoder.encode(texts(), role), alone, atol=1e-5)  # type: ignore[arg-type]
        query = encoder.encode(texts(), "query")
        assert torch.equal(query, encoder.encode(texts())) == (which != "roles")
        assert torch.allclose(query, encoder.encode([encoder.reading.query + text for text in texts()]), atol=1e-6)

    def test_two_windows(self, monkeypatch: pytest.MonkeyPatch) -> None:
        encoder = encoder_of()
        whole = encoder.encode(texts())
        monkeypatch.setattr("selfsup.text_encoder.WINDOW", 5)
        assert torch.allclose(encoder.encode(texts()), whole, atol=1e-5)


class TestFile:
    def test_npy(self, place: Path) -> None:
        found = np.load(embed_it(place))
        assert found.dtype == np.float32 and np.allclose(found, by_hand(place), atol=1e-5, equal_nan=True)
        assert sorted(entry.name for entry in place.iterdir()) == ["encoder", "table.jsonl", "v.npy"]

    def test_parquet(self, place: Path) -> None:
        file = embed_it(place, "v.parquet", role="query")
        table = pyarrow.parquet.read_table(file).to_pydict()
        assert table["name"] == [f"row {row}" for row in range(ROWS)] and set(table["part"]) == {"train"}
        assert np.allclose(np.array(table["vector"]), by_hand(place, "query"), atol=1e-5, equal_nan=True)
        assert pyarrow.parquet.ParquetFile(file).num_row_groups == 4

    def test_parts_and_names_of_files(self, place: Path) -> None:
        for part, count in (("train", 6), ("test", 3)):
            for number in range(count):
                (place / "texts" / part).mkdir(parents=True, exist_ok=True)
                (place / "texts" / part / f"{number}.txt").write_text(f"{part} {number}")
        (place / "texts" / "test" / "1.txt").write_bytes(b"\xff\xfe\xff")
        file = embed(place / "encoder", str(place / "texts"), place / "v.parquet", quiet=True)
        assert file is not None
        table = pyarrow.parquet.read_table(file).to_pydict()
        wanted = [f"test/{number}.txt" for number in range(3)] + [f"train/{number}.txt" for number in range(6)]
        assert [name.split("texts/")[1] for name in table["name"]] == wanted
        assert table["part"] == ["test"] * 3 + ["train"] * 6
        assert np.isnan(np.array(table["vector"])).all(1).tolist() == [row == 1 for row in range(9)]

    def test_broken_pictures_and_roles(self, place: Path) -> None:
        from PIL import Image

        size = {"img_size": 32, "patch_size": 8, "depth": 1}
        ImageEncoder.create("vit_tiny_patch16_224", size, 32, (0.5,) * 3, (0.2,) * 3).save(place / "image")
        (place / "photos").mkdir()
        for number in range(6):
            Image.new("RGB", (32, 32), (40 * number, 0, 0)).save(place / "photos" / f"{number}.png")
        (place / "photos" / "4.png").write_bytes(b"no picture")
        file = embed(place / "image", str(place / "photos"), place / "v.npy", quiet=True)
        assert file is not None and np.isnan(np.load(file)).all(1).tolist() == [row == 4 for row in range(6)]
        with pytest.raises(UserError, match=r"--role query: .*image encodes pictures.*drop --role"):
            embed(place / "image", str(place / "photos"), place / "v.npy", role="query")

    def test_command_line(self, place: Path, capsys: pytest.CaptureFixture) -> None:
        words = ["embed", str(place / "encoder"), "--data", str(place / "table.jsonl"), "--out", str(place / "v.npy")]
        assert cli.run([*words, "--role", "document"]) == 0
        assert capsys.readouterr().out == f"{place / 'v.npy'}\n"
        assert np.allclose(np.load(place / "v.npy"), by_hand(place, "document"), atol=1e-5, equal_nan=True)


def killed(place: Path) -> None:
    """What a process does that dies when its third block begins."""
    embedding.BLOCK = 4
    write = Blocks.write

    def dying(blocks: Blocks, number: int, vectors: np.ndarray) -> None:
        if number == 2:
            os.kill(os.getpid(), signal.SIGKILL)
        write(blocks, number, vectors)

    Blocks.write = dying  # type: ignore[method-assign]
    embed(place / "encoder", str(place / "table.jsonl"), place / "v.npy", quiet=True)


def shared(place: Path) -> None:
    """What each of two processes does."""
    embedding.BLOCK = 4
    wrote, write = [], Blocks.write

    def noted(blocks: Blocks, number: int, vectors: np.ndarray) -> None:
        wrote.append(number)
        write(blocks, number, vectors)

    Blocks.write = noted  # type: ignore[method-assign]
    file = embed(place / "encoder", str(place / "table.jsonl"), place / "v.parquet", quiet=True)
    (place / f"wrote-{os.environ['RANK']}.json").write_text(json.dumps([file is not None, wrote]))


class TestResume:
    def test_goes_on_after_a_kill(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> None:
        child = start(killed, place)
        child.join(60)
        assert child.exitcode == -signal.SIGKILL and not (place / "v.npy").exists()
        assert sorted(file.name for file in (place / "v.npy.part").glob("*.npy")) == ["000000.npy", "000001.npy"]
        encoded, vectors = [], embedding.Rows.vectors

        def counted(rows: embedding.Rows, span: embedding.Span) -> torch.Tensor:
            encoded.append(span.start)
            return vectors(rows, span)

        monkeypatch.setattr(embedding.Rows, "vectors", counted)
        assert np.allclose(np.load(embed_it(place)), by_hand(place), atol=1e-5, equal_nan=True)
        assert encoded == [8, 12] and not (place / "v.npy.part").exists()

    def test_two_processes_share_the_blocks(self, place: Path) -> None:
        join(start_group(2, shared, place))
        found = [json.loads((place / f"wrote-{rank}.json").read_text()) for rank in (0, 1)]
        assert found == [[True, [0, 2]], [False, [1, 3]]] and not (place / "v.parquet.part").exists()
        vectors = pyarrow.parquet.read_table(place / "v.parquet").to_pydict()["vector"]
        assert np.allclose(np.array(vectors), by_hand(place), atol=1e-5, equal_nan=True)

    @pytest.fixture
    def stopped(self, place: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
        """Work that ended with two blocks, as the disk was full."""
        write, save = Blocks.write, np.save

        def full(*arguments: object) -> None:
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))

        def limited(blocks: Blocks, number: int, vectors: np.ndarray) -> None:
            monkeypatch.setattr(np, "save", full if number == 2 else save)
            write(blocks, number, vectors)

        with monkeypatch.context() as patch:
            patch.setattr(Blocks, "write", limited)
            with pytest.raises(UserError, match=r"cannot write .*v.npy.part: No space left.*nothing written"):
                embed_it(place)
        monkeypatch.setattr(np, "save", save)
        return place

    def test_full_disk_loses_nothing(self, stopped: Path) -> None:
        assert len(list((stopped / "v.npy.part").glob("*.npy"))) == 2
        assert np.allclose(np.load(embed_it(stopped)), by_hand(stopped), atol=1e-5, equal_nan=True)

    @pytest.mark.parametrize("other", ["encoder", "data", "role"])
    def test_refuses_what_is_of_something_else(self, stopped: Path, other: str) -> None:
        if other == "encoder":
            encoder_of(reading=ROLES, seed=1).save(stopped / "encoder")
        if other == "data":
            (stopped / "table.jsonl").write_text("\n".join(json.dumps({"text": text + "!"}) for text in texts()))
        with pytest.raises(UserError, match=f"v.npy.part holds .* but their {other} is another; .*rm -r"):
            embed_it(stopped, **({"role": "query"} if other == "role" else {}))
        assert len(list((stopped / "v.npy.part").glob("*.npy"))) == 2

    def test_one_at_a_time(self, stopped: Path) -> None:
        with open(stopped / "v.npy.part" / "lock", "w") as lock:
            fcntl.flock(lock, fcntl.LOCK_EX)
            with pytest.raises(UserError, match="another process is writing"):
                embed_it(stopped)


SENTENCES = """
import json, sys
from pathlib import Path

class NoSelfsup:
    def find_spec(self, name, path=None, target=None):
        if name.partition(".")[0] == "selfsup":
            raise ImportError(name)

sys.meta_path.insert(0, NoSelfsup())
import numpy as np
import torch
from sentence_transformers import SentenceTransformer

torch.set_num_threads(1)
folder = Path(sys.argv[1])
for name in sys.argv[2:]:
    model = SentenceTransformer(str(folder / name), device="cpu")
    assert model.max_seq_length == 32 and model.similarity_fn_name == "cosine"
    found = [model.encode(json.loads((folder / "texts.json").read_text()), prompt_name=role)
             for role in (None, "query", "document")]
    np.save(folder / f"{name}.npy", np.stack(found))
"""


@pytest.mark.skipif(find_spec("sentence_transformers") is None, reason="sentence-transformers is not installed")
def test_sentence_transformers_gives_the_same_vectors(tmp_path: Path) -> None:
    """In a process without selfsup. It gives an empty text no token, and we one: that alone differs."""
    some = [text for text in texts() if text]
    (tmp_path / "texts.json").write_text(json.dumps(some))
    for name, (family, reading) in READINGS.items():
        encoder = encoder_of(family, reading)
        encoder.save(tmp_path / name)
        assert loads_as_sentences(encoder)
        write_sentences(encoder, tmp_path / name)
        assert (tmp_path / name / "2_Normalize").exists() == reading.normalize
    command = [sys.executable, "-I", "-c", SENTENCES, str(tmp_path), *READINGS]
    done = subprocess.run(command, capture_output=True, text=True, timeout=200, check=False)
    assert done.returncode == 0, done.stderr
    for name, (_, reading) in READINGS.items():
        encoder = load_encoder(tmp_path / name)
        assert isinstance(encoder, TextEncoder) and encoder.reading == reading
        wanted = [encoder.encode(some, role).numpy() for role in (None, "query", "document")]  # type: ignore[arg-type]
        assert np.allclose(np.load(tmp_path / f"{name}.npy"), np.stack(wanted), atol=1e-5)
