"""What a page shows, in a line: its address's fragment, as ``web/FORMAT.md`` lays it down, from Python and to it."""

from __future__ import annotations

from dataclasses import dataclass
from typing import Any
from urllib.parse import parse_qsl, quote

from attnviz.base.errors import InputError
from attnviz.base.types import Label

VIEWS = ("heads", "model", "map", "text", "query-key")
"""The views of a page."""

NAMES = ("view", "text", "layer", "head", "query", "key")
"""What of a page's state has a name in Python."""


@dataclass(frozen=True)
class Places:
    """The layers of a page, and between what they are called and their places in it.

    Args:
        layers: as the page's description has them.

    >>> layers = [{"label": label, "heads": 2, "head_labels": [3, 5], "queries": 9, "keys": 9} for label in "02"]
    >>> Places(layers).fragment("reduce=mass", layer=2, head=5)
    'reduce=mass&layer=1&head=1'
    >>> Places(layers).named("view=map&layer=1&head=0&query=4")
    {'view': 'map', 'text': None, 'layer': '2', 'head': 3, 'query': 4, 'key': None}
    """

    layers: list[dict[str, Any]]

    @property
    def texts(self) -> list[str]:
        """What the texts of the page are called, each once."""
        return list(dict.fromkeys(layer["text"] for layer in self.layers if layer.get("text") is not None))

    def named(self, fragment: str) -> dict[str, Any]:
        """What a fragment says: labels and heads as they are called; None for what it leaves open, or can't be read."""
        fields = _read(fragment)
        place = _whole(fields.get("layer"), len(self.layers) - 1)
        layer = self.layers[place or 0]
        head = _whole(fields.get("head"), layer["heads"] - 1)
        return {
            "view": fields["view"] if fields.get("view") in VIEWS else None,
            "text": None if place is None else layer.get("text"),
            "layer": None if place is None else layer["label"],
            "head": None if head is None else self._heads(layer)[head],
            "query": _whole(fields.get("query"), layer["queries"] - 1),
            "key": _whole(fields.get("key"), layer["keys"] - 1),
        }

    def fragment(
        self,
        before: str = "",
        *,
        view: str | None = None,
        text: str | None = None,
        layer: Label | None = None,
        head: int | None = None,
        query: int | None = None,
        key: int | None = None,
    ) -> str:
        """A fragment that says this, and of the rest what it said before.

        Raises:
            InputError: a view, text, layer, head or index that is not there.
        """
        fields = _read(before)
        if view is not None:
            if view not in VIEWS:
                raise InputError(f"view {view!r} is not one of {', '.join(VIEWS)}")
            fields["view"] = view
        place = _whole(fields.get("layer"), len(self.layers) - 1) or 0
        if text is not None or layer is not None:
            place = self._place(text, layer, self.layers[place])
            fields["layer"] = str(place)
        shown = self.layers[place]
        if head is not None:
            heads = self._heads(shown)
            if head not in heads:
                raise InputError(
                    f"head {head} is not in layer {shown['label']} of the page; there are {_listed(heads)}"
                )
            fields["head"] = str(heads.index(head))
        for name, index, size in (("query", query, shown["queries"]), ("key", key, shown["keys"])):
            if index is not None:
                if not 0 <= index < size:
                    raise InputError(f"{name} {index} is out of range; there are {size} (0 to {size - 1})")
                fields[name] = str(index)
        return _written(fields)

    def without(self, before: str, name: str) -> str:
        """A fragment that leaves open what the other said."""
        fields = _read(before)
        fields.pop(name, None)
        return _written(fields)

    def _place(self, text: str | None, label: Label | None, now: dict[str, Any]) -> int:
        """The place of a layer: of the text shown now where none is named, and of its label likewise."""
        if text is not None and text not in self.texts:
            raise InputError(f"text {text!r} is not in the page; there are {_listed(self.texts)}")
        of = now.get("text") if text is None else text
        wanted = now["label"] if label is None else str(label)
        there = [n for n, layer in enumerate(self.layers) if layer.get("text") == of]
        found = [n for n in there if self.layers[n]["label"] == wanted]
        if not found and label is not None:
            labels = [self.layers[n]["label"] for n in there]
            raise InputError(f"layer {label} is not in the page; there are {_listed(labels)}")
        return (found or there)[0]

    @staticmethod
    def _heads(layer: dict[str, Any]) -> list[int]:
        return layer.get("head_labels") or list(range(layer["heads"]))


def _read(fragment: str) -> dict[str, str]:
    """The fields of a fragment, with or without its #."""
    return dict(parse_qsl(fragment.removeprefix("#")))


def _written(fields: dict[str, str]) -> str:
    return "&".join(f"{name}={quote(value, safe=',.-')}" for name, value in fields.items())


def _whole(text: str | None, most: int) -> int | None:
    """A number from 0 as the page reads it: brought into range; None where it is none."""
    digits = (text or "").removeprefix("-")
    if not (digits.isascii() and digits.isdigit() and len(digits) <= 15):
        return None
    return max(0, min(most, int(text or "")))


def _listed(there: list[Any]) -> str:
    return ", ".join(map(str, there[:12])) + (", …" if len(there) > 12 else "") if there else "none"
