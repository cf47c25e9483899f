"""One line on the terminal that shows how far long work is; on a log file, a line now and then."""

from __future__ import annotations

import sys
import time


def clock(seconds: float) -> str:
    """Seconds as m:ss or h:mm:ss."""
    minutes, rest = divmod(int(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02}:{rest:02}" if hours else f"{minutes}:{rest:02}"


class Progress:
    """Writes to standard error; silent where nobody asked for it."""

    def __init__(self, shown: bool = True) -> None:
        self.shown = shown
        self._terminal = sys.stderr.isatty()
        self._every = 0.2 if self._terminal else 30.0
        self._last = time.monotonic() - self._every + 1.0  # nothing for what takes less than a second
        self._open = False

    def _write(self, line: str, final: bool) -> None:
        now = time.monotonic()
        if not self.shown or (now - self._last < self._every and not (final and self._open)):
            return
        self._last = now
        if self._terminal:
            sys.stderr.write(f"\r\x1b[K{line}" + ("\n" if final else ""))
            self._open = not final
        else:
            sys.stderr.write(line + "\n")
        sys.stderr.flush()

    def part(self, what: str, done: int, of: int) -> None:
        """Progress of work that has a known size."""
        self._write(f"{what}  {done:,} / {of:,}", done >= of)

    def step(self, done: int, of: int, loss: float, rate: float, wait: float, pace: float) -> None:
        """Progress of training: step, loss, samples a second, share of time spent waiting for data, time left."""
        left = clock((of - done) * pace)
        self._write(
            f"step {done:,} / {of:,}  loss {loss:.4f}  {rate:,.0f} samples/s  data wait {wait:.0%}  {left} left",
            done >= of,
        )

    def say(self, line: str) -> None:
        """A line that stays."""
        if self.shown:
            sys.stderr.write(("\r\x1b[K" if self._open else "") + line + "\n")
            sys.stderr.flush()
            self._open = False
