"""Photographs by group, a third of them held out, and the catalogue that extracts them with the demo's teachers."""

from dataclasses import dataclass
from pathlib import Path

from benchmarks.compact.settings import Settings
from demo.collect import collect
from store.common import atomic
from store.errors import InvalidInput

SUFFIXES = (".jpg", ".jpeg", ".png", ".webp")
HELD_OUT = "held_out"  # folder of photographs that are held out
HELD_OUT_EVERY = 3  # without that folder, every third photograph, by name, is held out
TEACHERS = ("lite0", "lite1", "lite2")
SHARD_ROWS = 64


@dataclass(frozen=True, kw_only=True)
class Photographs:
    """The photographs of a group.

    Attributes:
        root: folder that the paths start at.
        train, held_out: relative paths.
    """

    root: Path
    train: tuple[str, ...]
    held_out: tuple[str, ...]


def demo_files(settings: Settings) -> Path:
    """Collect the demo's photographs and weights below the folder of work; return their folder."""
    folder = settings.work / "demo"
    collect(folder)
    return folder


def groups(images: Path) -> dict[str, Photographs]:
    """Return the photographs of each group.

    Args:
        images: one folder a group; photographs below `held_out/GROUP` are held out, else every third of a group.

    Raises:
        InvalidInput: there is no group, or one has too few photographs.
    """
    found: dict[str, Photographs] = {}
    for folder in sorted(path for path in images.iterdir() if path.is_dir() and path.name != HELD_OUT):
        names = _names(folder)
        apart = images / HELD_OUT / folder.name
        if apart.is_dir():
            held_out = [f"{HELD_OUT}/{folder.name}/{name}" for name in _names(apart)]
            train = [f"{folder.name}/{name}" for name in names]
        else:
            held_out = [f"{folder.name}/{name}" for name in names[HELD_OUT_EVERY - 1 :: HELD_OUT_EVERY]]
            train = [f"{folder.name}/{name}" for name in names if f"{folder.name}/{name}" not in held_out]
        if not (train and held_out):
            raise InvalidInput(f"'{folder}' has {len(names)} photographs, expected {HELD_OUT_EVERY} at least")
        found[folder.name] = Photographs(root=images, train=tuple(train), held_out=tuple(held_out))
    if not found:
        raise InvalidInput(f"'{images}' has no folder of photographs. Expected one for each group")
    return found


def write_catalogue(settings: Settings, size: int) -> Path:
    """Write the catalogue of the float16 cache of a size; return its path."""
    demo = demo_files(settings)
    by_group = groups(settings.images or demo / "images")
    folder = settings.work / "catalogues"
    folder.mkdir(parents=True, exist_ok=True)
    parts = [f"[recipe]\nimage_size = {size}\nshard_rows = {SHARD_ROWS}\n"]
    for group, photographs in by_group.items():
        splits = {
            "train": (group, photographs.train, settings.rows),
            "val": (f"{group}-photographs", photographs.held_out, settings.held_out_rows),
        }
        for split, (name, paths, rows) in splits.items():
            atomic.write_text(folder / f"{name}.txt", "".join(f"{path}\n" for path in paths))
            parts.append(
                f'[[dataset]]\nname = "{name}"\ngroup = "{group}"\nroot = "{photographs.root.resolve()}"\n'
                f'list = "{name}.txt"\nsplit = "{split}"\nviews = {-(-rows // len(paths))}\n'
            )
    for number, teacher in enumerate(TEACHERS):
        own = [group for place, group in enumerate(by_group) if place % len(TEACHERS) == number]
        weights = (demo / "weights" / f"efficientnet-{teacher}.pth").resolve()
        parts.append(
            f'[[teacher]]\nname = "{teacher}"\nmodel = "timm:tf_efficientnet_{teacher}"\nweights = "{weights}"\n'
            f"stride = 16\ngroups = {own}\n"
        )
    path = folder / f"{size}.toml"
    atomic.write_text(path, "\n".join(parts))
    return path


def _names(folder: Path) -> list[str]:
    return sorted(path.name for path in folder.iterdir() if path.suffix.lower() in SUFFIXES)
