"""A warm process differs from one that starts from nothing in the time that it takes."""

import json
import multiprocessing
import os
import signal
import subprocess
import sys

import pytest
import warm_python


pytestmark = pytest.mark.skipif(not warm_python.WARM, reason="processes start from nothing here")

LOOK = """
import json, os, sys, tempfile
print(json.dumps({
    "argv": sys.argv, "path": sys.path[:2], "cwd": os.getcwd(), "env": dict(os.environ), "name": __name__,
    "temporary": tempfile.gettempdir(), "input": sys.stdin.read(), "files": sorted(os.listdir("/proc/self/fd"))[:-1],
}))
"""
ENDS = [
    "print('done')",
    "raise SystemExit(3)",
    "raise SystemExit('no')",
    "1 / 0",
    "raise KeyboardInterrupt",
    "import os; os.kill(os.getpid(), 9)",
    "import atexit; atexit.register(print, 'the end')",
    "import threading; threading.Thread(target=print, args=['a thread']).start()",
]


@pytest.mark.slow
def test_what_a_process_finds(tmp_path):
    env = {**os.environ, "TMPDIR": str(tmp_path), "PYTHONPATH": str(tmp_path), "HF_TOKEN": "hf_of_this_one"}
    (tmp_path / "look.py").write_text(LOOK)
    for arguments in (["-c", LOOK, "a", "b"], [str(tmp_path / "look.py"), "c"], ["-m", "look", "d"]):
        warm = warm_python.run(arguments, env=env, cwd=tmp_path)
        cold = subprocess.run(
            [sys.executable, *arguments],
            env=env,
            cwd=tmp_path,
            stdin=subprocess.DEVNULL,
            capture_output=True,
            text=True,
        )
        assert (warm.returncode, warm.stderr) == (0, "")
        assert json.loads(warm.stdout) == json.loads(cold.stdout)


@pytest.mark.slow
@pytest.mark.parametrize("code", ENDS)
def test_how_a_process_ends(code):
    cold = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True)
    for to_the_end in (False, True):
        warm = warm_python.run(["-c", code], to_the_end=to_the_end)
        assert (warm.returncode, warm.stdout) == (cold.returncode, cold.stdout)
        assert warm.stderr.splitlines()[-1:] == cold.stderr.splitlines()[-1:]


@pytest.mark.slow
def test_what_is_destroyed_at_the_end():
    code = "import ctypes; ctypes.pythonapi.Py_AtExit(ctypes.CDLL(None).abort)"
    ends = [warm_python.run(["-c", code], to_the_end=whole).returncode for whole in (False, True)]
    assert ends == [0, -signal.SIGABRT]


@pytest.mark.slow
def test_no_library_of_this_project_is_there_and_others_are():
    code = "import sys; print('gpt_embeddings' in sys.modules, 'transformers' in sys.modules)"
    assert warm_python.run(["-c", code]).stdout == "False True\n"


@pytest.mark.slow
def test_what_an_isolated_process_finds(tmp_path):
    code = """if True:
        import importlib.util, os, sys
        print(list(filter(os.path.isdir, sys.path)), sys.argv, importlib.util.find_spec("gpt_embeddings"))
    """
    arguments, env = [*warm_python.ISOLATED, "-c", code, "a"], {**os.environ, "PYTHONPATH": str(tmp_path)}
    warm = warm_python.run(arguments, env=env)
    cold = subprocess.run([sys.executable, *arguments], env=env, capture_output=True, text=True)
    assert warm.stdout == cold.stdout and warm.stdout.endswith("['-c', 'a'] None\n")


def tell(queue):
    queue.put([os.getpid(), os.getcwd(), __name__, "gpt_embeddings" in sys.modules, "transformers" in sys.modules])
    raise SystemExit(3)


@pytest.mark.slow
def test_multiprocessing_spawns():
    with warm_python.spawning():
        context = multiprocessing.get_context("spawn")
        queue = context.SimpleQueue()
        process = context.Process(target=tell, args=[queue])
        process.start()
        assert queue.get() == [process.pid, os.getcwd(), __name__, False, True]
        process.join(60)
        assert process.exitcode == 3
        process = context.Process(target=signal.pause)
        process.start()
        assert process.is_alive() and process.exitcode is None
        process.terminate()
        process.join()
        assert process.exitcode == -signal.SIGTERM
        with context.Pool(2) as pool:
            assert pool.map(abs, [-1, 2]) == [1, 2]


@pytest.mark.slow
def test_signals_and_time_limits():
    code = """if True:
        import os, sys, time
        print(os.getpid(), flush=True)
        sys.stdin.read()
        print("end", flush=True)
        time.sleep(600)
    """
    pipe = subprocess.PIPE
    with warm_python.start(["-c", code], stdin=pipe, stdout=pipe, stderr=pipe) as process:
        assert int(process.stdout.readline()) == process.pid
        assert process.poll() is None
        with pytest.raises(subprocess.TimeoutExpired):
            process.wait(0.01)
        process.stdin.close()
        assert process.stdout.readline() == "end\n"
        process.send_signal(signal.SIGINT)
        assert process.communicate(timeout=60)[1].splitlines()[-1] == "KeyboardInterrupt"
        assert process.wait() == process.poll() == -signal.SIGINT
        process.kill()  # which is not sent to a process that has ended
