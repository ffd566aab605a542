"""The pytest plugin: fixtures ``attention_snapshot``, ``assert_attention_close`` and ``assert_runs_agree``.

pytest loads this with every run of every project that has attnviz installed: it imports nothing of weight until a
fixture is used.
"""

from __future__ import annotations

import os
import re
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import TYPE_CHECKING, Any

import pytest

if TYPE_CHECKING:
    from attnviz.compare.snapshots.difference import CellDifference, SnapshotDifference
    from attnviz.compare.snapshots.snapshot import Snapshot

DIRECTORY = "__attention__"
"""The folder beside a test file that holds the snapshots of its tests."""

_USED = "attention_snapshot"  # the property of a test's report that names a snapshot it used
_WROTE = "attention_snapshot_written"
_MOST_LISTED = 10


def pytest_addoption(parser: pytest.Parser) -> None:
    """Adds the plugin's options."""
    group = parser.getgroup("attention", "attention snapshots (attnviz)")
    group.addoption(
        "--attention-update",
        action="store_true",
        help="Write the snapshots that are missing or no longer hold, and remove those that no test uses.",
    )
    group.addoption(
        "--attention-pictures",
        metavar="DIR",
        help="Where to draw what differs: stored, now and the difference. Default: pytest's temporary folder.",
    )


def pytest_configure(config: pytest.Config) -> None:
    """Keeps the session's account of used snapshots where the reports come together."""
    if not hasattr(config, "workerinput"):  # with xdist, the tests run elsewhere and report here
        config.pluginmanager.register(_Account(config), "attention-account")


@pytest.fixture
def attention_snapshot(request: pytest.FixtureRequest) -> AttentionSnapshot:
    """Holds an attention call against the snapshot stored beside the test: ``attention_snapshot(inputs)``."""
    return AttentionSnapshot(request)


@pytest.fixture(scope="session")
def assert_attention_close(
    pytestconfig: pytest.Config, tmp_path_factory: pytest.TempPathFactory
) -> Callable[..., None]:
    """:func:`attnviz.assert_attention_close`: a kernel's output against the exact formula; with a picture of a wrong map."""

    def check(*arguments: Any, **options: Any) -> None:
        __tracebackhide__ = True
        from attnviz.compare.kernel import checked

        outputs, report = checked(*arguments, **options)
        if report.within:
            return
        from attnviz.show.figures.kernel import write_kernel_difference

        test = os.environ.get("PYTEST_CURRENT_TEST", "kernel").rpartition(" (")[0].rpartition("::")[2]
        picture = _pictures(pytestconfig, tmp_path_factory) / f"{_file_name(test)}.kernel.png"
        drawn = write_kernel_difference(picture, outputs, report)
        raise AssertionError(report.message() + (f"\n  picture: {picture}" if drawn else ""))

    return check


@pytest.fixture(scope="session")
def assert_runs_agree() -> Callable[..., None]:
    """:func:`attnviz.compare.audit.assert_runs_agree`: two runs of a model, layer by layer."""
    from attnviz.compare.audit import assert_runs_agree

    return assert_runs_agree


class AttentionSnapshot:
    """What the fixture ``attention_snapshot`` gives: call it with what is to stay as it is."""

    def __init__(self, request: pytest.FixtureRequest) -> None:
        self._request = request
        self._names: set[str] = set()
        self._config = request.config

    def __call__(
        self,
        source: Any,
        k: Any = None,
        mask: Any = None,
        *,
        name: str | None = None,
        atol: float | None = None,
        rtol: float | None = None,
        suffix: str = ".json",
        heads: Any = None,
        batch: int = 0,
        values: str = "weights",
        cells: int | None = None,
        queries: range | None = None,
        keys: range | None = None,
        pattern: Any = None,
        tokens: Any = None,
        picture: bool = False,
        **settings: Any,
    ) -> None:
        """Asserts that a snapshot of ``source`` is what was stored, within what its dtype allows.

        Args:
            source: AttentionInputs, AttentionWeights, AttentionScores, an AttentionMap, a tensor of weights or logits (H, T, S); or q,
                with ``k``.
            k, mask: the keys, and a bool mask as in :func:`attnviz.assert_attention_close`, where ``source`` is q.
            name: sets several snapshots of one test apart; None numbers them.
            atol, rtol: how far cells may be apart, what isn't given being 0; None of both is what the snapshot says.
            suffix: ``.json``, or ``.npz`` for more cells than anyone reviews.
            heads, batch, values, cells, queries, keys: as in :func:`attnviz.take_snapshot`.
            pattern: which query sees which key; by name too, where ``k`` is given.
            tokens: labels of the S keys, of a tensor or with ``k``.
            picture: also keep the heatmaps as a PNG beside the numbers, and compare its pixels, give or take 8 of 255.
            settings: with ``k``, other fields of :class:`attnviz.AttentionInputs`: ``scale``, ``key_padding_mask``, ...

        Raises:
            AssertionError: something is not what was stored, or nothing is stored yet.
            InputError: what cannot be a snapshot.
        """
        __tracebackhide__ = True
        from attnviz.base.errors import InputError
        from attnviz.compare.snapshots.snapshot import CELLS, VERSION
        from attnviz.compare.snapshots.taking import locate, take_snapshot

        if k is not None:
            from attnviz.sources.arguments import inputs_of

            source, pattern = inputs_of(source, k, mask, pattern=pattern, tokens=tokens, **settings), None
        elif mask is not None or settings:
            given = [*(["mask"] if mask is not None else []), *settings]
            raise InputError(f"{given[0]}: it belongs to q and k, as in attention_snapshot(q, k, mask); leave it out")
        path = self._path(name, suffix)
        how: dict[str, Any] = {"heads": heads, "batch": batch, "values": values, "queries": queries, "keys": keys}
        how |= {"cells": CELLS if cells is None else cells, "tokens": None if k is not None else tokens}

        def take(version: int = VERSION) -> Snapshot:
            return take_snapshot(source, pattern, version=version, **how)

        stored = self._stored(path)
        now = take() if stored is None else take(stored.version)
        if stored is None:
            self._write(path, now)
        else:
            self._compare(path, stored, now, (atol, rtol), take, lambda worst: locate(source, pattern, worst, now))
        if picture:
            self._compare_pictures(path.with_suffix(".png"), now)

    def _path(self, name: str | None, suffix: str) -> Path:
        """Where the snapshot of this call lies: ``__attention__/test_file/test_name.json``."""
        item = self._request.node
        own = item.nodeid.split("::", 1)[1] if "::" in item.nodeid else item.name
        base = _file_name(own.replace("::", "."))
        number = len(self._names) + 1
        own_name = f"{number}" if name is None and number > 1 else "" if name is None else _file_name(name)
        label = f"{base}.{own_name}" if own_name else base
        if label in self._names:
            from attnviz.base.errors import InputError

            raise InputError(f"attention_snapshot: the name {name!r} is used twice in this test; give each its own")
        self._names.add(label)
        file: Path = item.path
        return file.parent / DIRECTORY / file.stem / f"{label}{suffix}"

    def _stored(self, path: Path) -> Snapshot | None:
        """The snapshot in a file; None where an update is to write it."""
        __tracebackhide__ = True
        from attnviz.base.errors import InputError
        from attnviz.compare.snapshots.files import read_snapshot

        update = self._config.getoption("attention_update")
        self._request.node.user_properties.append((_USED, str(path)))
        if not path.exists():
            if update:
                return None
            shown = _relative(path, self._config)
            raise AssertionError(f"there is no attention snapshot {shown} yet; write it with\n  {self._again}")
        try:
            return read_snapshot(path)
        except InputError:  # a damaged one is what an update is for
            if update:
                return None
            raise

    @property
    def _again(self) -> str:
        """What writes the snapshots of this test."""
        return f"pytest --attention-update '{self._request.node.nodeid}'"

    def _compare(
        self,
        path: Path,
        stored: Snapshot,
        now: Snapshot,
        tolerance: tuple[float | None, float | None],
        take: Callable[[], Snapshot],
        locate: Callable[[CellDifference], tuple[int, int, float] | None],
    ) -> None:
        __tracebackhide__ = True
        from attnviz.compare.rounding import explicit
        from attnviz.compare.snapshots.comparing import compare_snapshots

        found = compare_snapshots(stored, now, explicit(*tolerance))
        if found.within:
            return  # an update leaves what still holds as it is: no noise in its commit
        if self._config.getoption("attention_update"):
            self._write(path, take())
            return
        where = locate(found.cells[0]) if found.cells else None
        lines = [f"attention snapshot {_relative(path, self._config)}: {found.report(where=where)}"]
        lines += [] if found.note is None else [f"  it is {found.note}"]
        picture = self._draw(path, found)
        if picture is not None:
            lines.append(f"  picture: {picture}")
        raise AssertionError("\n".join([*lines, f"if this is meant: {self._again}"]))

    def _compare_pictures(self, path: Path, now: Snapshot) -> None:
        __tracebackhide__ = True
        from attnviz.show.figures.snapshot import draw_snapshot, other_look, pixels_apart

        self._request.node.user_properties.append((_USED, str(path)))
        drawn = draw_snapshot(now)
        shown = _relative(path, self._config)
        other = other_look(path.read_bytes()) if path.exists() else None
        wrong = "is not there yet" if not path.exists() else other or pixels_apart(path.read_bytes(), drawn)
        if wrong is None:
            return
        if self._config.getoption("attention_update"):
            path.write_bytes(drawn)
            self._request.node.user_properties.append((_WROTE, str(path)))
            return
        if not path.exists():
            raise AssertionError(f"the picture {shown} {wrong}; write it with\n  {self._again}")
        if other is not None:
            said = f"the picture {shown} has {other}: it is not compared; draw it anew with {self._again}"
            self._request.node.warn(pytest.PytestWarning(said))
            return
        later = self._pictures() / f"{path.parent.name}.{path.stem}.now.png"
        later.write_bytes(drawn)
        raise AssertionError(f"the picture {shown} {wrong}\n  now: {later}\nif this is meant: {self._again}")

    def _write(self, path: Path, now: Snapshot) -> None:
        from attnviz.compare.snapshots.files import write_snapshot

        path.parent.mkdir(parents=True, exist_ok=True)
        write_snapshot(path, now)
        self._request.node.user_properties.append((_WROTE, str(path)))

    def _draw(self, path: Path, found: SnapshotDifference) -> Path | None:
        """Draws what differs; None where the two have no cells in common."""
        from attnviz.show.figures.snapshot import write_difference

        picture = self._pictures() / f"{path.parent.name}.{path.stem}.png"
        return picture if write_difference(picture, found) else None

    def _pictures(self) -> Path:
        return _pictures(self._config, self._request.getfixturevalue("tmp_path_factory"))


def _pictures(config: pytest.Config, temporary: pytest.TempPathFactory) -> Path:
    """The folder that pictures of what differs go to."""
    wanted = config.getoption("attention_pictures")
    folder = config.invocation_params.dir / wanted if wanted else temporary.mktemp("attention")
    folder.mkdir(parents=True, exist_ok=True)
    return Path(folder)


class _Account:
    """Which snapshots the session used and wrote, and which are left over."""

    def __init__(self, config: pytest.Config) -> None:
        self.config = config
        self.used: set[Path] = set()
        self.written: list[Path] = []
        self.files: dict[Path, set[str]] = {}
        """Test files, and their tests whose snapshots cannot be judged: skipped or failed before they were used."""
        self.deselected = False
        self.awaited: set[str] = set()
        """Tests that were collected and have not been reported: a run that stopped early never reached them."""

    def pytest_collection_finish(self, session: pytest.Session) -> None:
        self.awaited |= {item.nodeid for item in session.items}

    @pytest.hookimpl(optionalhook=True)
    def pytest_xdist_node_collection_finished(self, ids: list[str]) -> None:
        self.awaited |= set(ids)

    def pytest_deselected(self, items: list[pytest.Item]) -> None:
        self.deselected = self.deselected or bool(items)

    def pytest_runtest_logreport(self, report: pytest.TestReport) -> None:
        file, _, test = report.nodeid.partition("::")
        unsure = self.files.setdefault(self.config.rootpath / file, set())
        if report.outcome != "passed":
            unsure.add(_file_name(test.replace("::", ".")))
        if report.when == "teardown":
            self.awaited.discard(report.nodeid)
            properties = [(name, Path(str(value))) for name, value in report.user_properties if name in (_USED, _WROTE)]
            self.used |= {path for name, path in properties if name == _USED}
            self.written += [path for name, path in properties if name == _WROTE]

    def left_over(self) -> list[Path]:
        """Snapshots of the test files that were run in full which no test used."""
        option = self.config.option
        chosen = [getattr(option, name, None) for name in ("keyword", "markexpr", "lf", "deselect", "stepwise")]
        if self.deselected or any(chosen) or any("::" in str(argument) for argument in self.config.args):
            return []
        for test in self.awaited:
            file, _, name = test.partition("::")
            self.files.setdefault(self.config.rootpath / file, set()).add(_file_name(name.replace("::", ".")))
        return sorted(
            path
            for file, unsure in self.files.items()
            for path in (file.parent / DIRECTORY / file.stem).glob("*")
            if path not in self.used and not _owned(path, unsure) and _is_written_here(path)
        )

    def pytest_terminal_summary(self, terminalreporter: Any, exitstatus: int) -> None:
        lines = [f"{_count(self.written, 'snapshot')} written"] if self.written else []
        lines += [f"  {path}" for path in _listed(self.written, self.config)]
        # A run that stopped early says nothing of what is left over.
        spare = self.left_over() if exitstatus in (0, 1) else []
        if spare and self.config.getoption("attention_update"):
            for path in spare:
                path.unlink(missing_ok=True)
            lines.append(f"{_count(spare, 'snapshot')} that no test uses removed")
        elif spare:
            lines.append(f"{_count(spare, 'snapshot')} that no test uses; --attention-update removes")
        lines += [f"  {path}" for path in _listed(spare, self.config)]
        if lines:
            terminalreporter.section("attention snapshots")
            for line in lines:
                terminalreporter.line(line)


def _owned(path: Path, tests: set[str]) -> bool:
    """Whether a snapshot is one of these tests'."""
    return any(path.stem == test or path.name.startswith(f"{test}.") for test in tests)


def _is_written_here(path: Path) -> bool:
    """Whether a file is a snapshot or its picture, and not one that a person has put beside them."""
    from attnviz.compare.snapshots.files import is_snapshot
    from attnviz.show.figures.snapshot import is_picture

    if path.suffix == ".png":
        return is_picture(path)
    return path.suffix in (".json", ".npz") and is_snapshot(path)


def _file_name(text: str) -> str:
    """A test's name as a file's on every system; what was changed is told apart by a number."""
    plain = re.sub(r"[^\w.\-=,+\[\]]", "_", text)
    if plain != text or len(plain) > 120:
        import zlib

        plain = f"{plain[:120]}-{zlib.crc32(text.encode()):08x}"
    return plain


def _relative(path: Path, config: pytest.Config) -> Path:
    return path.relative_to(config.rootpath) if path.is_relative_to(config.rootpath) else path


def _count(paths: list[Path], noun: str) -> str:
    return f"1 {noun}" if len(paths) == 1 else f"{len(paths)} {noun}s"


def _listed(paths: list[Path], config: pytest.Config) -> Iterator[str]:
    yield from (str(_relative(path, config)) for path in paths[:_MOST_LISTED])
    if len(paths) > _MOST_LISTED:
        yield f"… and {len(paths) - _MOST_LISTED} more"
