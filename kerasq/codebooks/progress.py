"""Progress of a compression: a bar on a terminal, plain lines elsewhere."""

from __future__ import annotations

from types import TracebackType

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, Progress, TextColumn, TimeElapsedColumn


class LayerProgress:
    """A bar over the layers, with one line for each finished layer.

    Args:
        total: layers to do.
        show: False prints nothing.
    """

    def __init__(self, total: int, show: bool):
        self._show, self._total, self._done = show, total, 0
        self._console = Console()
        self._bar: Progress | None = None
        if show and self._console.is_terminal:
            self._bar = Progress(
                TextColumn("{task.description}"),
                BarColumn(),
                MofNCompleteColumn(),
                TimeElapsedColumn(),
                console=self._console,
                transient=True,
            )
            self._task = self._bar.add_task("compress", total=total)

    def __enter__(self) -> LayerProgress:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(
        self,
        kind: type[BaseException] | None,
        error: BaseException | None,
        traceback: TracebackType | None,
    ) -> None:
        if self._bar is not None:
            self._bar.stop()

    def start(self, layer: str) -> None:
        """Name the layer at work."""
        if self._bar is not None:
            self._bar.update(self._task, description=layer)

    def detail(self, text: str) -> None:
        """Tell what the layer at work is doing."""
        if self._bar is not None:
            self._bar.update(self._task, description=text)

    def finish(self, line: str) -> None:
        """Count a layer and print its line."""
        self._done += 1
        if self._bar is not None:
            self._bar.advance(self._task)
        self.say(f"[{self._done}/{self._total}] {line}")

    def say(self, line: str) -> None:
        """Print a line."""
        if not self._show:
            return
        if self._bar is not None:
            self._bar.console.print(line, markup=False, highlight=False)
        else:
            print(line, flush=True)
