"""Ends a reproduction at one of its moments; Python imports this first wherever its folder is on ``PYTHONPATH``.

``HPT_TEST_KILL`` holds ``{phase, number, delay_s, whom, fired, folder}``: at the ``number``-th moment of ``phase``
(from 0, counted in each process) and ``delay_s`` later, the processes ``whom`` ("main": the command that was typed;
"own": the one at this moment; "both") are killed outright, after ``fired`` was written. See
`tests/faults/test_kills.py`.
"""

import importlib.abc
import importlib.machinery
import importlib.util
import json
import os
import signal
import sys
import threading

#: phase -> (module, class or "", function): calls that are moments of it.
CALLS = {
    "rollouts": ("hpt.training.sampler", "Sampler", "sample"),
    "backward": ("hpt.training.engine", "PolicyEngine", "backward"),
    "evaluation": ("hpt.evaluation.evaluate", "", "sample_answers"),
    "notebook": ("hpt.reports.notebooks", "Study", "_keep"),
}
WRITES = {"open", "os.rename", "os.mkdir", "os.rmdir", "os.remove"}


def watch(plan):
    main = int(os.environ.setdefault("HPT_TEST_MAIN", str(os.getpid())))
    passed = 0

    def end():
        descriptor = os.open(plan["fired"], os.O_WRONLY | os.O_CREAT | os.O_APPEND)
        os.write(descriptor, f"{plan['phase']} {os.getpid()}\n".encode())
        os.close(descriptor)
        if plan["whom"] != "own":
            os.kill(main, signal.SIGKILL)
        if plan["whom"] != "main":
            os.kill(os.getpid(), signal.SIGKILL)

    def reached():
        nonlocal passed
        passed += 1
        if passed == plan["number"] + 1:
            if plan["delay_s"]:
                # no daemon: a process that ends within the delay waits for its kill, or a quick machine would have none
                threading.Timer(plan["delay_s"], end).start()
            else:
                end()

    def phase_of(path):
        """The phase a written file belongs to."""
        own = path[len(plan["folder"]) :]
        if own.startswith("/reports"):
            if os.getpid() != main:
                return "notebook"
            return "report" if "/notebooks/" in own or ".html" in own or "README.md" in own else ""
        if "/checkpoints/" in own and "/pretrain-" not in own:
            return "checkpoint"
        return "base" if "/pretrain-" in own and "/evaluations/" not in own else ""

    def on_event(event, arguments):
        if event not in WRITES or not str(arguments[0]).startswith(plan["folder"]):
            return
        if event == "open" and not (isinstance(arguments[1], str) and set(arguments[1]) & set("wax+")):
            return
        if phase_of(str(arguments[0])) == plan["phase"]:
            reached()

    sys.addaudithook(on_event)
    if plan["phase"] in CALLS:
        sys.meta_path.insert(0, Counting(*CALLS[plan["phase"]], reached))


class Counting(importlib.abc.MetaPathFinder, importlib.abc.Loader):
    """Imports one module as always, then has calls of one of its functions counted."""

    def __init__(self, module, owner, function, reached):
        self.module, self.owner, self.function, self.reached = module, owner, function, reached

    def find_spec(self, name, path, target=None):
        if name != self.module:
            return None
        spec = importlib.machinery.PathFinder.find_spec(name, path)
        self.genuine, spec.loader = spec.loader, self
        return spec

    def create_module(self, spec):
        return self.genuine.create_module(spec)

    def exec_module(self, module):
        self.genuine.exec_module(module)
        owner = getattr(module, self.owner) if self.owner else module
        genuine = getattr(owner, self.function)

        def counted(*positional, **named):
            self.reached()
            return genuine(*positional, **named)

        setattr(owner, self.function, counted)


if "HPT_TEST_KILL" in os.environ:
    watch(json.loads(os.environ["HPT_TEST_KILL"]))
