"""Write the catalogue page from the registry, the docstrings and the live code.

Type ``make docs``. The page and its plots lie beside this file; a test compares the page with what
this would write.
"""

from __future__ import annotations

import argparse
import inspect
import re
from pathlib import Path
from typing import Any

import numpy as np
import tensorflow as tf

import kerasq.layers as ql
from kerasq import quantizers

HERE = Path(__file__).resolve().parent
INTRODUCTION = """# The catalogue

Every method below is asked for by its name, as a config (`{"class_name": "lsq", "config": {"bits":
4}}`), as a class or as an instance, in any of the front ends. `bits` is the range of bits per
value; *stored as* names the representation in the exported file. The plots are drawn by the code
itself: the values of a tensor that holds -2 ... 2 evenly, and the gradient that reaches it when 1
arrives at the values.

This page is generated (`make docs`): do not edit it.
"""


def page() -> str:
    """Return the whole page, Markdown."""
    entries = {**quantizers.catalogue(), **ql.catalogue()}
    names = sorted(entries)
    index = ["| method | quantizes | bits | stored as | learns | paper |", "|---|" + 5 * "---|"]
    index += [_row(entries[name]) for name in names]
    parts = [INTRODUCTION, "\n".join(index), *(_entry(entries[name]) for name in names)]
    return "\n\n".join(part.strip() for part in parts) + "\n"


def _is_layer(entry: Any) -> bool:
    return isinstance(entry, ql.Entry)


def _row(entry: Any) -> str:
    if _is_layer(entry):
        kind, bits, learns = f"({entry.role})", "", ""
    else:
        low, high = entry.bits
        kind, bits = entry.target, f"{low}" if low == high else f"{low}–{high}"
        learns = "yes" if entry.learnable else ""
    stored = entry.representation if entry.representation != "-" else ""
    link = f"[`{entry.name}`](#{entry.name})"
    return f"| {link} | {kind} | {bits} | {stored} | {learns} | {_paper(entry)} |"


def _paper(entry: Any) -> str:
    if re.fullmatch(r"\d{4}\.\d{4,5}", entry.arxiv):
        return f"[{entry.paper}](https://arxiv.org/abs/{entry.arxiv})"
    return entry.paper


def _entry(entry: Any) -> str:
    body = [f"## {entry.name}", f"`{entry.cls.__name__}`: {_text(entry.cls)}"]
    if has_plot(entry):
        body.append(f"![values and gradient of {entry.name}](plots/{entry.name}.png)")
    body.append(f"```python\n{_usage(entry)}\n```")
    return "\n\n".join(body)


def _text(cls: type) -> str:
    """Return a docstring as Markdown: sections in bold, arguments as a list."""
    paragraphs = inspect.cleandoc(cls.__doc__ or "").replace("``", "`").split("\n\n")
    return "\n\n".join(_paragraph(paragraph) for paragraph in paragraphs)


def _paragraph(text: str) -> str:
    label = re.match(r"(Forward|Gradient|Paper|Deviations)[:,]", text)
    if label:
        return f"**{label[0]}**{text.removeprefix(label[0])}"
    heading, _, rest = text.partition("\n")
    if heading in ("Args:", "Raises:"):
        items = re.split(r"\n(?=\S)", inspect.cleandoc(rest))
        lines = [" ".join(item.split()) for item in items]
        return f"**{heading}**\n\n" + "\n".join(f"- {_argument(line)}" for line in lines)
    return text


def _argument(line: str) -> str:
    name, colon, rest = line.partition(":")
    return f"`{name}`:{rest}" if colon and " " not in name else line


def _usage(entry: Any) -> str:
    """Return how to ask for a method in each front end."""
    if _is_layer(entry):
        required = [
            p.name
            for p in list(inspect.signature(entry.cls.__init__).parameters.values())[1:]
            if p.default is p.empty and p.kind is p.POSITIONAL_OR_KEYWORD
        ]
        examples = {"filters": "64", "kernel_size": "3"}
        arguments = ", ".join(examples.get(name, name) for name in required)
        return f"kerasq.layers.{entry.cls.__name__}({arguments})"
    if entry.target == "gradients":
        return (
            f'x = keras.layers.Conv2D(64, 3)(x)\nx = kerasq.quantizers.get("{entry.name}")(x)'
            "  # a layer: it quantizes what comes back"
        )
    uses = {
        "weights": [("kernel_quantizer", "weight")],
        "activations": [("input_quantizer", "activation")],
    }
    uses["both"] = uses["weights"] + uses["activations"]
    ours = ", ".join(f'{layer}="{entry.name}"' for layer, _ in uses[entry.target])
    tfmot = ", ".join(f'{config}="{entry.name}"' for _, config in uses[entry.target])
    return "\n".join(
        [
            f"kerasq.layers.QuantConv2D(64, 3, {ours})",
            f"larq.layers.QuantConv2D(64, 3, {ours})",
            f"quantize_annotate_layer(keras.layers.Conv2D(64, 3), QuantizeConfig({tfmot}))",
        ]
    )


def has_plot(entry: Any) -> bool:
    """Tell whether a method is a function of one value that can be drawn."""
    return not _is_layer(entry)


def curves(name: str) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """Return x, the values, and the gradient, of a quantizer with its defaults."""
    x = np.linspace(-2, 2, 1001, dtype=np.float32)
    # Gradients have a scale for each sample: all of x is one.
    x = x[None] if quantizers.catalogue()[name].target == "gradients" else x[:, None]
    quantizer = quantizers.get(name)
    if quantizers.catalogue()[name].target == "both":
        quantizer = quantizers.for_use(quantizer, "weights")
    inputs = tf.constant(x)
    with tf.GradientTape() as tape:
        tape.watch(inputs)
        values = quantizer(inputs)
    upstream = tf.ones_like(inputs)
    if quantizers.catalogue()[name].target == "gradients":
        upstream = tf.constant(x)
    gradient = tape.gradient(values, inputs, output_gradients=upstream)
    return x.ravel(), values.numpy().ravel(), gradient.numpy().ravel()


def draw(name: str, path: Path) -> None:
    """Draw values and gradient of a quantizer side by side."""
    import matplotlib

    matplotlib.use("Agg")
    from matplotlib import pyplot

    x, values, gradient = curves(name)
    figure, axes = pyplot.subplots(1, 2, figsize=(6.4, 2.4), layout="constrained")
    axes[0].plot(x, x, color="0.85", linewidth=1)
    titles = ("value", "gradient")
    if quantizers.catalogue()[name].target == "gradients":
        titles = ("value", "gradient of gradient")
    for axis, y, title in zip(axes, (values, gradient), titles, strict=True):
        axis.plot(x, y, linewidth=1.2)
        axis.set_title(f"{name}: {title}", fontsize=9)
        axis.tick_params(labelsize=7)
        axis.grid(color="0.93")
        axis.set_axisbelow(True)
    figure.savefig(path, dpi=80, metadata={"Software": None})
    pyplot.close(figure)


def main() -> None:
    """Write the page and the plots."""
    parser = argparse.ArgumentParser(description="Write the catalogue page.")
    parser.add_argument("--out", type=Path, default=HERE, help="folder of the page")
    out = parser.parse_args().out
    (out / "plots").mkdir(parents=True, exist_ok=True)
    (out / "catalogue.md").write_text(page())
    for name, entry in quantizers.catalogue().items():
        if has_plot(entry):
            draw(name, out / "plots" / f"{name}.png")


if __name__ == "__main__":
    main()
