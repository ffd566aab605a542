"""A limit on memory (`ulimit -v`, a container's) is said in a line: as the program begins, and wherever it works."""

from __future__ import annotations

import json
import subprocess
import sys
from pathlib import Path

import pytest

import attnviz
from attnviz.cli.endings import NO_MEMORY
from tests import warm
from tests.fuzz.drawn import leaves

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="other systems have no such limit")

COMMANDS = """
score d.safetensors --pattern full -o a.npz
score d.pt --pattern full --format json
stats d.pt --pattern causal
plot d.npz --pattern causal -o b.png
show d.safetensors --pattern full
overview d.safetensors --pattern full -o c.svg
tiles d.npz --pattern full -o tiles
html d.npz -o d.html
pattern d.npz
context d.npz --pattern full -o e.npz
diff d.npz d.safetensors --pattern full
audit d.npz d.pt
explain d.npz
inspect d.safetensors
snapshot save d.npz f.json --pattern full
snapshot check d.npz kept.json
synth g.npz --tokens 20000
capture . --text x -o h.safetensors
view nothing.npz
"""

LIMITED = """
import json, os, resource, signal, sys
from attnviz.cli import main as program
import attnviz.plots, attnviz.show.scores, attnviz.maps, matplotlib.backends.backend_agg, PIL.Image
ended = []
for n, line in enumerate(sys.argv[1].strip().splitlines()):
    for more in [(2, 10, 40)[n % 3]] if n > 3 else (2, 10, 40):
        child = os.fork()
        if not child:
            os.dup2(os.open("out", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 1)
            os.dup2(os.open("err", os.O_WRONLY | os.O_CREAT | os.O_TRUNC), 2)
            pages = int(open("/proc/self/statm").read().split()[0])
            limit = pages * resource.getpagesize() + (more << 20)
            resource.setrlimit(resource.RLIMIT_AS, (limit, limit))
            sys.argv = ["attnviz", *line.split()]
            try:
                program.main()
            except SystemExit as end:
                sys.stdout.flush()
                os._exit(end.code)
            finally:
                os._exit(99)
        _, status = os.waitpid(child, 0)
        left = [name for name in os.listdir() if name.startswith(".")]
        ended.append([line, more, os.waitstatus_to_exitcode(status), open("err").read(), left])
print(json.dumps(ended))
"""


@pytest.mark.sweep
def test_every_command_says_in_a_line_that_memory_is_short(tmp_path):
    inputs = attnviz.synthesize(heads=2, tokens=800, head_dim=8)
    for suffix in ("safetensors", "npz", "pt"):
        attnviz.save(tmp_path / f"d.{suffix}", inputs)
    done = subprocess.run(
        [warm.python(), "-c", LIMITED, COMMANDS], cwd=tmp_path, capture_output=True, text=True, timeout=300
    )
    assert done.returncode == 0, done.stderr
    ended, short = json.loads(done.stdout), set()
    for line, more, code, said, left in ended:
        assert code in (0, 2), (line, more, code, said)
        assert not left, (line, more)
        assert all(one.startswith("attnviz: ") for one in said.splitlines()), (line, more, said)
        if code == 2 and NO_MEMORY in said:
            short.add(line.split()[0])
        elif code == 2:
            assert "no such file" in said or "not a model folder" in said or "needs" in said, (line, more, said)
    assert len(short) >= 5
    assert {line.split(maxsplit=2)[0] for line, *_ in ended} == {name.split()[0] for name in leaves()}


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("kilobytes", [60_000, 400_000])
def test_a_limit_that_python_or_torch_does_not_fit_in(tmp_path, kilobytes):
    command = f"ulimit -v {kilobytes}; exec {sys.executable} -m attnviz score"
    done = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=120)
    assert (done.returncode, done.stdout, done.stderr) == (2, "", f"attnviz: {NO_MEMORY}\n")
    assert not list(Path(tmp_path).iterdir())
