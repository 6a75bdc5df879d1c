"""What the user says of teachers and datasets when a student is exported: `NAME=VALUE`, for the model card."""

import re
from collections.abc import Sequence

from store.errors import InvalidInput
from train.export.licences import Licence

HUB_ID = re.compile(r"[A-Za-z0-9][\w.-]*(/[A-Za-z0-9][\w.-]*)?", re.ASCII)


def parse_licences(texts: Sequence[str]) -> dict[str, Licence]:
    """Return name of a teacher or dataset -> licence of `NAME=LICENCE` texts.

    Raises:
        InvalidInput: a text has another form; all are listed.
    """
    pairs = _pairs(texts, option="--licences", form="NAME=LICENCE such as faces=CC-BY-4.0")
    return {name: Licence(title=title) for name, title in pairs.items()}


def parse_hub_datasets(texts: Sequence[str]) -> dict[str, str]:
    """Return name of a training dataset -> dataset on the Hugging Face hub of `NAME=OWNER/DATASET` texts.

    Raises:
        InvalidInput: a text has another form; all are listed.
    """
    form = "NAME=OWNER/DATASET such as faces=nielsr/CelebA-faces"
    pairs = _pairs(texts, option="--hub-datasets", form=form)
    wrong = [f"{name}={hub_id}" for name, hub_id in pairs.items() if not HUB_ID.fullmatch(hub_id)]
    if wrong:
        raise InvalidInput(f"--hub-datasets: expected {form}, found {', '.join(wrong)}")
    return pairs


def _pairs(texts: Sequence[str], *, option: str, form: str) -> dict[str, str]:
    wrong = [text for text in texts if not all(part.strip() for part in (*text.partition("=")[::2], "="))]
    if wrong:
        raise InvalidInput(f"{option}: expected {form}, found {', '.join(wrong)}")
    pairs = (text.partition("=")[::2] for text in texts)
    return {name.strip(): value.strip() for name, value in pairs}
