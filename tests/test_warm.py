"""What starts warm behaves as what starts cold: each program is run both ways, and all that it does is the same."""

from __future__ import annotations

import os
import pty
import resource
import shlex
import signal
import subprocess
import sys
from pathlib import Path

import pytest

from tests import warm

pytestmark = pytest.mark.skipif(sys.platform != "linux", reason="programs start cold here")

COLD, WARM = sys.executable, warm.python()
IS_WARM = "import sys; print('torch' in sys.modules)"


def both(*arguments: object, **options) -> subprocess.CompletedProcess[str]:
    """What a program does, warm and cold."""
    cold, warm = (
        subprocess.run([python, *map(str, arguments)], capture_output=True, text=True, timeout=120, **options)
        for python in (COLD, WARM)
    )
    assert (warm.returncode, warm.stdout, warm.stderr) == (cold.returncode, cold.stdout, cold.stderr)
    return warm


def is_warm(**options) -> bool:
    return subprocess.check_output([WARM, "-c", IS_WARM], text=True, **options) == "True\n"


@pytest.mark.sweep(keep=3)
@pytest.mark.parametrize(
    ("last", "code"),
    [
        ("pass", 0),
        ("sys.exit()", 0),
        ("sys.exit(None)", 0),
        ("sys.exit(True)", 1),
        ("sys.exit(3)", 3),
        ("sys.exit(256 + 7)", 7),
        ("sys.exit(-1)", 255),
        ("sys.exit('a reason')", 1),
        ("os._exit(9)", 9),
        ("os.abort()", -signal.SIGABRT),
        *(
            (f"os.kill(os.getpid(), {int(number)})", -number)
            for number in (signal.SIGTERM, signal.SIGKILL, signal.SIGUSR1)
        ),
    ],
)
def test_a_program_ends_as_it_ends(last, code):
    program = f"import atexit, os, sys; atexit.register(print, 'at exit'); print('out', flush=True); {last}"
    assert both("-c", program).returncode == code


def test_an_error_ends_with_its_traceback():
    for error, code in (("ValueError('wrong')", 1), ("KeyboardInterrupt", -signal.SIGINT)):
        warm, cold = (
            subprocess.run([python, "-c", f"raise {error}"], capture_output=True, text=True) for python in (WARM, COLD)
        )
        assert warm.returncode == cold.returncode == code
        assert warm.stderr.splitlines()[0] == cold.stderr.splitlines()[0] == "Traceback (most recent call last):"
        assert warm.stderr.splitlines()[-1] == cold.stderr.splitlines()[-1]


@pytest.mark.parametrize("how", ["-c", "-m", "file", "folder/file"])
def test_a_program_has_its_arguments_and_modules(how, tmp_path):
    source = "import sys, helper; print(__name__, sys.argv, sys.path, helper.__file__)"
    place = tmp_path / how if "/" in how else tmp_path
    place.parent.mkdir(exist_ok=True)
    for name, text in (("program.py", source), ("helper.py", "")):
        (tmp_path / name).write_text(text)
        (tmp_path / "folder").mkdir(exist_ok=True)
        (tmp_path / "folder" / name).write_text(text)
    named = {
        "-c": ["-c", source],
        "-m": ["-m", "program"],
        "file": ["program.py"],
        "folder/file": ["folder/program.py"],
    }
    environment = {**os.environ, "PYTHONPATH": f"/nowhere{os.pathsep}/elsewhere"}
    assert both(*named[how], "one", "", "three four", cwd=tmp_path, env=environment).stdout.startswith("__main__ [")


def test_a_program_has_its_folder_environment_mask_and_limits(tmp_path):
    def before() -> None:
        os.umask(0o027)
        resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, 30_000))

    program = (
        "import os, resource; os.environ.pop('PWD', None); "  # set by the shell of the stand-in where there is none
        "print(os.getcwd(), sorted(os.environ.items()), oct(os.umask(0)), "
        "resource.getrlimit(resource.RLIMIT_FSIZE), resource.getrlimit(resource.RLIMIT_NOFILE))"
    )
    environment = {**os.environ, "COLUMNS": "33", "HOME": "/caf\u00e9"}
    del environment["PATH"]
    assert "(20000, 30000)" in both("-c", program, cwd=tmp_path, env=environment, preexec_fn=before).stdout


def test_a_program_reads_and_writes_its_streams(tmp_path):
    program = (
        "import sys; print(sys.stdin.read().upper(), end=''); print('caf\u00e9', file=sys.stderr); "
        "print(*((s.name, s.encoding, s.errors, s.line_buffering, s.isatty()) "
        "for s in (sys.stdin, sys.stdout, sys.stderr)))"
    )
    assert both("-c", program, input="caf\u00e9\r\n").stderr == "caf\u00e9\n"


@pytest.mark.parametrize("closed", [[0], [1], [2], [0, 1, 2]])
def test_a_program_without_its_streams_ends(closed, tmp_path):
    program = (
        "import os, sys; ends = [s is None for s in (sys.stdin, sys.stdout, sys.stderr, sys.__stdin__)]; "
        "opened = len(os.listdir('/proc/self/fd')); print(ends, opened, file=open('said', 'w')); sys.exit('a reason')"
    )
    without = " ".join(f"{number}>&-" for number in closed)
    said = []
    for python in (COLD, WARM):
        command = f"exec {python} -c {shlex.quote(program)} {without}"
        ended = subprocess.run(["sh", "-c", command], cwd=tmp_path, capture_output=True, text=True, timeout=120)
        said.append((ended.returncode, ended.stdout, ended.stderr, (tmp_path / "said").read_text()))
    assert said[0] == said[1]
    assert said[0][0] == 1
    assert said[0][3].startswith(str([number in closed for number in (0, 1, 2, 0)]))


def test_a_program_sees_a_terminal():
    screen, terminal = pty.openpty()
    program = "import os, sys; print(sys.stdout.isatty(), sys.stdout.line_buffering, os.ttyname(1))"
    said = []
    try:
        for python in (COLD, WARM):
            subprocess.run([python, "-c", program], stdin=terminal, stdout=terminal, check=True)
            said.append(os.read(screen, 1000).decode())
        assert said[0] == said[1]
        assert said[0].startswith("True ")
        assert os.ttyname(terminal) in said[0]
    finally:
        os.close(terminal)
        os.close(screen)


def test_a_full_disk_is_told():
    with open("/dev/full", "w") as full:  # noqa: PTH123 (a device)
        codes = [
            subprocess.run([python, "-c", "print(1)"], stdout=full, stderr=subprocess.DEVNULL).returncode
            for python in (COLD, WARM)
        ]
    assert codes in ([120, 120], [1, 1])  # by PYTHONUNBUFFERED


SLEEPER = """
import os, signal, sys, time
def told(number, frame):
    os.write(1, b"told %d\\n" % number)  # print may be at work on "ready" still
    sys.exit(5)
signal.signal(signal.SIGTERM, told)
print("ready", flush=True)
time.sleep(60)
"""


@pytest.mark.parametrize("number", [signal.SIGTERM, signal.SIGINT, signal.SIGHUP, signal.SIGKILL])
def test_signals_reach_the_program(number):
    ends = []
    for python in (COLD, WARM):
        with subprocess.Popen(
            [python, "-c", SLEEPER], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
        ) as process:
            assert process.stdout is not None
            assert process.stdout.readline() == "ready\n"
            process.send_signal(number)
            said = process.stdout.read()  # to its end: the program itself is gone
        ends.append((process.returncode, said))
    assert ends[0] == ends[1]


@pytest.mark.parametrize("command", ["{} &\nwait", "trap '' HUP USR1; {}", "nohup {}"])
def test_what_is_ignored_stays_ignored(command):
    program = "import signal; print(*(signal.getsignal(n) for n in (1, 2, 3, 10, 15)))"
    said = [
        subprocess.check_output(
            ["sh", "-c", command.format(f"'{python}' -c '{program}'")], text=True, stderr=subprocess.PIPE
        )
        for python in (COLD, WARM)
    ]
    assert said[0] == said[1]
    assert str(int(signal.SIG_IGN)) in said[0].split()


def test_programs_run_side_by_side():
    programs = [
        subprocess.Popen([WARM, "-c", f"import sys; sys.stdin.read(); sys.exit({code})"], stdin=subprocess.PIPE)
        for code in range(20)
    ]
    for process in reversed(programs):
        process.stdin.close()
    assert [process.wait(60) for process in programs] == list(range(20))


def test_a_program_is_alone_and_new():
    program = (
        "import os, random, sys, threading, numpy; "
        "print(os.listdir('/proc/self/task') == [str(os.getpid())], len(os.listdir('/proc/self/fd')), "
        "[name for name in sys.modules if name.startswith('attnviz') or name.startswith('tests')], "
        "random.random(), numpy.random.random())"
    )
    one, other = (subprocess.check_output([WARM, "-c", program], text=True).split() for _ in range(2))
    assert one[:3] == other[:3] == ["True", "4", "[]"]
    assert one[3] != other[3]
    assert one[4] != other[4]


def test_the_program_has_its_modules_and_no_other_program_has_them(tmp_path):
    """A program of that name, or one for which another attnviz is first, finds what it would find started cold."""
    say = "import sys; print(sum(name.startswith('attnviz') for name in sys.modules))"
    (tmp_path / "attnviz").write_text(say)
    (tmp_path / "other").write_text(say)
    environment = {**os.environ, "PYTHONPATH": str(tmp_path)}
    found = [
        int(subprocess.check_output([WARM, tmp_path / name], text=True, env=env))
        for name, env in (("attnviz", os.environ), ("attnviz", environment), ("other", os.environ))
    ]
    assert found[0] > 100
    assert found[1:] == [0, 0]


def test_what_cannot_be_warm_starts_cold():
    assert is_warm()
    assert is_warm(env={**os.environ, "COLUMNS": "40", "MPLBACKEND": "svg", "TORCHINDUCTOR_CACHE_DIR": "/"})
    for name in ("MATPLOTLIBRC", "OMP_NUM_THREADS", "PYTHONHASHSEED", "PYTHONIOENCODING", "LC_ALL", "TZ", "ANY_OTHER"):
        assert not is_warm(env={**os.environ, name: "ascii" if name == "PYTHONIOENCODING" else "0"}), name
    assert subprocess.check_output([WARM, "-B", "-c", IS_WARM], text=True) == "False\n"
    assert both(input="print(1)").stdout == "1\n"


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize("backend", ["svg", "agg"])
def test_matplotlib_has_the_backend_that_is_asked_for(backend):
    program = "import matplotlib; print(matplotlib.get_backend())"
    assert both("-c", program, env={**os.environ, "MPLBACKEND": backend}).stdout == f"{backend}\n"


@pytest.mark.sweep(keep=1)
@pytest.mark.parametrize(
    "command",
    [
        "attnviz --version",
        "attnviz score --format json | head -c 100",
        "attnviz nothing",
        "python -m attnviz pattern --tokens 9 --window 1 2>&1 && attnviz plot -o map.png && cksum map.png",
        "pytest --version",
    ],
)
def test_commands_of_the_shell_are_the_same(command, tmp_path):
    ran = []
    real = os.pathsep.join([str(Path(sys.executable).parent), os.environ["PATH"]])
    for name, path in (("cold", real), ("warm", warm.path())):
        (tmp_path / name).mkdir()
        environment = {**os.environ, "PATH": path, "MPLBACKEND": "agg"}
        ran.append(
            subprocess.run(
                ["bash", "-uc", command], cwd=tmp_path / name, env=environment, capture_output=True, timeout=120
            )
        )
    assert (ran[0].returncode, ran[0].stdout, ran[0].stderr) == (ran[1].returncode, ran[1].stdout, ran[1].stderr)


@pytest.mark.sweep
def test_the_server_ends_with_the_process_that_started_it(tmp_path):
    program = "from tests import warm; import subprocess; subprocess.run([warm.python(), '-c', 'import os; print(os.getppid())'])"
    server = int(subprocess.check_output([COLD, "-c", program], text=True))
    with pytest.raises(ProcessLookupError):
        os.kill(server, 0)
