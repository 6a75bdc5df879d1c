"""The page's own files as one HTML file with data in it, which works from a disk.

The page's modules import each other; in a file on a disk they cannot, so each becomes a function, in an order in which
all that it imports is there before it. The modules keep to the forms of import and export below.
"""

import json
import re
from pathlib import Path
from typing import Any

from store.errors import InvalidInput

POLICY = (
    "default-src 'none'; img-src data: blob:; style-src 'unsafe-inline'; script-src 'unsafe-inline'; base-uri 'none'"
)
IMPORT = re.compile(r'^import (?:\{ (?P<names>[^}]*) \}|\* as (?P<whole>\w+)) from "\./(?P<module>\w+)\.js";$', re.M)
EXPORT = re.compile(r"^export (?=(?:async )?(?:function|const|class) (?P<name>\w+))", re.M)
FIRST_MODULE = "app"
STATIC = Path(__file__).parent / "static"


def one_file(data: dict[str, Any], static: Path) -> str:
    """Return index.html with style, modules and data in it.

    Args:
        data: what api.js finds in the file.
        static: folder of the page's own files.

    Raises:
        InvalidInput: they are not those of this version.
    """
    text = json.dumps(data, allow_nan=False).replace("<", "\\u003c")  # no name can end the element
    page = (static / "index.html").read_text()
    meta, style = '<meta charset="utf-8">', (static / "style.css").read_text()
    scripts = f'<script type="application/json" id="offline">{text}</script>\n<script>{bundle(static)}</script>'
    replaced = {
        '<link rel="stylesheet" href="static/style.css">': f"<style>{style}</style>",
        '<script type="module" src="static/app.js"></script>': "",
        meta: f'{meta}\n  <meta http-equiv="Content-Security-Policy" content="{POLICY}">',
        "</body>": f"{scripts}\n</body>",
    }
    for old, new in replaced.items():
        if page.count(old) != 1:
            raise InvalidInput(f"the page's index.html has no '{old}'. Install codistill again")
        page = page.replace(old, new)
    return page


def bundle(static: Path) -> str:
    """Return the page's modules as one script that imports nothing."""
    sources: dict[str, str] = {}

    def add(module: str) -> None:
        if module in sources:
            return
        text = (static / f"{module}.js").read_text()
        for found in IMPORT.finditer(text):
            add(found["module"])
        names = ", ".join(found["name"] for found in EXPORT.finditer(text))
        body = EXPORT.sub("", IMPORT.sub(_local, text))
        sources[module] = f"modules.{module} = (() => {{\n{body}\nreturn {{ {names} }};\n}})();"

    add(FIRST_MODULE)
    return "\n".join(['"use strict";', "const modules = {};", *sources.values()])


def _local(found: re.Match[str]) -> str:
    return f"const {found['whole'] or '{ ' + found['names'] + ' }'} = modules.{found['module']};"
