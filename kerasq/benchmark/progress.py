"""Progress on a terminal, on standard error: tables on standard output stay clean."""

from __future__ import annotations

import contextlib
import os
import time
from collections.abc import Callable, Iterator
from typing import Any

from rich.console import Console

# A copy of the descriptor: the converter's chatter is kept away by redirecting the original.
console = Console(file=os.fdopen(os.dup(2), "w", buffering=1))


@contextlib.contextmanager
def stage(text: str, animated: bool = True) -> Iterator[Callable[[str], None]]:
    """Show what is being done, and how long it took when it is done.

    Args:
        text: what is done, as a phrase.
        animated: False where the work shows a progress bar of its own: two would quarrel.

    Yields:
        A function that shows a detail beside the text.
    """
    start = time.perf_counter()
    if animated and console.is_terminal:
        with console.status(text) as status:
            yield lambda detail: status.update(f"{text}: {detail}")
    else:
        if not animated:
            console.print(text)
        yield lambda detail: None
    console.print(f"[green]done[/] {text} ({time.perf_counter() - start:.1f} s)", highlight=False)


def epoch_callback(show: Callable[[str], None], epochs: int) -> Any:
    """Return a Keras callback that shows epoch, loss and accuracy."""
    from kerasq.keras import keras

    def on_epoch_end(epoch: int, logs: dict[str, float] | None = None) -> None:
        figures = ", ".join(f"{name} {value:.3f}" for name, value in (logs or {}).items())
        show(f"epoch {epoch + 1}/{epochs}, {figures}")

    return keras.callbacks.LambdaCallback(on_epoch_end=on_epoch_end)
