"""Model card of an exported student: front matter that the Hugging Face hub reads, and a page for people."""

import json
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field

from train.export.licences import NOT_KNOWN, OTHER, HubLicence, Licence, for_student
from train.export.onnx_model import CHECKED_BATCHES, TOLERANCE
from train.model.encoder import Encoder, has_cls
from train.run import headline

TAGS = (
    "timm",
    "image-feature-extraction",
    "vision-transformer",
    "knowledge-distillation",
    "multi-teacher",
    "codistill",
)
RANDOM_TAG = "random-weights"
UNKNOWN = "unknown"


@dataclass(frozen=True, kw_only=True)
class TeacherFacts:
    """A teacher on a card.

    Attributes:
        name: its name in the cache.
        text: what identifies it.
        licence: licence of its weights.
        hub_models: models on the hub that it is.
        random: `random weights, seed 0`; empty for weights of a file.
    """

    name: str
    text: str
    licence: Licence = NOT_KNOWN
    hub_models: Sequence[str] = ()
    random: str = ""


@dataclass(frozen=True, kw_only=True)
class DatasetFacts:
    """A training dataset on a card.

    Attributes:
        name: its name in the cache.
        group: its group.
        rows: rows trained on.
        licence: licence of its images.
        hub_id: dataset on the Hugging Face hub that it is, as the user said; empty if it is not known to be one.
    """

    name: str
    group: str
    rows: int
    licence: Licence = NOT_KNOWN
    hub_id: str = ""


@dataclass(frozen=True, kw_only=True)
class CardFacts:
    """Facts of a model card beside the architecture.

    Attributes:
        name: name of the model.
        recipe: name of the run's recipe.
        steps: optimizer steps done.
        batch: images of a step; 0 if unknown.
        teachers: teachers, also of the student that training began with.
        datasets: training datasets, also of the student that training began with.
        starts: other weights that training began with -> their licence.
        fidelity: held-out dataset -> teacher -> patch cosine.
        recipe_json: complete recipe; empty if there is none.
    """

    name: str
    recipe: str
    steps: int
    batch: int = 0
    teachers: Sequence[TeacherFacts]
    datasets: Sequence[DatasetFacts]
    starts: Mapping[str, Licence] = field(default_factory=dict)
    fidelity: Mapping[str, Mapping[str, float]] = field(default_factory=dict)
    recipe_json: str = ""

    @property
    def licences(self) -> list[tuple[str, Licence]]:
        """(what, licence) of everything that the student was made of."""
        return [
            *((f"teacher {teacher.name}", teacher.licence) for teacher in self.teachers),
            *((f"data {dataset.name}", dataset.licence) for dataset in self.datasets),
            *((f"start {name}", licence) for name, licence in self.starts.items()),
        ]

    @property
    def hub_licence(self) -> HubLicence:
        """Licence fields that follow for the student."""
        return for_student([licence for _, licence in self.licences])

    @property
    def random_teachers(self) -> list[TeacherFacts]:
        """Teachers that had random weights."""
        return [teacher for teacher in self.teachers if teacher.random]


def model_card(encoder: Encoder, facts: CardFacts, *, image_size: int, onnx: bool = False) -> str:
    """Return the card in Markdown: front matter, the model, its use, scores, origin, licences and limits."""
    parameters = sum(parameter.numel() for parameter in encoder.parameters())
    return f"""{front_matter(facts)}
# {facts.name}
{_warnings(facts)}
A vision transformer distilled from {len(facts.teachers)} teachers with codistill ({parameters / 1e6:.1f} M parameters,
{encoder.embed_dim} channels, patch {encoder.patch_size}, made for {image_size} x {image_size} px).

## Use

{_use(encoder, image_size=image_size, onnx=onnx)}
## Fidelity to its teachers

{_scores(facts)}
## Origin

Recipe `{facts.recipe}`, {facts.steps:,} steps{f" of {facts.batch} images" if facts.batch else ""}.

{_origin(facts)}
## Licences

{_licences(facts)}
## Limits

- The final norm was never trained; it only rescales, and downstream heads usually do better with it.
- Another image size needs the position embedding resampled by DUNE's rule (export again with that size); timm's
  `dynamic_img_size` uses another rule and gives other features.
- It inherits the errors of its teachers and of their training images.
{_recipe(facts)}"""


def front_matter(facts: CardFacts) -> str:
    """Return the YAML between `---` lines; strings are quoted as JSON, which YAML contains."""
    licence = facts.hub_licence
    fields: dict[str, str | Sequence[str]] = {"license": licence.license}
    if licence.license == OTHER:
        fields |= {"license_name": licence.license_name, "license_link": "LICENSE.md"}
    fields |= {
        "library_name": "timm",
        "pipeline_tag": "image-feature-extraction",
        "tags": [*TAGS, *([RANDOM_TAG] if facts.random_teachers else [])],
        "datasets": sorted({dataset.hub_id for dataset in facts.datasets if dataset.hub_id}),
        "base_model": sorted({model for teacher in facts.teachers for model in teacher.hub_models}),
    }
    return "\n".join(["---", *_yaml(fields), "---"])


def licence_file(facts: CardFacts) -> str:
    """Return the text of `LICENSE.md`, which a card with the licence "other" links to; empty for other cards."""
    if facts.hub_licence.license != OTHER:
        return ""
    return f"# Licences that apply to {facts.name}\n\n{_licences(facts)}"


def _yaml(fields: Mapping[str, str | Sequence[str]]) -> Iterator[str]:
    for name, value in fields.items():
        if isinstance(value, str):
            yield f"{name}: {_quoted(value)}"
        elif value:
            yield f"{name}:"
            yield from (f"- {_quoted(item)}" for item in value)


def _quoted(text: str) -> str:
    plain = text.replace("-", "").replace("_", "").replace("/", "").replace(".", "")
    simple = plain.isalnum() and plain.isascii() and not plain.isdecimal()
    reserved = text.lower() in ("true", "false", "null", "yes", "no", "on", "off", "y", "n", "nan", "inf")
    return text if simple and text[0].isalpha() and not reserved else json.dumps(text, ensure_ascii=False)


def _warnings(facts: CardFacts) -> str:
    lines = []
    if facts.random_teachers:
        names = ", ".join(f"{_text(teacher.name)} ({teacher.random})" for teacher in facts.random_teachers)
        lines.append(
            f"\n> **WARNING: RANDOM WEIGHTS.** The teachers {names} were never trained. This student was made to try a "
            "pipeline; its features mean nothing. Do not publish or use it as a model.\n"
        )
    forbidden = [what for what, licence in facts.licences if licence.non_commercial]
    if forbidden:
        lines.append(
            f"\n> **Not for commercial use**: {_text(', '.join(forbidden))} may be used for non-commercial purposes "
            "only. See Licences.\n"
        )
    return "".join(lines)


def _use(encoder: Encoder, *, image_size: int, onnx: bool) -> str:
    patches = (image_size // encoder.patch_size) ** 2
    order = ["CLS"] * has_cls(encoder) + [f"{encoder.register_tokens} registers"] * bool(encoder.register_tokens)
    in_onnx = f"""
`model.onnx` takes `images` (any number of them, {image_size} x {image_size} px) and gives both as `tokens` and
`patches`; before it was written its output was compared with PyTorch's on noise, in batches of
{", ".join(map(str, CHECKED_BATCHES))} images: no value differs by more than {TOLERANCE:g} of the largest.
"""
    return f"""```python
import timm, torch
model = timm.create_model("local-dir:PATH_OF_THIS_FOLDER", pretrained=True).eval()
images = torch.zeros(1, 3, {image_size}, {image_size})  # RGB in [0, 1], minus mean, over std of config.json
tokens = model.forward_features(images)  # {", ".join([*order, f"{patches} patches"])}; after the final norm
raw = model.forward_intermediates(images, indices=1, norm=False, output_fmt="NLC", intermediates_only=True)[0]
```

`raw` are the patches before the final norm, on which the student was trained to match its teachers. The same model is
`torch.hub.load("PATH_OF_THIS_FOLDER", "student", source="local")`, and once uploaded
`timm.create_model("hf-hub:OWNER/NAME", pretrained=True)`.
{in_onnx if onnx else ""}"""


def _scores(facts: CardFacts) -> str:
    if not facts.fidelity:
        return "Not measured.\n"
    names = list(dict.fromkeys(name for values in facts.fidelity.values() for name in values))
    lines = [f"| held-out dataset | {' | '.join(map(_cell, names))} |", f"|---|{'---|' * len(names)}"]
    for dataset, values in facts.fidelity.items():
        cells = [f"{values[name]:.4f}" if name in values else "" for name in names]
        lines.append(f"| {_cell(dataset)} | {' | '.join(cells)} |")
    return "\n".join([*lines, "", headline.DEFINITION, ""])


def _origin(facts: CardFacts) -> str:
    lines = ["| teacher | network |", "|---|---|"]
    for teacher in facts.teachers:
        random = f"**{teacher.random.upper()}**, " if teacher.random else ""
        lines.append(f"| {_cell(teacher.name)} | {random}{_cell(teacher.text)} |")
    lines += ["", "| training data | group | rows |", "|---|---|---|"]
    lines += [f"| {_dataset(data)} | {_cell(data.group)} | {data.rows:,} |" for data in facts.datasets]
    if facts.starts:
        lines += ["", f"It began with the weights of {_text(', '.join(facts.starts))}."]
    return "\n".join([*lines, ""])


def _dataset(data: DatasetFacts) -> str:
    on_hub = f" ([{_cell(data.hub_id)}](https://huggingface.co/datasets/{data.hub_id}))" if data.hub_id else ""
    return _cell(data.name) + on_hub


def _licences(facts: CardFacts) -> str:
    lines = ["| what | licence |", "|---|---|"]
    for what, licence in facts.licences:
        title = _cell(licence.title) if licence.known else f"**{UNKNOWN}**"
        linked = f"[{title}]({licence.link})" if licence.link else title
        lines.append(f"| {_cell(what)} | {linked}{f' ({_cell(licence.of)})' if licence.of else ''} |")
    unknown = [what for what, licence in facts.licences if not licence.known]
    remarks = [
        "",
        "The student's weights come from all of these; whoever passes them on must keep to each. Teachers are known by "
        "their architecture; weights that somebody fine-tuned may have another licence.",
    ]
    if unknown:
        remarks.append(
            f"Nothing is recorded of {_text(', '.join(unknown))}: find out before you publish, and export again with "
            "`--licences NAME=LICENCE`."
        )
    return "\n".join([*lines, *remarks, ""])


def _recipe(facts: CardFacts) -> str:
    if not facts.recipe_json:
        return ""
    fence = "```"
    return f"\n<details><summary>Recipe</summary>\n\n{fence}json\n{facts.recipe_json.strip()}\n{fence}\n\n</details>\n"


def _text(text: str) -> str:
    """Return a name without what Markdown or HTML would take for theirs."""
    safe = "".join(character if character.isprintable() else " " for character in text)
    return safe.replace("<", "&lt;").replace("`", "'")


def _cell(text: str) -> str:
    return _text(text).replace("|", "\\|")
