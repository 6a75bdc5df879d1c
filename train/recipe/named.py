"""Named recipes: functions that return a complete `Recipe`. DUNE's follow its released code."""

from pathlib import Path

from store.common import strict_json
from store.common.config import near_miss, read_toml
from store.errors import Damaged, InvalidConfig, InvalidInput, MissingFile
from train.recipe.config import (
    Checkpoint,
    Data,
    Log,
    Optim,
    Projector,
    Recipe,
    Schedule,
    Sharing,
    Start,
    Student,
    flattened,
    from_mapping,
    overridden,
)


def dune_base_336() -> Recipe:
    """DUNE's first stage: ViT-B/14 at 336 px, three transformer projectors, 128 M images."""
    return Recipe(name="dune-base-336", student=Student(image_size=336))


def dune_base_448() -> Recipe:
    """DUNE's second stage: the ViT-B of the first, fine-tuned at 448 px on a second cache."""
    return Recipe(
        name="dune-base-448",
        student=Student(image_size=448),
        optim=Optim(lr=5e-5),
        schedule=Schedule(epochs=50),
        start=Start(required=True),
    )


def dune_small_336() -> Recipe:
    """The released small student: ViT-S/14 at 336 px."""
    return Recipe(name="dune-small-336", student=Student(architecture="small", image_size=336))


def demo() -> Recipe:
    """A ViT of six narrow blocks at 112 px that learns from 16 photographs on two CPU cores in minutes.

    LayerScale starts at 1: from the released 1e-4 the blocks would still be growing when these few steps are over.
    float32, because bf16 is thirty times as slow on processors without instructions for it.
    """
    return Recipe(
        name="demo",
        student=Student(architecture="tiny", depth=6, image_size=112, registers=0, layer_scale=1.0),
        projector=Projector(layer_scale=1.0),
        optim=Optim(lr=8e-3, precision="fp32"),
        schedule=Schedule(steps=400, warmup=0.1),
        data=Data(batch=32, val_rows=128),
        checkpoint=Checkpoint(every_steps=100, keep=2),
        log=Log(fidelity_every_steps=100),
    )


def tiny() -> Recipe:
    """Two small blocks and a few steps on any cache, for tests and for trying out flags."""
    return Recipe(
        name="tiny",
        student=Student(architecture="tiny", embed_dim=32, depth=2, num_heads=2, registers=1, layer_scale=1.0),
        projector=Projector(layer_scale=1.0),
        sharing=Sharing(drop_probability=0.5),
        optim=Optim(lr=2e-2, precision="fp32"),
        schedule=Schedule(steps=12),
        data=Data(batch=6, val_rows=4),
        checkpoint=Checkpoint(every_steps=4),
        log=Log(fidelity_every_steps=6, tensorboard=False),
    )


RECIPES = {
    "dune-base-336": dune_base_336,
    "dune-base-448": dune_base_448,
    "dune-small-336": dune_small_336,
    "demo": demo,
    "tiny": tiny,
}


def find(name: str) -> Recipe:
    """Return the recipe of a name or of a file.

    Args:
        name: a name in `RECIPES`, or the path of a `.json` or `.toml` file. A file may leave values out; a top-level
            `base = "dune-base-336"` then names the recipe that they come from.

    Raises:
        InvalidInput: no recipe has this name; the nearest is suggested.
        InvalidConfig: listing every problem of a file.
        MissingFile: the file does not exist.
    """
    if name.endswith((".json", ".toml")):
        return _from_file(Path(name))
    if name not in RECIPES:
        raise InvalidInput(
            f"unknown recipe '{name}'{near_miss(name, RECIPES)}. Choose one of: {', '.join(RECIPES)}; "
            "or give a .toml or .json file"
        )
    return RECIPES[name]()


def _from_file(path: Path) -> Recipe:
    subject = f"recipe '{path}'"
    if path.suffix == ".toml":
        data = read_toml(path, subject=subject)
    else:
        try:
            data = strict_json.parse_object(path.read_bytes(), where="it")
        except OSError as error:
            raise MissingFile(f"{subject}: cannot read it ({error.strerror})") from None
        except Damaged as error:
            raise InvalidConfig(subject, [str(error)]) from None
    base = data.pop("base", None)
    if base is None:
        return from_mapping(data, subject=subject)
    if not isinstance(base, str) or base not in RECIPES:
        raise InvalidConfig(subject, [f"base: unknown recipe '{base}'{near_miss(str(base), RECIPES)}"])
    return overridden(RECIPES[base](), {"name": path.stem, **dict(flattened(data))}, subject=subject)
