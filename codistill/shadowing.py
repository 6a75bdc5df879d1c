"""Find files that hide codistill's packages: `train.py` in the working directory hides `train` from `python -m`."""

import importlib.util
from pathlib import Path

PACKAGES = ("backbones", "eval", "extract", "store", "train")
INSTALLED = Path(__file__).resolve().parent.parent


class ShadowedPackage(ImportError):
    """Another module has the name of one of codistill's packages and comes before it on the import path."""


def refuse_shadowed_packages() -> None:
    """Check that importing each of codistill's packages gives codistill's own.

    Raises:
        ShadowedPackage: naming every file or folder that would be imported instead.
    """
    hiding = {name: path for name in PACKAGES if (path := _importable_from(name)) != INSTALLED / name}
    if not hiding:
        return
    problems = [
        f"'{path}' hides codistill's package '{name}'" if path else f"codistill's package '{name}' cannot be imported"
        for name, path in hiding.items()
    ]
    exits = "Rename it, start codistill from another directory, or take its directory out of PYTHONPATH"
    raise ShadowedPackage(f"{'; '.join(problems)}. {exits}")


def _importable_from(name: str) -> Path | None:
    """Return the file or folder that `import name` takes: the folder of a package, without symbolic links."""
    try:
        spec = importlib.util.find_spec(name)
    except ValueError:  # a module without a spec, made by hand
        return None
    if spec is None:
        return None
    if spec.submodule_search_locations is not None:
        return next((Path(folder).resolve() for folder in spec.submodule_search_locations), None)
    return Path(spec.origin).resolve() if spec.origin else None
