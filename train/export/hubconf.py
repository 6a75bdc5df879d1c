"""`hubconf.py` of an exported folder: the entry points that `torch.hub.load(FOLDER, ..., source="local")` finds."""

TEXT = '''"""torch.hub entry points of NAME; they need torch and timm, and no codistill.

import torch
model = torch.hub.load("FOLDER", "student", source="local").eval()
transform = torch.hub.load("FOLDER", "transform", source="local")
"""

from pathlib import Path

dependencies = ["torch", "timm"]
FOLDER = Path(__file__).resolve().parent


def student(pretrained=True, **options):
    """Return the student as a timm model; `options` are those of `timm.create_model`."""
    import timm

    return timm.create_model(f"local-dir:{FOLDER}", pretrained=pretrained, **options)


def transform():
    """Return the function that prepares a PIL image for the student: (3, H, W), normalised."""
    import json

    import timm

    config = json.loads((FOLDER / "config.json").read_text(encoding="utf-8"))["pretrained_cfg"]
    return timm.data.create_transform(**timm.data.resolve_data_config(pretrained_cfg=config))
'''


def hubconf(name: str) -> str:
    """Return the text of `hubconf.py` for a model of this name; the name is a comment in it, and nothing else."""
    plain = "".join(character for character in name if character.isalnum() or character in " -_.") or "a student"
    return TEXT.replace("NAME", plain, 1)
