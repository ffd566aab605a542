"""From a running model to maps: ``with capture(model) as run: model(**inputs)``."""

from __future__ import annotations

import warnings
from collections.abc import Callable, Collection, Iterable, Iterator, Mapping, Sequence
from contextlib import ExitStack, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor, nn

from attnviz.attention.inputs import Inputs
from attnviz.base.errors import InputError, Note
from attnviz.base.labels import Tokens
from attnviz.base.registry import called, shown
from attnviz.base.types import Label
from attnviz.base.writing import as_path, atomic, check_output
from attnviz.captures.calls import Call, Layer
from attnviz.captures.checking import Output, difference
from attnviz.captures.doors.running import named_modules
from attnviz.captures.heard import Followed, Heard, Memo, Order, Orders, origins
from attnviz.captures.labels import Labels
from attnviz.captures.listening import TRIED, listening
from attnviz.captures.reduced import check_pixels, reduced
from attnviz.captures.tokens import TokenReader, token_fields
from attnviz.captures.weighed import Weighed, WeighedLayer
from attnviz.captures.writer import Writer
from attnviz.sources.dumps import load
from attnviz.sources.naming import known, order_of
from attnviz.sources.streams import TensorStream

if TYPE_CHECKING:
    from matplotlib.axes import Axes
    from matplotlib.figure import Figure


@contextmanager
def capture(
    model: nn.Module,
    layers: Collection[Label] | None = None,
    *,
    tokenizer: Any = None,
    out: str | Path | None = None,
    metadata: dict[str, Any] | None = None,
    check: bool = True,
    maps: int | None = None,
) -> Iterator[Run]:
    """Captures q, k, v and the mask of every attention call that a model makes while the block runs.

    The model runs as it would without: the same kernels, the same output to the last bit. The one exception is torch's fused
    path of its own transformer layers and of ``nn.MultiheadAttention``, in ``eval`` without gradients, which shows nothing:
    they take the ordinary one, whose last bits can differ. Heard are the attention functions of Hugging Face transformers,
    torch's ``scaled_dot_product_attention``, ``flex_attention`` and ``nn.MultiheadAttention``, the projections of Longformer,
    LED and BigBird, and the softmax of models that multiply by themselves. q and k are what the kernel saw, after rotary
    embedding.

    The steps of a ``generate`` with a key-value cache go on from each other and make one growing map a layer. A
    forward pass that starts anew replaces what was captured before it.

    Args:
        model: a transformers model, or any ``nn.Module``.
        layers: the layers to keep, as numbers (in every kind of attention) or labels (``"cross.3"``); None is all.
        tokenizer: a tokenizer of transformers, which says what the tokens are; None leaves positions without.
        out: a ``.safetensors`` file to write each layer to as soon as it has run, so that memory holds one layer; it
            is there when the block ends. One forward pass only. None keeps all in memory.
        metadata: what to note in ``out`` beside attnviz's own.
        check: whether to hold some rows of each layer against the output of the attention function that ran. A layer
            whose context is farther from it than rounding explains is refused, with both numbers.
        maps: keep of each layer, in ``out``, each head's map in so many cells a side (256, 512, ...), its statistics and
            log-sum-exp, and not q, k and v: memory and file are those of the pictures. What needs q and k says so.

    Raises:
        InputError: no attention was heard, or some that can't be captured; no such layer; ``out`` can't be written.

    >>> import attnviz, torch
    >>> mha = torch.nn.MultiheadAttention(16, 2, batch_first=True).eval()
    >>> x = torch.randn(1, 5, 16)
    >>> with attnviz.capture(mha) as run:
    ...     _ = mha(x, x, x)
    >>> run.layers, run.inputs(0).q.shape
    ([0], torch.Size([1, 2, 5, 8]))
    """
    run = Run(
        model,
        None if layers is None else set(layers),
        None if tokenizer is None else TokenReader(tokenizer),
        metadata or {},
        check=check,
        maps=None if maps is None else check_pixels(maps),
    )
    if maps is not None and out is None:
        raise InputError("maps= reduces each layer as it goes into a file; name it with out=")
    with ExitStack() as stack:
        if out is not None:
            path = check_output(as_path(out), (".safetensors",))
            temporary = stack.enter_context(atomic(path))
            run._out = temporary
            stack.callback(run._close_stream)
        with listening(
            run._named, run._hear, ids=run._note_ids, begin=run._begin, reorder=run._reorder, chose=run._chose
        ) as softmaxes:
            run._parted = softmaxes.parted
            yield run
            softmaxes.finish()
        run._finish(softmaxes.unheard)
    if out is not None:
        run._path = path


@dataclass(frozen=True, eq=False)
class _Ids:
    forward_pass: int
    ids: Tensor  # (B, T)


class Run:
    """What :func:`capture` heard; its layers can be had once the block has ended.

    >>> import attnviz, torch
    >>> from transformers import BertConfig, BertModel
    >>> model = BertModel(BertConfig(hidden_size=8, num_attention_heads=2, num_hidden_layers=3, intermediate_size=8)).eval()
    >>> with torch.no_grad(), attnviz.capture(model) as run:
    ...     _ = model(torch.tensor([[5, 6, 7]]))
    >>> run.layers, run.inputs(2).H
    ([0, 1, 2], 2)
    """

    def __init__(
        self,
        model: nn.Module,
        wanted: set[Label] | None,
        reader: TokenReader | None,
        metadata: dict[str, Any],
        *,
        check: bool = True,
        maps: int | None = None,
    ) -> None:
        self.notes: list[str] = []
        """What was not captured, or not checked, and why: a line each."""
        self._model, self._wanted, self._reader, self._metadata = model, wanted, reader, metadata
        self._layers: dict[Label, Heard[Any]] = {}
        self._skipped: set[Label] = set()
        self._alone: set[Label] = set()  # layers of weights
        self._parted: Collection[str] = ()  # modules whose weights multiply values in parts
        self._waiting: Heard[Any] | None = None  # a layer that is to be written once its module has done with it
        self._check, self._refused = check, dict[Label, str]()
        self._maps = maps  # cells a side, where they are kept in place of q and k
        self._unchecked: dict[str, list[Label]] = {}  # by why
        self._named = named_modules(model)
        self._labels = Labels(self._named)
        self._heard_in_pass: dict[tuple[str, str], int] = {}  # how often a module was heard, by name and group
        self._ids: dict[str, list[_Ids]] = {}
        self._pass = 0
        self._orders: Orders = []  # how beams changed places
        self._chosen = False  # whether those are known that a search gave
        self._begins: int | None = None  # the row at which the queries of this pass begin, where it goes on
        self._memo: Memo = {}
        self._out: Path | None = None  # where layers go as soon as they have run
        self._writer: Writer | None = None
        self._path: Path | None = None
        self._picture: Tensor | None = None
        self._patches: tuple[int, int] | None = None

    @property
    def name(self) -> str:
        """The model's class."""
        return type(self._model).__name__

    @property
    def layers(self) -> list[Label]:
        """The layers captured: numbers, and labels like ``"decoder.0"`` and ``"cross.0"``."""
        if self._path is not None:
            assert self._writer is not None
            return list(self._writer.labels)
        return list(self._layers)

    @property
    def weights_only(self) -> list[Label]:
        """The layers of which weights were seen, and not q and k: the model multiplies by itself."""
        return [label for label in self.layers if label in self._alone]

    def show(self, picture: Tensor, patches: tuple[int, int] | None = None) -> None:
        """Says that the model looks at a picture: its patches label the tokens, and the dump holds it.

        Args:
            picture: as the model sees it, (height, width, 3) uint8.
            patches: its rows and columns of patches; None where tokens are no patches.
        """
        self._picture, self._patches = picture, patches

    def inputs(self, layer: Label, kind: str | None = None) -> Any:
        """What went into a layer's attention: :class:`attnviz.AttentionInputs`, or :class:`attnviz.AttentionWeights` of one
        that multiplies by itself.

        Args:
            layer: its number, or its label among :attr:`layers`.
            kind: ``"decoder"``, ``"cross"``, ``"vision"`` or ``"audio"`` with a number; None is the model's plain
                self-attention.

        Raises:
            InputError: it wasn't captured.
        """
        label: Label = f"{kind}.{layer}" if kind else layer
        label = known(label, self.layers)
        if label in self._refused:
            raise InputError(f"{self.name}: layer {label} was refused: {self._refused[label]}")
        if label not in self.layers:
            raise InputError(
                f"{self.name}: layer {label} was not captured; captured are {_listed(self.layers) or 'none'}"
            )
        if self._path is not None:
            found = load(self._path, layer=label)
            return found
        return self._inputs(self._layers[label])

    def plot(self, layer: Label = 0, head: int | None = None, **options: Any) -> Axes | Figure:
        """Draws a layer's heads in a grid, or one of them.

        Args:
            layer: as in :meth:`inputs`.
            head: the query head; None is all.
            options: as in :func:`attnviz.plot`.

        Returns:
            The Axes of one head, or the figure.
        """

        inputs = self.inputs(layer)
        if head is None:
            figure: Figure = called("attnviz.plots.plotting:plot_heads", inputs, **options)
            return figure
        ax: Axes = called("attnviz.plots.plotting:plot", inputs, head, **options)
        return ax

    def save(self, path: str | Path) -> None:
        """Writes the layers as a dump, one after another: ``attnviz plot run.safetensors --layer 5``.

        Raises:
            InputError: not a ``.safetensors`` file, or one that can't be written.
        """
        target = check_output(as_path(path), (".safetensors",))
        if self._path is not None:
            raise InputError(f"{self._path}: holds this run already; copy it to {target}")
        with atomic(target) as temporary:
            writer = self._new_writer(temporary)
            try:
                for layer in self._layers.values():
                    writer.add(layer, self._inputs(layer))
                self._close(writer)
            finally:
                writer.abandon()

    def _repr_html_(self) -> str:
        return shown(self)

    # While the model runs.

    def _begin(self) -> None:
        self._pass += 1
        self._begins = None
        self._heard_in_pass.clear()

    def _reorder(self, order: Tensor) -> None:
        """Notes that the items of the next pass go on from others: a beam search."""
        self._orders.append(Order(self._pass, order.detach().cpu(), len(order)))

    def _chose(self, sequences: Tensor) -> None:
        """Takes, of the beams of a search, those that it gave, in its order, where they are among the last."""
        if not self._orders:
            return
        while self._orders and self._orders[-1].after == self._pass:  # after the last pass nothing goes on from it
            self._orders.pop()
        sequences = sequences.detach().cpu()
        for parts in self._ids.values():
            B = len(parts[-1].ids)
            ids = [_back(part.ids, origins(self._orders, part.forward_pass, B)) for part in parts if len(part.ids) == B]
            read = torch.cat(ids, dim=1)  # (B, n)
            if read.shape[1] > sequences.shape[1]:
                continue
            same = (sequences[:, None, : read.shape[1]] == read[None]).all(-1)  # (given, B)
            if bool(same.any(1).all()):
                self._orders.append(Order(self._pass, same.int().argmax(1), B))
                self._chosen = True
                return

    def _note_ids(self, module: str, ids: Tensor) -> None:
        self._ids.setdefault(module, []).append(_Ids(self._pass, ids.detach().cpu()))

    def _hear(self, module: str, call: Call | Weighed) -> Callable[[Output], Followed | None]:
        self._flush()
        group, number = self._labels.of(module, cross=call.cross)
        nth = self._heard_in_pass[module, group] = self._heard_in_pass.get((module, group), 0) + 1
        kind: type[Heard[Any]] = Layer if isinstance(call, Call) else WeighedLayer
        made = kind(group, number, module, nth, orders=self._orders)
        label = made.label
        if self._wanted is not None and self._wanted.isdisjoint(
            (label, number, f"{group}.{number}" if group else f"text.{number}")
        ):
            self._skipped.add(label)
            return lambda output: None
        fresh = label not in self._layers
        if not isinstance(self._layers.get(label, made), kind):
            fresh = True
            self._layers[label] = made
        layer = self._layers.setdefault(label, made)
        streaming = self._out is not None
        if streaming and not fresh:
            raise InputError(
                f"{self.name}: layer {label} ran twice, and out= writes one forward pass; leave out= away and use "
                f"run.save to keep the steps of a generate"
            )
        if kind is WeighedLayer:
            self._alone.add(label)
        row = layer.add(call, self._pass, begins=self._begins, copy=not streaming)
        if row is not None and not call.cross:
            self._begins = row

        def finish(output: Output) -> Followed:
            layer.made(output)
            if self._out is not None:
                self._waiting = layer  # until it is known what becomes of its context
            return layer

        return finish

    def _flush(self) -> None:
        """Writes a layer as soon as it has run, where it is what the model computes."""
        layer, self._waiting = self._waiting, None
        if layer is None or self._out is None:
            return
        inputs = self._inputs(layer)
        if self._holds(layer, inputs):
            self._writer = self._writer or self._new_writer(self._out)
            self._writer.add(layer, inputs if self._maps is None else reduced(inputs, self._maps))
        layer.calls.clear()

    def _holds(self, layer: Heard[Any], inputs: Inputs) -> bool:
        """Whether a layer's context is the model's own, as far as that can be seen."""
        if layer.stack in self._parted and layer.label in self._alone:
            self._refused[layer.label] = "its weights multiply values in parts, of which the first alone was seen"
            return False
        unread = [name for call in layer.calls for name in getattr(call, "unread", ())]
        told = (
            f"; its function was given {', '.join(sorted(set(unread)))}, which attnviz doesn't know" if unread else ""
        )
        why = "the check is off" if not self._check else layer.unchecked
        if why is not None or getattr(inputs, "v", None) is None:
            if unread:
                self._refused[layer.label] = f"it can't be checked ({why}){told}"
                return False
            self._unchecked.setdefault(why or "there is no v", []).append(layer.label)
            return True
        found = difference(inputs, layer.checks)
        if found is None or found.holds:
            return True
        self._refused[layer.label] = f"{found}{told}"
        return False

    # Afterwards.

    def _inputs(self, layer: Heard[Any], *, whole: bool = True) -> Inputs:
        first = layer.calls[0]
        back = layer.origins(0)
        B = first.sizes[0] if back is None else len(back)
        T = layer.steps[-1].start + layer.steps[-1].T
        S = layer.steps[-1].end
        own, other = self._stacks(layer)
        dropped = {number: step.dropped for number, step in zip(layer.passes, layer.steps, strict=True)}
        tokens = self._tokens(other if first.cross else own, None if first.cross else dropped, B, S)
        query_tokens = self._tokens(own, dropped, B, T) if first.cross or T != S else None
        if layer.channels:
            tokens, query_tokens = channel_tokens(S, B), channel_tokens(T, B) if T != S else None
        elif tokens is None and self._patches is not None:
            tokens = patch_tokens(self._patches, S, B)
        return layer.inputs(
            source=f"{self.name} layer {layer.label}",
            tokens=token_fields(tokens, query_tokens),
            memo=self._memo,
            whole=whole,
        )

    def _stacks(self, layer: Heard[Any]) -> tuple[str | None, str | None]:
        """The parts of the model whose token ids are a layer's queries, and its keys where it is cross-attention."""
        module = layer.stack
        around = [name for name in self._ids if not name or module == name or module.startswith(name + ".")]
        own = max(around, key=len, default=None)
        others = [name for name in self._ids if "encoder" in name.split(".") and name != own]
        return own, others[0] if others else None

    def _tokens(self, stack: str | None, dropped: Mapping[int, int] | None, B: int, length: int) -> list[Tokens] | None:
        noted = self._ids.get(stack, []) if stack is not None else []
        if dropped is None:
            parts = [part.ids for part in noted[-1:]]
        else:
            heard = [part for part in noted if part.forward_pass in dropped]
            parts = [
                _back(part.ids, origins(self._orders, part.forward_pass, len(part.ids)))[
                    :, : part.ids.shape[1] - dropped[part.forward_pass]
                ]
                for part in heard
            ]
        if not parts or self._reader is None or any(len(part) != B for part in parts):
            return None
        ids = torch.cat(parts, dim=1)
        return self._reader.read(ids) if ids.shape[1] == length else None

    def _new_writer(self, path: Path) -> Writer:
        modules = sum("att" in type(module).__name__.lower() for _, module in self._named)
        tokens = sum(part.ids.numel() for parts in self._ids.values() for part in parts)
        return Writer(TensorStream(path, reserve=2048 + 768 * modules + 32 * tokens))

    def _close_stream(self) -> None:
        if self._writer is not None:
            self._writer.abandon()

    def _finish(self, unheard: Iterable[str]) -> None:
        self._flush()
        heard = {layer.stack for layer in self._layers.values()}
        self._unheard = [name for name in unheard if name not in heard]
        if not self._layers:
            if self._skipped:
                raise InputError(
                    f"{self.name}: none of the layers {_listed(sorted(map(str, self._wanted or ())))} is there; "
                    f"the model ran layers {_listed(sorted(self._skipped, key=order_of))}"
                )
            if not self._pass:
                raise InputError(f"{self.name}: the model did not run inside the block; call it there")
            raise InputError(
                f"{self.name}: its attention can't be captured; none went through what was tried: {TRIED}; "
                f"where the model has another attention, try it (--attn sdpa or eager, attn_implementation=)"
            )
        if self._out is None:
            for label, layer in [*self._layers.items()]:
                if not self._holds(layer, self._inputs(layer, whole=False)):
                    del self._layers[label]
        self._tell()
        if self._writer is not None:
            self._close(self._writer)

    def _tell(self) -> None:
        """Says what was refused and what was not checked. Raises InputError where nothing is left."""
        written: Collection[Label] = () if self._writer is None else self._writer.labels
        if self._refused and not (self._layers if self._out is None else written):
            label, why = next(iter(self._refused.items()))
            raise InputError(
                f"{self.name}: its attention can't be captured; layer {label} is not what the model computes: {why}"
            )
        self.notes += [f"{self.name}: layer {label} was refused: {why}" for label, why in self._refused.items()]
        if self._check:
            self.notes += [
                f"{self.name}: layers {_listed(labels)} were not held against the model's output: {why}"
                for why, labels in self._unchecked.items()
            ]
        if over := [label for label, layer in self._layers.items() if layer.channels]:
            self.notes.append(
                f"{self.name}: layers {_listed(over)} attend over channels: their rows and columns are channels of a head, and no "
                f"tokens"
            )
        if self._orders and not self._chosen:
            self.notes.append(
                f"{self.name}: the beams that the search gave are not among its last: the items of each layer are these, each with "
                f"the rows that it came from"
            )
        if self._unheard:
            self.notes.append(
                f"{self.name}: {_listed(self._unheard)} ran a softmax whose weights multiply no values over all keys, or which can't "
                f"be followed; they are not captured"
            )
        for note in self.notes:
            warnings.warn(Note(note), stacklevel=4)

    def _close(self, writer: Writer) -> None:
        about = dict(self._metadata)
        if self.weights_only:
            about["weights_only"] = list(map(str, self.weights_only))
        if self.notes:
            about["notes"] = list(self.notes)
        if self._picture is not None:
            writer.add_picture(self._picture)
        if self._patches is not None:
            about["patches"] = list(self._patches)
        writer.close(about)


def _back(ids: Tensor, origins: Tensor | None) -> Tensor:
    return ids if origins is None else ids[origins]


def patch_tokens(patches: tuple[int, int], S: int, B: int) -> list[Tokens] | None:
    """Names for the patches of a picture and for what comes before them; None where the numbers don't fit."""
    rows, columns = patches
    before = S - rows * columns
    if not 0 <= before <= 16:
        return None
    extra = ["[CLS]", *(f"[{number}]" for number in range(1, before))][:before]
    return [Tokens([*extra, *(f"{row},{column}" for row in range(rows) for column in range(columns))])] * B


def channel_tokens(n: int, B: int) -> list[Tokens]:
    """Names for the channels of a head."""
    return [Tokens([f"channel {number}" for number in range(n)])] * B


def _listed(labels: Sequence[Label]) -> str:
    shown = [str(label) for label in labels]
    return ", ".join(shown[:12]) + (", …" if len(shown) > 12 else "")
