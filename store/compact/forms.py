"""Forms in which a cache holds a teacher's tokens: an --out that was begun with one form is not given another."""

from store import errors
from store.cache.dataset import Dataset
from store.format.attributes import ARCHIVE as ARCHIVE_ATTRIBUTE

TOKENS = "plain float16 tokens"
CODES = "codes"
ARCHIVE = "an archive"
FOREIGN = "an array of another program"


def form_of(dataset: Dataset, teacher: str) -> str:
    """Return the form of a teacher's tokens, in words."""
    node = dataset.array(teacher)
    if node.layout is None:
        return ARCHIVE if ARCHIVE_ATTRIBUTE in node.attributes else FOREIGN
    return TOKENS if dataset.teacher(teacher).code is None else CODES


def refuse_other_form(target: Dataset, teacher: str, *, asked: str) -> None:
    """Refuse to put tokens of one form beside, or in place of, those of another.

    Raises:
        errors.Conflict: the target holds the teacher's tokens in another form; the exits are named.
    """
    if teacher not in target.teachers or form_of(target, teacher) == asked:
        return
    where = f"'{target.name}/{teacher}' in {target.storage.location}"
    raise errors.Conflict(
        f"{where} was begun otherwise: it holds {form_of(target, teacher)}, this command would make it {asked}. "
        "Teachers that a command does not convert are shared as they are: name all to convert in one command, or use "
        "another --out"
    )
