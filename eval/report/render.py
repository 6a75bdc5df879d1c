"""Pages to HTML: one file with its style, script and pictures inside."""

from importlib.resources import files
from pathlib import Path

from eval.report.blocks import Page


def render(page: Page) -> str:
    """The page as one self-contained HTML document. All text is escaped; only our own charts are inserted as SVG."""
    import jinja2

    folder = files("eval.report")
    environment = jinja2.Environment(autoescape=True, undefined=jinja2.StrictUndefined, trim_blocks=True)
    template = environment.from_string((folder / "page.html").read_text(encoding="utf-8"))
    css, script = ((folder / name).read_text(encoding="utf-8") for name in ("page.css", "page.js"))
    return template.render(page=page, css=css, js=script)


def write(page: Page, directory: Path) -> Path:
    """Write DIRECTORY/index.html, replacing an older one whole."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / "index.html"
    partial = directory / ".index.html.partial"
    partial.write_text(render(page), encoding="utf-8")
    partial.replace(path)
    return path
