"""A page about a run of `compress`: what each layer costs, and how far it is from the float one."""

from __future__ import annotations

import html
import os
from pathlib import Path

from kerasq.codebooks import report_plots
from kerasq.codebooks.report_facts import LayerFacts, Page
from kerasq.files import write_whole


def check_report(path: str | os.PathLike[str]) -> Path:
    """Return the path of a page that can be written, before the work starts.

    Raises:
        ValueError: a folder, or a file in a folder that is not there or cannot be written to.
        ImportError: matplotlib is not installed.
    """
    path = Path(path)
    remedy = "pass the path of an .html file in a folder that you can write to"
    if path.is_dir():
        raise ValueError(f"report={str(path)!r} is a folder: {remedy}")
    if not path.parent.is_dir():
        raise ValueError(f"report={str(path)!r}: there is no folder {str(path.parent)!r}: {remedy}")
    if not os.access(path.parent, os.W_OK) or (path.exists() and not os.access(path, os.W_OK)):
        raise ValueError(f"report={str(path)!r} cannot be written: {remedy}")
    report_plots.load_matplotlib()
    return path


def write_page(path: Path, page: Page) -> None:
    """Write the page, whole or not at all.

    Raises:
        OSError: it cannot be written, such as on a full disk.
    """
    content = _document(page).encode()
    try:
        write_whole(path, content)
    except OSError as error:
        raise OSError(
            error.errno,
            f"cannot write the report ({error.strerror or error}): make room and run again; with "
            "checkpoint_dir no layer is solved twice",
            str(path),
        ) from error


def _document(page: Page) -> str:
    plots = "".join(
        f"<figure><h2>{html.escape(title)}</h2><p>{html.escape(text)}</p>{svg}</figure>"
        for title, text, svg in report_plots.plots(page)
    )
    title = html.escape(f"{page.model}, compressed by {page.method}")
    return (
        f'<!DOCTYPE html><html lang="en"><head><meta charset="utf-8"><title>{title}</title>'
        f'<meta name="viewport" content="width=device-width"><style>{_STYLE}</style></head>'
        f"<body><main><h1>{title}</h1>{_cards(page)}{_arguments(page)}"
        f"<h2>Layers</h2>{_table(page)}{plots}</main></body></html>\n"
    )


def _cards(page: Page) -> str:
    kernels = 4 * sum(layer.weights for layer in page.layers)
    packed = sum(layer.indices + layer.codebooks for layer in page.layers)
    total = sum(layer.stored for layer in page.layers) + page.other_bytes
    bits = 32 * packed / kernels
    cards = [
        (f"{kernels / packed:.1f}×", "smaller kernels", f"{kernels:,} → {packed:,} bytes"),
        (f"{bits:.2f}", "bits per weight", "indices and codebooks, compressed layers"),
        (f"{page.float_bytes / total:.1f}×", "smaller network", f"{total:,} bytes of weights"),
    ]
    if page.accuracy is not None:
        before, after = page.accuracy
        text = f"top-1 of the {page.samples:,} samples given; float {before:.2f} %"
        cards.append((f"{after:.2f} %", f"{after - before:+.2f} points", text))
    body = "".join(
        f"<div><b>{html.escape(value)}</b><span>{html.escape(name)}</span>"
        f"<small>{html.escape(note)}</small></div>"
        for value, name, note in cards
    )
    return f'<section class="cards">{body}</section>'


def _arguments(page: Page) -> str:
    pairs = ", ".join(f"{name}={value!r}" for name, value in page.arguments.items())
    return f'<p class="arguments"><code>{html.escape(f"{page.method}({pairs})")}</code></p>'


def _table(page: Page) -> str:
    heads = ("layer", "settings", "error before", "error after", "indices", "codebooks", "rest")
    heads += ("bytes", "smaller", "use", "seconds")
    rows = "".join(_row(layer) for layer in page.layers)
    sums = [sum(getattr(x, name) for x in page.layers) for name in ("indices", "codebooks", "rest")]
    weights = sum(layer.weights for layer in page.layers)
    seconds = sum(layer.report.seconds for layer in page.layers)
    ratio = 4 * weights / (sums[0] + sums[1])
    foot = ["all of them", "", "", "", *(f"{x:,}" for x in (*sums, sum(sums)))]
    foot += [f"{ratio:.1f}×", "", f"{seconds:.1f}"]
    return (
        '<div class="wide"><table><thead><tr>'
        + "".join(f"<th>{head}</th>" for head in heads)
        + f"</tr></thead><tbody>{rows}</tbody><tfoot>{_cells(foot)}</tfoot></table></div>"
        "<p>Errors are squared, relative to the energy of the layer's responses (of its weights, "
        "where no data was looked at). Rest: the bias. Smaller: the kernel against float32. Use: "
        "entropy of the assignments over that of codewords used alike.</p>"
    )


def _row(layer: LayerFacts) -> str:
    report = layer.report
    errors = (report.solution.error_before, report.solution.error_after)
    use = "–" if layer.entropy is None else f"{layer.entropy:.0%}"
    cells = [layer.name, str(report.settings), *(f"{error:.3%}" for error in errors)]
    cells += [f"{x:,}" for x in (layer.indices, layer.codebooks, layer.rest, layer.stored)]
    spent = f"{report.seconds:.1f}" if report.seconds else "from the checkpoint"
    return _cells([*cells, f"{layer.ratio:.1f}×", use, spent])


def _cells(cells: list[str]) -> str:
    return "<tr>" + "".join(f"<td>{html.escape(cell)}</td>" for cell in cells) + "</tr>"


_STYLE = """
body{margin:0;background:#f6f7f9;color:#1d2733;font:15px/1.5 system-ui,sans-serif}
main{max-width:1100px;margin:0 auto;padding:32px 24px}
h1{font-size:26px;margin:0 0 20px}h2{font-size:18px;margin:32px 0 8px}
p{color:#56616e;margin:8px 0}
.cards{display:grid;grid-template-columns:repeat(auto-fit,minmax(200px,1fr));gap:14px}
.cards div{background:#fff;border:1px solid #e0e4e9;border-radius:10px;padding:14px 18px}
.cards b{display:block;font-size:28px;color:#0b6e8a}.cards span{display:block;font-weight:600}
.cards small,.arguments code{color:#56616e}.arguments{overflow-wrap:anywhere}
.wide{overflow-x:auto;background:#fff;border:1px solid #e0e4e9;border-radius:10px}
table{border-collapse:collapse;width:100%;font-size:13px;font-variant-numeric:tabular-nums}
th,td{padding:6px 12px;text-align:right;white-space:nowrap;border-bottom:1px solid #eceff2}
th:nth-child(-n+2),td:nth-child(-n+2){text-align:left}
thead th{background:#eef1f4}tbody tr:hover{background:#f3f8fa}
tfoot td{font-weight:600;border:0}
figure{margin:24px 0;background:#fff;border:1px solid #e0e4e9;border-radius:10px;
 padding:0 20px 16px}
figure h2{margin-top:16px}figure svg{width:100%;height:auto;display:block}
"""
