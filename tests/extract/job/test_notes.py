"""Notes of a catalogue: carried by every dataset, shown by reports, and never a reason to refuse a cache."""

from pathlib import Path

import store
from extract.catalogue import load_catalogue
from extract.job.index import index as index_dataset
from extract.sources import open_source
from tests.extract.builders import image_folder, small_catalogue

OWN = """
[[dataset]]
name = "own"
group = "g"
root = "images"
note = "Mine alone."
[[dataset]]
name = "other"
group = "g"
root = "images"
"""


def index(folder: Path, note: str) -> dict[str, object]:
    """Index the datasets of a catalogue with a note; return the note that the cache has of each."""
    path = small_catalogue(folder, datasets=OWN, teachers=" ")
    path.write_text(f'note = "{note}"\n{path.read_text()}' if note else path.read_text())
    catalogue = load_catalogue(path)
    cache = store.create(folder / "cache", catalogue.recipe.stored())
    for entry in catalogue.dataset:
        index_dataset(cache, entry, open_source(entry))
    return {dataset.name: dataset.source.get("note") for dataset in store.open(folder / "cache")}


def test_a_note_is_stored_with_the_datasets_and_another_one_refuses_nothing(tmp_path: Path) -> None:
    image_folder(tmp_path / "images", 2)
    first = {"own": "Mine alone.", "other": "For all."}
    assert index(tmp_path, "For all.") == first
    assert index(tmp_path, "Something else.") == first
    assert index(tmp_path, "") == first


def test_caches_without_a_note_stay_without(tmp_path: Path) -> None:
    image_folder(tmp_path / "images", 2)
    assert index(tmp_path, "")["other"] is None
    assert index(tmp_path, "A later thought.")["other"] is None
