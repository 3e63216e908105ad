"""Shows frames in a terminal until a key ends it, and leaves the terminal as it was."""

from __future__ import annotations

import contextlib
import os
import select
import signal
import sys
import termios
import time
import tty
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType

from rich.console import Console, Group
from rich.control import Control
from rich.screen import Screen

from gan_dist.config import InputError
from gan_dist.results.watch.frame import compose
from gan_dist.results.watch.text import Abilities, Size
from gan_dist.results.watch.view import View, Watcher

KEYS = b"qQ\x03\x04"  # of the user who wants to leave: q, Ctrl+C, Ctrl+D
POLL_SECONDS = 0.2  # until a new size of the terminal is noticed


def watch(path: Path, interval: float, once: bool) -> None:
    """Show a run until the user leaves; if the output is no terminal that can be redrawn, print one frame.

    Args:
        path: the run folder.
        interval: seconds between two looks at it.
        once: print one frame in any case.

    Raises:
        InputError: the folder does not hold a run that can be read.
    """
    console, watcher = Console(highlight=False, emoji=False), Watcher(path)
    view = watcher.look()
    if view.judged is None:
        raise InputError(view.problem)
    if once or not sys.stdout.isatty() or console.is_dumb_terminal:
        size = Size(console.width, console.height - 1)  # the prompt takes a row
        for line in compose(view, size, abilities_of(console)):
            line.rstrip()
            console.print(line, soft_wrap=True)
        return
    with contextlib.suppress(KeyboardInterrupt), _signals() as check, _keys() as leaves, console.screen():
        _redraw(console, watcher, view, interval, leaves, check)


def abilities_of(console: Console) -> Abilities:
    """What the terminal shows, also by NO_COLOR and TERM."""
    unicode = console.encoding.lower().replace("_", "-").startswith("utf")
    return Abilities(colours=console.color_system is not None and not console.no_color, unicode=unicode)


def _redraw(
    console: Console,
    watcher: Watcher,
    view: View,
    interval: float,
    leaves: Callable[[float], bool],
    check: Callable[[], None],
) -> None:
    """Draw a frame every `interval` seconds and whenever the size changes, until the user leaves."""
    while True:
        due, drawn = time.monotonic() + interval, None
        while (left := due - time.monotonic()) > 0 or drawn is None:
            size = Size(console.width, console.height)
            if size != drawn:
                footer = f"q quits    {time.strftime('%H:%M:%S')}, every {interval:g} s"
                with console:  # one write
                    console.control(Control.home())
                    console.print(Screen(Group(*compose(view, size, abilities_of(console), footer))), end="")
                drawn = size
            if leaves(min(max(left, 0), POLL_SECONDS)):
                return
            check()
        view = watcher.look()


def _wait(seconds: float) -> bool:
    """Without a keyboard: only Ctrl+C ends it."""
    time.sleep(seconds)
    return False


@contextlib.contextmanager
def _keys() -> Iterator[Callable[[float], bool]]:
    """Yields a function that waits for seconds and returns whether the user wants to leave.

    Keys are not echoed and are read at once. Ctrl+Z has no effect: it would leave the terminal like this.
    """
    if not sys.stdin or not sys.stdin.isatty():
        yield _wait
        return
    descriptor = sys.stdin.fileno()
    before = termios.tcgetattr(descriptor)
    try:
        tty.setcbreak(descriptor, termios.TCSANOW)
        changed = termios.tcgetattr(descriptor)
        changed[6][termios.VSUSP] = os.fpathconf(descriptor, "PC_VDISABLE").to_bytes(1, "little")
        termios.tcsetattr(descriptor, termios.TCSANOW, changed)

        def leaves(seconds: float) -> bool:
            ready, _, _ = select.select([descriptor], [], [], seconds)
            if not ready:
                return False
            pressed = os.read(descriptor, 1_024)
            return not pressed or any(key in KEYS for key in pressed)  # nothing: the terminal is gone

        yield leaves
    finally:
        termios.tcsetattr(descriptor, termios.TCSANOW, before)


@contextlib.contextmanager
def _signals() -> Iterator[Callable[[], None]]:
    """Have SIGINT and SIGTERM raise an exception in the block, so that the terminal is restored.

    Yields a function that raises it again: an exception that comes during a destructor or a callback is lost.
    """
    received: list[int] = []

    def check() -> None:
        if received:
            raise KeyboardInterrupt if received[0] == signal.SIGINT else SystemExit(128 + received[0])

    def end(number: int, frame: FrameType | None) -> None:
        received.append(number)
        check()

    before = {number: signal.signal(number, end) for number in (signal.SIGINT, signal.SIGTERM)}
    try:
        yield check
    finally:
        for number, handler in before.items():
            signal.signal(number, handler)
