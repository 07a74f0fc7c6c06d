"""Pages of one HTML file that need no network: template, style, scripts and data in one text."""

import json
from pathlib import Path
from typing import Any

import jinja2
from plotly.offline import get_plotlyjs

PARTS = Path(__file__).parent / "html"


def rendered(page: str, data: Any, **values: Any) -> str:
    """The text of `page`, html/<page>.html in frame.html, with <page>.js; data: JSON for it."""

    def read(name: str) -> str:
        return (PARTS / name).read_text(encoding="utf-8")

    environment = jinja2.Environment(autoescape=True, loader=jinja2.FileSystemLoader(PARTS))
    return environment.get_template(f"{page}.html").render(
        css=read("page.css"),
        script=read("common.js") + read(f"{page}.js"),
        plotly=get_plotlyjs(),
        data=json.dumps(data, allow_nan=False, separators=(",", ":")).replace("<", "\\u003c"),
        **values,
    )
