"""Every family of the installed transformers, captured: what is exact, what is refused, and why. ``make families`` writes the table.

The truth is the model's own: the softmax that ran in the module that a layer is. torch's own attention functions show none: what
they compute follows here, in float64, from what they are given. Where neither ran, the self-check holds a layer against the
function's output.
"""

from __future__ import annotations

import json
import re
import signal
import warnings
from collections import Counter
from dataclasses import asdict, dataclass, field
from pathlib import Path
from typing import Any

import torch
import transformers
from torch import Tensor, nn
from torch.nn import functional
from torch.overrides import TorchFunctionMode

import attnviz
from attnviz import InputError
from tests.captures.tiny import built, families, fed

EXACT = 1e-5
_SOFTMAX = (functional.softmax, torch.softmax, Tensor.softmax)
_LARGE = 1e8  # parameters
_SECONDS = 40
_KEPT = Path(".families.jsonl")
_INSTALLABLE = re.compile(r"requires the (\w+) library")


@dataclass
class Found:
    """What came of a family under a kernel."""

    kind: str
    model: str
    attention: str
    status: str = ""  # exact, checked, refused, partial, wrong, none, crashed, not built
    why: str = ""
    layers: list[str] = field(default_factory=list)
    worst: float = 0.0
    weights_only: bool = False


class _Seen(TorchFunctionMode):
    """The softmaxes that a model runs, by the module that runs."""

    def __init__(self, model: nn.Module) -> None:
        super().__init__()
        self.weights: dict[str, list[Tensor]] = {}
        self.scaled: dict[str, list[Tensor]] = {}  # those of contexts that are scaled afterwards
        self.attention: set[str] = set()  # modules that are called so
        self._stack: list[nn.Module] = []
        self._names = {id(module): name for name, module in model.named_modules()}
        for module in model.modules():
            module.register_forward_pre_hook(self._enter)
            module.register_forward_hook(self._leave, always_call=True)

    def _enter(self, module: nn.Module, given: Any) -> None:
        self._stack.append(module)

    def _leave(self, module: nn.Module, given: Any, output: Any) -> None:
        if self._stack and self._stack[-1] is module:
            self._stack.pop()

    def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
        kwargs = kwargs or {}
        result = func(*args, **kwargs)
        around = [module for module in self._stack if not isinstance(module, nn.Softmax)]
        if not around:
            return result
        if func in _SOFTMAX and result.ndim >= 3 and _over_last(args, kwargs, result.ndim):
            self._note(around[-1], result.detach().clone())
            self._note_sinks(around[-1], args[0], result)
        elif func is functional.scaled_dot_product_attention:
            self._note(around[-1], _of_sdpa(*args, **kwargs))
        elif func is functional.multi_head_attention_forward:
            weighed = {**kwargs, "need_weights": True, "average_attn_weights": False}
            self._note(around[-1], func(*args, **weighed)[1].detach())
        return result

    def _note(self, module: nn.Module, weights: Tensor) -> None:
        name = self._names[id(module)]
        self.weights.setdefault(name, []).append(weights)
        if "att" in type(module).__name__.lower():
            self.attention.add(name)

    def _note_sinks(self, module: nn.Module, logits: Tensor, weights: Tensor) -> None:
        """The weights that a context has where it is scaled by a sink after softmax, which a model then returns without."""
        sinks = getattr(module, "sinks", None)
        if isinstance(sinks, Tensor) and weights.ndim == 4 and weights.shape[1] == sinks.numel():
            share = torch.sigmoid(logits.logsumexp(-1) - sinks.view(1, -1, 1))
            self.scaled.setdefault(self._names[id(module)], []).append(weights * share[..., None])


def _over_last(args: Any, kwargs: dict[str, Any], ndim: int) -> bool:
    """Whether a softmax is over the last dimension: one over another gives no row of weights."""
    dim = kwargs.get("dim", args[1] if len(args) > 1 else -1)
    return isinstance(dim, int) and dim % ndim == ndim - 1


def _of_sdpa(
    query: Tensor,
    key: Tensor,
    value: Tensor,
    attn_mask: Tensor | None = None,
    dropout_p: float = 0.0,
    is_causal: bool = False,
    scale: float | None = None,
    enable_gqa: bool = False,
) -> Tensor:
    """The weights of ``scaled_dot_product_attention``, by its definition, in float64."""
    q, k = query.detach().double(), key.detach().double()
    k = k.repeat_interleave(q.shape[-3] // k.shape[-3], -3) if enable_gqa else k
    logits = q @ k.transpose(-2, -1) * (q.shape[-1] ** -0.5 if scale is None else scale)
    if is_causal:
        logits = logits.masked_fill(~torch.ones(logits.shape[-2:], dtype=torch.bool).tril(), -torch.inf)
    if attn_mask is not None and attn_mask.dtype == torch.bool:
        logits = logits.masked_fill(~attn_mask, -torch.inf)
    elif attn_mask is not None:
        logits = logits + attn_mask
    return logits.softmax(-1)


def found(kind: str, name: str, attention: str) -> Found:
    """Captures a tiny model of a family and holds it against the model's own weights."""
    result = Found(kind, name, attention)
    try:
        _limit(_SECONDS)
        model = built(kind, name, attention)
        if sum(parameter.numel() for parameter in model.parameters()) > _LARGE:
            result.status, result.why = "not built", "no tiny config is known"
            return result
        given = fed(model)
    except (Exception, _TooLong) as error:
        library = _INSTALLABLE.search(str(error))
        result.status = "not built"
        result.why = f"needs {library[1]}" if library else f"{type(error).__name__}: {_line(error)}"
        return result
    try:
        _compare(model, given, result)
    except InputError as error:
        none = "none went through" in str(error)
        result.status, result.why = ("none", "no softmax over keys") if none else ("refused", _line(error))
    except Exception as error:
        result.status, result.why = "crashed", f"{type(error).__name__}: {_line(error)}"
    except _TooLong:
        result.status, result.why = "not built", "takes too long"
    finally:
        _limit(0)
    return result


class _TooLong(BaseException):
    """A model took more seconds of the CPU than a tiny one may."""


def _limit(seconds: float) -> None:
    """Ends what runs after so many seconds of the CPU; 0 lets it run."""

    def end(*_: object) -> None:
        raise _TooLong

    signal.signal(signal.SIGPROF, end)
    signal.setitimer(signal.ITIMER_PROF, seconds)


def _compare(model: nn.Module, given: dict[str, Any], result: Found) -> None:
    seen = _Seen(model)
    with warnings.catch_warnings(), torch.no_grad(), seen:
        warnings.simplefilter("ignore")
        with attnviz.capture(model) as run:
            model(**given)
    result.layers = [str(label) for label in run.layers]
    result.weights_only = bool(run.weights_only)
    known: set[str] = set()
    compared = 0
    for label in run.layers:
        own, off, scaled = _nearest(run, label, seen)
        if off < 9:
            known.add(own)
            compared += 1
            result.worst = max(result.worst, off)
        if scaled:
            result.why = "what it uses is captured; it returns its weights without their sinks"
    misnumbered = [label for label in run.layers if not _is_own_number(str(label), run._layers[label].stack)]
    missing = [name for name in seen.attention - known if attention_ran(name, run)]
    if result.worst > EXACT:
        result.status, result.why = "wrong", f"{result.worst:.2g} from the model's own"
    elif misnumbered:
        result.status, result.why = "wrong", f"layer {misnumbered[0]} is {run._layers[misnumbered[0]].stack}"
    elif run.notes:
        result.status, result.why = "partial, with a note", _line(run.notes[0])
    elif missing and result.attention == "eager":
        result.status, result.why = "partial", f"{missing[0]} was not heard"
    else:
        result.status = "exact" if compared == len(run.layers) else "checked"


def _nearest(run: attnviz.Run, label: attnviz.Label, seen: _Seen) -> tuple[str, float, bool]:
    """The module within a layer whose softmax is nearest to its map, how far that is, 9 where none has its shape, and whether
    it is one of a context that is scaled afterwards."""
    layer = run._layers[label]
    found = [("", 9.0, False)]
    for scaled, weights in ((False, seen.weights), (True, seen.scaled)):
        for name in weights:
            if name == layer.stack or name.startswith(f"{layer.stack}."):
                ran = weights[name]
                alone = len(ran) == sum(other.stack == layer.stack for other in run._layers.values())
                ran = ran[layer.nth - 1 : layer.nth] if alone else ran
                found += [(name, _apart(run.inputs(label), one), scaled) for one in ran]
    return min(found, key=lambda one: one[1])


def attention_ran(name: str, run: attnviz.Run) -> bool:
    """Whether a module that is called attention, and ran a softmax, is no layer that was captured."""
    stacks = {layer.stack for layer in run._layers.values()}
    return not any(name == stack or name.startswith(f"{stack}.") or stack.startswith(f"{name}.") for stack in stacks)


def _is_own_number(label: str, stack: str) -> bool:
    """Whether a label's number is the module's index, where that is one."""
    indices = re.findall(r"(?:^|\.)(\d+)(?=\.|$)", stack)
    number = re.sub(r"\.calls\.\d+$", "", label).rpartition(".")[2]
    return len(indices) != 1 or indices[0] == number or "stages" in stack


def _apart(inputs: Any, own: Tensor) -> float:
    """How far the maps of captured inputs are from a softmax of the model; 9 where it is of another shape."""
    own = _of_band(own, inputs)[..., : inputs.S]
    if own.shape[-2:] != (inputs.T, inputs.S) or own.numel() != inputs.B * inputs.H * inputs.T * inputs.S:
        return 9.0
    shapes = [own] if own.ndim < 5 else [own, own.transpose(1, 2)]
    items = range(min(inputs.B, 3))
    ours = torch.stack(
        [
            torch.stack([torch.from_numpy(attnviz.attention_map(inputs, h, batch=b).cells) for h in range(inputs.H)])
            for b in items
        ]
    )
    blank = torch.isnan(ours).all(-1, keepdim=True)
    off = []
    for one in shapes:
        theirs = one.reshape(inputs.B, inputs.H, inputs.T, inputs.S)[: len(ours)].double()
        off.append(float((ours.nan_to_num() - theirs).masked_fill(blank, 0.0).abs().max()))
    return min(off)


def _of_band(own: Tensor, inputs: Any) -> Tensor:
    """Weights (B, H, T, S) of those of a window, (B, T or more, H, 2w + 1), as Longformer has them; others as they are."""
    width, T = own.shape[-1], inputs.T
    padded = own.ndim == 4 and own.shape[2] == inputs.H and own.shape[1] > T == inputs.S
    if not padded or width % 2 == 0:
        return own
    whole = own.new_zeros(own.shape[0], inputs.H, T, T)
    for t in range(T):
        for s in range(max(0, t - width // 2), min(T, t + width // 2 + 1)):
            whole[:, :, t, s] = own[:, t, :, s - t + width // 2]
    return whole


def _cell(text: str) -> str:
    """A text as a cell of a Markdown table."""
    return text.replace("|", "\\|").replace("<", "&lt;")


def _line(error: object) -> str:
    text = " ".join(str(error).split())
    return text if len(text) < 160 else f"{text[:157]} …"


def table(results: list[Found]) -> str:
    """The page of docs that says what came of each family."""
    eager = {(one.kind, one.model): one for one in results if one.attention == "eager"}
    sdpa = {(one.kind, one.model): one for one in results if one.attention == "sdpa"}
    attend = {place: one for place, one in eager.items() if one.status not in ("none", "not built")}
    counts = Counter(one.status for one in attend.values())
    lines = [
        "# Every family of transformers",
        "",
        "What `attnviz capture` makes of each family of Hugging Face transformers that attends, measured by `make families` on",
        f"transformers {transformers.__version__}: tiny models made from the config classes, a batch of 2, text with padding. *Exact* is within 1e-5 of",
        "the softmax that the model itself ran, or of what torch's own attention functions compute from what they were given (in float64),",
        "with labels of the model's own indices; *checked* is what the [self-check](capture.md#right-or-refused) says where neither is to be",
        "seen. Families that need timm are measured where it is installed.",
        "",
        f"Of {len(attend)} families that were built and attend, {counts['exact']} are exact"
        + "".join(f", {count} {status}" for status, count in sorted(counts.items()) if status != "exact")
        + ".",
        "",
        "| family | model | eager | sdpa | why |",
        "|---|---|---|---|---|",
    ]
    for (kind, model), one in sorted(attend.items()):
        other = sdpa.get((kind, model))
        said = "–" if other is None or other.status == "not built" else other.status
        why = one.why or (other.why if other is not None and other.status not in ("checked", "not built") else "")
        lines.append(f"| {kind} | {model} | {one.status} | {said} | {_cell(why)} |")
    lines += ["", "## Not measured", "", "| family | why |", "|---|---|"]
    for (kind, _), one in sorted(eager.items()):
        if one.status in ("none", "not built"):
            lines.append(f"| {kind} | {_cell(one.why)} |")
    return "\n".join(lines) + "\n"


def main() -> None:
    """Captures every family and writes ``docs/families.md``; what an interrupted run has found is kept, line by line."""
    transformers.utils.logging.set_verbosity_error()
    results = _kept()
    known = {(one.kind, one.model) for one in results}
    for kind, name in families():
        if (kind, name) in known:
            continue
        pair = [found(kind, name, attention) for attention in ("eager", "sdpa")]
        with _KEPT.open("a", encoding="utf-8") as file:
            file.writelines(json.dumps(asdict(one)) + "\n" for one in pair)
        results += pair
        print(kind, *(f"{one.attention}: {one.status} {one.why}" for one in pair), sep="  ", flush=True)
    Path("docs/families.md").write_text(table(results), encoding="utf-8")
    _KEPT.unlink(missing_ok=True)


def _kept() -> list[Found]:
    lines = _KEPT.read_text(encoding="utf-8").splitlines() if _KEPT.exists() else []
    return [Found(**json.loads(line)) for line in lines]


if __name__ == "__main__":
    main()
