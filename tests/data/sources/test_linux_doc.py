import gzip

from llmkit.data.sources import linux_doc
from llmkit.data.sources.linux_doc import LinuxDoc


def test_plain_and_compressed_files_are_read_and_translations_left_out(publish):
    files = {
        "a/one.rst": "One.",
        "translations/it_IT/one.rst": "Uno.",
        "two.rst.gz": gzip.compress(b"Two."),
        "x.txt": "",
    }
    publish(linux_doc, {linux_doc.ROOT + name: content for name, content in files.items()})
    records = list(LinuxDoc(LinuxDoc.Settings()).records())
    assert [(record["id"], record["text"]) for record in records] == [
        ("a/one.rst", "One."),
        ("two.rst", "Two."),
    ]
