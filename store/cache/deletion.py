"""Deletion of a dataset or of one of its teachers: in an order in which every state between is a readable cache.

Sealed tables go first, so that nothing calls rows good that are gone; tokens before the pixels that they depend on;
documents once nothing is below them; the image list last. What is there is found by listing, not by reading documents:
after an interruption, or with damaged documents, the same deletion goes on.
"""

from collections.abc import Callable, Iterator
from dataclasses import dataclass
from functools import partial

from store import errors
from store.cache.metadata import dataset_names, part_names
from store.format import schema
from store.format.parts import whole_name
from store.format.schema import CODES, HIERARCHY, PIXELS, TOKENS
from store.storage.base import Storage
from store.storage.publish import TEMPORARY, Writer

QUARANTINE = "quarantine"
DOCUMENT = "zarr.json"

Step = Callable[[], None]


@dataclass(frozen=True, kw_only=True)
class Deletion:
    """What a deletion will delete.

    Attributes:
        dataset: name of the dataset.
        teacher: name of the teacher; None deletes the whole dataset.
        teachers: teachers whose tokens go.
        parts: names of the stored datasets from which it goes: the dataset's own, and those of its later parts.
        objects: number of objects.
        stored_bytes: their size.
    """

    dataset: str
    teacher: str | None
    teachers: tuple[str, ...]
    parts: tuple[str, ...]
    objects: int
    stored_bytes: int

    @property
    def name(self) -> str:
        """`DATASET` or `DATASET/TEACHER`."""
        return self.dataset if self.teacher is None else f"{self.dataset}/{self.teacher}"


def plan(storage: Storage, name: str) -> Deletion:
    """Return what deleting a dataset or teacher deletes; nothing is changed.

    Args:
        storage: where the cache is.
        name: `DATASET` or `DATASET/TEACHER`.

    Raises:
        errors.MissingName: there is nothing of this name; the available ones are listed.
        errors.InvalidInput: the name is not one of a dataset or teacher.
        errors.Conflict: a process of this machine is writing there, or it is a part and others follow.
    """
    dataset, teacher = _parts(name)
    _refuse_inner_part(storage, dataset, teacher)
    parts = (dataset, *part_names(storage, dataset))
    folders = sorted({folder for part in parts for folder in _teacher_folders(storage, part)})
    if teacher is None:
        known = bool(set(parts) & set(storage.list_directories(HIERARCHY)))
        keys = [key for part in parts for key in _objects_of(storage, part)]
        teachers = tuple(folder for folder in folders if schema.is_name(folder))
        available = ", ".join(dataset_names(storage)) or "none"
        absent = f"no dataset '{dataset}' in {storage.location}; available: {available}"
    else:
        known = teacher in folders
        keys = [
            key
            for part in parts
            for key in (*_tree(storage, f"{HIERARCHY}/{part}/{teacher}"), *_beside(storage, part, [teacher]))
        ]
        teachers = (teacher,)
        available = ", ".join(folder for folder in folders if schema.is_name(folder)) or "none"
        absent = f"'{dataset}' has no teacher '{teacher}' in {storage.location}; available: {available}"
    if not keys and not known:  # a folder may be all that is left
        raise errors.MissingName(absent)
    _refuse_writers([key for key, _ in keys])
    return Deletion(
        dataset=dataset,
        teacher=teacher,
        teachers=teachers,
        parts=parts,
        objects=len(keys),
        stored_bytes=sum(size for _, size in keys),
    )


def delete(storage: Storage, name: str) -> Deletion:
    """Delete a dataset or teacher; raises as `plan`.

    Args:
        storage: where the cache is.
        name: `DATASET` or `DATASET/TEACHER`.

    Returns:
        What was deleted.
    """
    planned = plan(storage, name)
    for step in steps(storage, planned):
        step()
    return planned


def steps(storage: Storage, planned: Deletion) -> Iterator[Step]:
    """Yield the steps of a deletion, in their order; before and after each the cache is readable."""
    for part in reversed(planned.parts):  # a part is nothing without those before it
        if planned.teacher is not None:
            yield from _teacher_steps(storage, part, planned.teacher)
        else:
            yield from _dataset_steps(storage, part)


def _dataset_steps(storage: Storage, dataset: str) -> Iterator[Step]:
    base = f"{HIERARCHY}/{dataset}"
    for folder in _teacher_folders(storage, dataset):
        yield from _teacher_steps(storage, dataset, folder)
    yield partial(storage.delete, schema.record_key(dataset, PIXELS))
    yield partial(storage.delete_all, f"{base}/pixels_status")
    yield partial(storage.delete, schema.manifest_key(dataset))
    yield partial(storage.delete_all, f"{base}/{PIXELS}", documents=False)
    yield partial(storage.delete, f"{base}/{DOCUMENT}")
    yield partial(storage.delete_all, base)
    yield from _quarantined_steps(storage, f"{dataset}.")
    yield partial(storage.delete, schema.images_key(dataset))


def _teacher_steps(storage: Storage, dataset: str, teacher: str) -> Iterator[Step]:
    base = f"{HIERARCHY}/{dataset}/{teacher}"
    yield partial(storage.delete, schema.record_key(dataset, teacher))
    for below in ("status", "statistics", "distortion", "cosine", "floor", TOKENS, CODES):
        yield partial(storage.delete_all, f"{base}/{below}")
    yield partial(storage.delete_all, base)
    yield from _quarantined_steps(storage, f"{dataset}.{teacher}.")


def _quarantined_steps(storage: Storage, prefix: str) -> Iterator[Step]:
    for name in sorted(entry.name for entry in storage.list_objects(QUARANTINE)):
        if name.startswith(prefix):
            yield partial(storage.delete, f"{QUARANTINE}/{name}")


def _teacher_folders(storage: Storage, dataset: str) -> list[str]:
    """Return everything below a dataset but its pixels: also what is no teacher any more, or never was."""
    return sorted(set(storage.list_directories(f"{HIERARCHY}/{dataset}")) - {PIXELS, "pixels_status"})


def _parts(name: str) -> tuple[str, str | None]:
    dataset, slash, teacher = name.partition("/")
    schema.check_name("dataset", dataset)
    if not slash:
        return dataset, None
    if teacher == PIXELS:
        message = f"pixels of '{dataset}' cannot be deleted alone: tokens depend on them. Delete '{dataset}'"
        raise errors.InvalidInput(message)
    return dataset, schema.check_name("teacher", teacher)


def _refuse_inner_part(storage: Storage, name: str, teacher: str | None) -> None:
    """Refuse to delete a part that others follow: the numbers of their rows would change."""
    whole = whole_name(name)
    later = [part for part in part_names(storage, whole) if part > name] if whole and teacher is None else []
    if later:
        raise errors.Conflict(f"'{later[-1]}' follows '{name}'. Delete it first, or all of '{whole}'")


def _objects_of(storage: Storage, dataset: str) -> Iterator[tuple[str, int]]:
    """Yield key and size of every object of a stored dataset."""
    yield from _tree(storage, f"{HIERARCHY}/{dataset}")
    yield from _beside(storage, dataset, [PIXELS, *_teacher_folders(storage, dataset)])


def _tree(storage: Storage, prefix: str) -> Iterator[tuple[str, int]]:
    """Yield key and size of every object below a prefix."""
    for entry in storage.list_objects(prefix):
        yield f"{prefix}/{entry.name}", entry.size_bytes
    for name in storage.list_directories(prefix):
        yield from _tree(storage, f"{prefix}/{name}")


def _beside(storage: Storage, dataset: str, arrays: list[str]) -> Iterator[tuple[str, int]]:
    """Yield key and size of the objects outside the hierarchy that belong to arrays of a dataset."""
    records = {schema.record_key(dataset, array) for array in arrays}
    of_dataset = {schema.manifest_key(dataset), schema.images_key(dataset)} if PIXELS in arrays else set()
    for prefix in ("seal", "manifest", "images"):
        for entry in storage.list_objects(prefix):
            if f"{prefix}/{entry.name}" in records | of_dataset:
                yield f"{prefix}/{entry.name}", entry.size_bytes
    for entry in storage.list_objects(QUARANTINE):
        if any(entry.name.startswith(f"{dataset}.{array}.") for array in arrays):
            yield f"{QUARANTINE}/{entry.name}", entry.size_bytes


def _refuse_writers(keys: list[str]) -> None:
    for key in keys:
        match = TEMPORARY.fullmatch(key.rpartition("/")[2])
        if match and Writer(match["host"], match["boot"], match["pids"], int(match["pid"])).known_alive():
            message = f"process {match['pid']} of this machine is writing '{key}'"
            raise errors.Conflict(f"{message}. Wait until it ends, or stop it, and delete then")
