"""Our names and a family's, from one table that is read both ways.

    "layers.#.self_attn.q_proj": "bert.encoder.layer.#.attention.self.query"

`#` is the number of the layer, the first in a name. A name is translated by its longest part in the table;
what is behind it (".weight", ".bias") stays.
"""

import re


class Names:
    """`table`: ours -> theirs, of modules or parameters."""

    def __init__(self, table: dict[str, str]):
        self._theirs, self._ours = table, {theirs: ours for ours, theirs in table.items()}
        assert len(self._ours) == len(table), "two of our names are one of theirs"

    def theirs(self, name: str) -> str:
        """Our name as theirs; KeyError if the table lacks it."""
        if (found := _translate(name, self._theirs)) is None:
            raise KeyError(name)
        return found

    def ours(self, name: str) -> str:
        """Their name as ours; unchanged if the table lacks it, so that whoever fills a net can name it."""
        return _translate(name, self._ours) or name


def _translate(name: str, table: dict[str, str]) -> str | None:
    number = re.search(r"(?<=\.)\d+(?=\.|$)", name)
    forms = [(name, "")]
    if number:
        forms.append((f"{name[: number.start()]}#{name[number.end() :]}", number[0]))
    for form, layer in forms:
        parts = form.split(".")
        for end in range(len(parts), 0, -1):
            if (found := table.get(".".join(parts[:end]))) is not None:
                return ".".join([found, *parts[end:]]).replace("#", layer)
    return None
