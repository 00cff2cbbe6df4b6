"""Every spec: the same ids in transformers, nothing lost where it says so, the same bytes again."""

import json
import subprocess
import sys
from pathlib import Path

import pytest
from sentencepiece import sentencepiece_model_pb2 as protobuf

from llmkit import config
from llmkit.errors import ConfigError, DataError, ExportRefused
from llmkit.tokenizer import check, export, parts, train
from llmkit.tokenizer.check import NASTY
from llmkit.tokenizer.vocabulary import Tokenizer

SPECS = sorted(path.stem for path in (Path(__file__).parents[2] / "tokenizer").glob("*.yaml"))
SMALL = {"llama_8k", "llama_2k", "llama_4k", "own_text", "t5_8k", "bert_8k", "denoise_4k"}
"""BPE of other sizes and layouts: test_train.py and test_layout.py train those."""
LETTERS = "".join(chr(c) for c in [*range(0x3B1, 0x3CA), *range(0x430, 0x450), *range(0x5D0, 0x5EB)])


@pytest.fixture(scope="module")
def domains(tmp_path_factory, corpus):
    """Prose, source code, tunes and three other alphabets, a third of each held out."""
    folder = tmp_path_factory.mktemp("domains")
    prose = [json.loads(line)["text"] for line in (corpus / "train.jsonl").read_text().splitlines()[:45]]
    code = [Path(module.__file__).read_text() for module in (json, json.decoder, subprocess)]
    tunes = [f"X:{i}\nT:Reel\nK:D\n|:DFAd fdAF|{'GBdg' * (i % 3)} A2Bc d/2e/2f|\n" for i in range(60)]
    scripts = [" ".join(LETTERS[i + j : i + j + 5] for j in range(0, 40, 3)) + "\n" for i in range(60)]
    files = {name: (folder / f"{name}.jsonl").open("w") for name in ("train", "heldout")}
    for source, texts in {"prose": prose, "code": code, "tunes": tunes, "scripts": scripts}.items():
        for i, text in enumerate(texts):
            record = {"id": f"{source}{i}", "source": source, "text": text}
            files["train" if i % 3 else "heldout"].write(json.dumps(record) + "\n")
    for file in files.values():
        file.close()
    return folder


def made(name, data, out, **more):
    given = {"data": str(data), "vocab_size": 1200, "at_most": True, **more}
    if name == "bytes":
        given = {"data": str(data)}
    return train.work(config.load(train.TokenizerSpec, name, given, folder="tokenizer"), out)


@pytest.fixture(scope="module")
def every(tmp_path_factory, domains):
    """{name of a spec: (tokenizer directory, what training it returned)}."""
    folders = {name: tmp_path_factory.mktemp(name) for name in SPECS if name not in SMALL}
    return {name: (folder, made(name, domains, folder)) for name, folder in folders.items()}


@pytest.fixture(params=[name for name in SPECS if name not in SMALL])
def spec(request, every):
    """(name, tokenizer directory, what training it returned)."""
    return request.param, *every[request.param]


def test_transformers_gives_the_same_ids_on_every_domain_and_difficult_string(spec, domains):
    _, _, result = spec
    assert result["mismatches"] == 0
    assert result["lines"] > 900
    assert set(result["sources"]) == ({"prose", "code", "tunes", "scripts"} if result["sources"] else set())
    typed = [text for text in NASTY if "<" in text]
    assert len(typed) >= 3, "pieces typed as text are among the difficult strings"


def test_nothing_is_lost_and_no_text_makes_a_control_token(spec, domains):
    name, folder, _ = spec
    tokenizer = Tokenizer.load(folder)
    texts = [json.loads(line)["text"] for line in (domains / "heldout.jsonl").read_text().splitlines()]
    typed = [f"a {control}{control} b" for control in tokenizer.specials]
    for text in [*NASTY, *texts, *typed]:
        ids = tokenizer.encode(text)
        exact = name in ("bytes", "byte_level_8k") or "\u2581" not in text
        assert tokenizer.decode(ids) == (text if exact else text.replace("\u2581", " "))
        assert not set(ids) & set(tokenizer.specials.values())
        assert tokenizer.piece_bytes()[ids].sum() == len(text.encode()) or not exact


def test_looking_parts_up_gives_what_the_library_gives_for_the_whole_text(spec, domains):
    _, folder, _ = spec
    tokenizer = Tokenizer.load(folder)
    texts = [json.loads(line)["text"] for line in (domains / "heldout.jsonl").read_text().splitlines()]
    whole = tokenizer._pieces._model
    odd = ["x\u2581 \u2581\u2581y \u2581 z", "\n\t \n  a", "a\n \u2581b", "a  b\u00a0 c!\n d? \n\n e 's x 'S"]
    for text in [*NASTY, *texts, *odd]:
        ids = whole.encode(text)
        assert tokenizer.encode(text) == (ids if isinstance(ids, list) else ids.ids[1:])
    assert tokenizer.encode_all(texts) == [tokenizer.encode(text) for text in texts]


@pytest.mark.slow
def test_a_process_without_llmkit_loads_them(every, tmp_path):
    for name, (folder, _) in every.items():
        export.copy(folder, tmp_path / name)
        assert (tmp_path / name / "tokenizer.model").is_file() == (name != "byte_level_8k")
    code = (
        "import sys, json; sys.modules['llmkit'] = None\n"
        "from transformers import AutoTokenizer\n"
        "every = [AutoTokenizer.from_pretrained(name) for name in sys.argv[1:]]\n"
        "print(json.dumps([t('two  words\\n', add_special_tokens=False)['input_ids'] for t in every]))"
    )
    run = subprocess.run(
        [sys.executable, "-c", code, *every], capture_output=True, text=True, check=True,
        cwd=tmp_path, env={"PATH": "/usr/bin", "HOME": str(tmp_path)},
    )  # fmt: skip
    expected = [Tokenizer.load(folder).encode("two  words\n") for folder, _ in every.values()]
    assert json.loads(run.stdout) == expected


@pytest.mark.parametrize("name", ["unigram_8k", "byte_level_8k", "characters", "bytes"])
def test_two_trainings_give_the_same_bytes(name, tmp_path, domains):
    for out in ("one", "two"):
        (tmp_path / out).mkdir()
        made(name, domains, tmp_path / out)
    for path in sorted((tmp_path / "one").iterdir()):
        assert path.read_bytes() == (tmp_path / "two" / path.name).read_bytes(), path.name


def test_a_unigram_whose_control_tokens_have_their_own_scores_is_found(tmp_path, domains, monkeypatch):
    """The safeguard, taken out: a typed </s> becomes the token, and the proof says so."""
    monkeypatch.setattr(export, "FLOOR", 0.0)
    with pytest.raises(ExportRefused, match=r"</s>|<s>|<unk>|<0x"):
        made("unigram_8k", domains, tmp_path)


def test_unigram_scores_add_up_exactly_in_both_libraries(tmp_path, domains):
    made("unigram_8k", domains, tmp_path)
    model = protobuf.ModelProto.FromString((tmp_path / "tokenizer.model").read_bytes())
    assert all(piece.score * 256 == int(piece.score * 256) for piece in model.pieces)
    assert 1000 * (10 - min(piece.score for piece in model.pieces)) < 2**24 / 256, "24 bits hold the sums"
    assert 2 * parts.LONGEST <= 1000
    runs = ["=" * n for n in (37, 499, 500, 501, 5000)] + ["ab" * 700, " " * 3000 + "x", "\n\t" * 1500]
    ours, theirs = Tokenizer.load(tmp_path), check.loaded(tmp_path)
    for text in runs:
        assert ours.encode(text) == theirs(text, add_special_tokens=False)["input_ids"]


@pytest.mark.parametrize("layout", ["t5", "bert"])
def test_other_kinds_take_the_layouts_of_the_families_too(layout, tmp_path, domains):
    for model in ("unigram", "byte_level", "byte"):
        out = tmp_path / model
        out.mkdir()
        spec = train.TokenizerSpec(
            data=str(domains), model=model, layout=layout, vocab_size=1000, at_most=True, markers=["[MASK]"]
        )
        assert train.work(spec, out)["mismatches"] == 0
        assert Tokenizer.load(out).pad == 0


def test_white_space_that_unigram_cannot_keep_apart_is_refused(tmp_path, domains):
    with pytest.raises(ConfigError, match="white_space: .* mixes spaces with line breaks"):
        made("unigram_8k", domains, tmp_path, white_space=["\n", "\n  "])


def test_a_byte_level_vocabulary_that_the_text_cannot_give_names_the_largest(tmp_path, domains):
    with pytest.raises(ConfigError, match=r"vocab_size: 900000 pieces .* at most \d+"):
        made("byte_level_8k", domains, tmp_path, vocab_size=900_000, at_most=False)
    (tmp_path / "train.jsonl").write_text("")
    with pytest.raises(DataError, match="no text to train on"):
        made("byte_level_8k", tmp_path, tmp_path)


def test_a_setting_that_does_nothing_is_named(tmp_path, domains, capsys):
    made("bytes", domains, tmp_path)
    assert "has no effect" not in capsys.readouterr().err
    train.work(train.TokenizerSpec(data=str(domains), model="byte", split_digits=False), tmp_path)
    assert "split_digits: has no effect on model: byte" in capsys.readouterr().err
