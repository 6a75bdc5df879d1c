"""Licences of teachers and data, and the one that follows for a student of them.

What is known: DUNE's teachers by their architecture, timm's models by timm's own table. Everything else is unknown
until `train export --licences NAME=LICENCE` says it; a licence is never guessed.
"""

import re
from collections.abc import Mapping, Sequence
from dataclasses import dataclass

from store import TeacherInfo

PERMISSIVE = ("apache-2.0", "mit", "bsd-2-clause", "bsd-3-clause", "cc0-1.0", "unlicense")
ATTRIBUTION = ("cc-by-3.0", "cc-by-4.0")
RESTRICTIVE = (
    "cc-by-sa-4.0",
    "cc-by-nc-4.0",
    "cc-by-nc-sa-3.0",
    "cc-by-nc-sa-4.0",
    "cc-by-nc-nd-4.0",
    "odbl",
    "gpl-3.0",
)
HUB_LICENCES = (*PERMISSIVE, *ATTRIBUTION, *RESTRICTIVE)  # as the hub spells them; others are "other" and a name
OTHER = "other"
NON_COMMERCIAL = re.compile(r"non-?\s?commercial|\bnc\b", re.IGNORECASE)
DINO_HUB_SIZES = {384: "small", 768: "base", 1024: "large", 1536: "giant"}  # channels -> size in the names on the hub


@dataclass(frozen=True, kw_only=True)
class Licence:
    """Licence of one teacher or dataset.

    Attributes:
        title: name for people; empty if unknown.
        of: what has it, such as "published weights of MASt3R, DUSt3R and CroCo"; empty if the user said it.
        link: address of its text; empty if unknown.
    """

    title: str = ""
    of: str = ""
    link: str = ""

    @property
    def known(self) -> bool:
        """Whether anything is known."""
        return bool(self.title)

    @property
    def hub_name(self) -> str:
        """The hub's identifier, such as `cc-by-nc-sa-4.0`; `OTHER` if it has none."""
        spelt = self.title.partition(",")[0].strip().lower().replace(" ", "-")
        return spelt if spelt in HUB_LICENCES else OTHER

    @property
    def non_commercial(self) -> bool:
        """Whether it forbids commercial use, as far as its name says so."""
        return bool(NON_COMMERCIAL.search(self.title.replace("-", " ") + " " + self.title))


NOT_KNOWN = Licence()
APACHE = "Apache-2.0"
CC_NAVER = Licence(
    title="CC BY-NC-SA 4.0, non-commercial",
    of="published weights of MASt3R, DUSt3R and CroCo",
    link="https://creativecommons.org/licenses/by-nc-sa/4.0/",
)
MULTIHMR = Licence(
    title="NAVER Multi-HMR licence, non-commercial",
    of="published weights of Multi-HMR",
    link="https://github.com/naver/multi-hmr/blob/main/Multi-HMR_License.txt",
)
DINOV2 = Licence(
    title=APACHE, of="published weights of DINOv2", link="https://github.com/facebookresearch/dinov2/blob/main/LICENSE"
)


@dataclass(frozen=True, kw_only=True)
class HubLicence:
    """The licence fields of a card's front matter.

    Attributes:
        license: identifier of the hub, or "other".
        license_name: short name, for "other" only.
    """

    license: str
    license_name: str = ""


def of_teacher(teacher: TeacherInfo) -> Licence:
    """Return the licence of the published weights of a teacher's network, unknown for a network of somebody's own.

    A teacher is recognised by the architecture in its identity: Multi-HMR's is DINOv2's without the CLS token.
    """
    if teacher.random_weights:
        return Licence(title=APACHE, of="random weights, which are nobody's work")
    name = _architecture(teacher).get("name")
    if name == "croco_encoder":
        return CC_NAVER
    if name == "dinov2":
        return DINOV2 if teacher.prefix_tokens else MULTIHMR
    licences = sorted({licence for licence, _ in _timm_entries(name)})
    if not licences:
        return NOT_KNOWN
    title = licences[0] if len(licences) == 1 else ""
    alternatives = f"weights of timm's {name}" if title else f"timm's weights of {name}: {' or '.join(licences)}"
    return Licence(title=_title(title), of=alternatives)


def hub_models(teacher: TeacherInfo) -> list[str]:
    """Return the models on the Hugging Face hub that a teacher is, for `base_model`; none if that is not certain."""
    architecture = _architecture(teacher)
    if teacher.random_weights:
        return []
    if architecture.get("name") == "dinov2" and teacher.prefix_tokens:
        size = DINO_HUB_SIZES.get(teacher.channels)
        registers = "with-registers-" if architecture.get("register_tokens") else ""
        return [f"facebook/dinov2-{registers}{size}"] if size else []
    models = sorted({model for _, model in _timm_entries(architecture.get("name")) if model})
    return models if len(models) == 1 else []


def for_student(licences: Sequence[Licence]) -> HubLicence:
    """Return the licence that a student may be given: the strictest of its teachers' and its data's.

    It is "other" where one is unknown or has no identifier of the hub, or where two strict ones meet: then the card
    tells all of them, and a person must decide.
    """
    names = {licence.hub_name for licence in licences if licence.known}
    strict = names.intersection(RESTRICTIVE)
    if all(licence.known for licence in licences) and OTHER not in names and len(strict) <= 1:
        if strict:
            return HubLicence(license=strict.pop())
        attribution = sorted(names.intersection(ATTRIBUTION))
        return HubLicence(license=attribution[-1] if attribution else names.pop() if len(names) == 1 else "apache-2.0")
    forbidden = any(licence.non_commercial for licence in licences)
    return HubLicence(license=OTHER, license_name="non-commercial" if forbidden else "not-determined")


def _architecture(teacher: TeacherInfo) -> Mapping[str, object]:
    architecture = teacher.identity.get("architecture")
    return architecture if isinstance(architecture, Mapping) else {}


def _timm_entries(name: object) -> list[tuple[str, str]]:
    """Return (licence, model on the hub) of every set of weights that timm knows for an architecture."""
    if not isinstance(name, str):
        return []
    from timm.models import get_pretrained_cfg, is_model, list_pretrained

    if not is_model(name):
        return []
    tagged = [tag for tag in list_pretrained(f"{name}*") if tag.partition(".")[0] == name]
    configs = [config for tag in tagged if (config := get_pretrained_cfg(tag)) is not None]
    return [(config.license or "unknown", config.hf_hub_id or "") for config in configs]


def _title(timm_licence: str) -> str:
    """Spell a licence of timm's table for people; unknown ones are none."""
    return {"unknown": "", "apache-2.0": APACHE, "mit": "MIT"}.get(timm_licence, timm_licence)
