"""Check of the tree of a cache: metadata documents, image lists, and objects that do not belong."""

import hashlib
from collections.abc import Iterable, Iterator

import pyarrow as pa

from store import errors
from store.cache import seal_record
from store.cache.cache import Cache
from store.cache.cache import open as open_cache
from store.cache.dataset import Dataset
from store.format import manifest, schema
from store.format.attributes import is_archive
from store.format.code_schema import CODE, code_arrays, code_path, distortion_tables
from store.format.schema import CODES, HIERARCHY, PIXELS, TOKENS, shard_name
from store.storage.base import Entry, Location
from store.storage.publish import TEMPORARY, Writer, is_temporary
from store.verify.code_check import code_problems
from store.verify.problems import Kind, Problem

QUARANTINE = "quarantine"
TOP = ("images", "manifest", "seal", HIERARCHY, QUARANTINE)
DOCUMENT = "zarr.json"


class Tree:
    """Datasets and arrays of a cache, by listing it, and the problems of its metadata.

    Attributes:
        datasets: datasets whose metadata can be read, sorted by name.
        arrays: names of the arrays written by codistill whose metadata can be read, by dataset, pixels first.
        paths: image paths by dataset; None where the image list is damaged.
        problems: problems of metadata, image lists and objects.
        notes: sentences about what is no problem and worth knowing.
    """

    def __init__(self, cache: Cache) -> None:
        self._cache, self._storage = cache, cache.storage
        self.problems: list[Problem] = []
        self.notes: list[str] = []
        self.datasets: list[Dataset] = []
        self.arrays: dict[str, list[str]] = {}
        self.paths: dict[str, pa.Array | None] = {}
        for name in sorted(self._storage.list_directories(HIERARCHY)):
            self._add_dataset(name)
            self._compare_with_seals(name)
        self._check_parts()
        self._check_objects()

    def _add_dataset(self, name: str) -> None:
        base = f"{HIERARCHY}/{name}"
        if not self._storage.exists(f"{base}/{DOCUMENT}"):
            if any(entry.name.startswith("c.") for entry in self._storage.list_objects(f"{base}/{PIXELS}")):
                self._add_problem(
                    Kind.METADATA_DAMAGED, f"{base}/{DOCUMENT}", "it is absent, and the dataset has shards"
                )
            else:
                self.notes.append(f"dataset '{name}' was begun and not finished: run stage index again")
            return
        key = f"{base}/{DOCUMENT}"
        try:
            dataset = self._cache.part(name)
            key = f"{base}/{PIXELS}/{DOCUMENT}"
            dataset.array(PIXELS)
        except errors.CodistillError as error:
            self._add_problem(Kind.METADATA_DAMAGED, key, str(error))
            return
        self.datasets.append(dataset)
        self.arrays[name] = [PIXELS] if self._is_ours(dataset, PIXELS) else []
        self.paths[name] = self._image_paths(dataset)
        for teacher in sorted(set(self._storage.list_directories(base)) - {PIXELS, "pixels_status"}):
            self._add_teacher(dataset, teacher)

    def _check_parts(self) -> None:
        """Report parts that do not follow the parts before them: no reader joins them."""
        whole = {dataset.whole_name for dataset in self.datasets if dataset.part is not None}
        for name in sorted(whole):
            stored = [dataset.name for dataset in self.datasets if dataset.whole_name == name]
            key = f"{HIERARCHY}/{stored[-1]}/{DOCUMENT}"
            try:
                joined = [part.name for part in self._cache.parts(name)]
            except errors.CodistillError as error:
                self._add_problem(Kind.METADATA_DAMAGED, key, str(error))
                continue
            for left_out in sorted(set(stored) - set(joined)):
                key = f"{HIERARCHY}/{left_out}/{DOCUMENT}"
                self._add_problem(Kind.METADATA_DAMAGED, key, f"a part before it is gone: '{name}' ends before it")

    def _add_teacher(self, dataset: Dataset, name: str) -> None:
        path = f"{HIERARCHY}/{dataset.name}/{name}"
        forms = [form for form in (TOKENS, CODES) if self._storage.exists(f"{path}/{form}/{DOCUMENT}")]
        if not forms:
            self._add_unfinished_teacher(dataset, name)
            return
        try:
            if not self._is_ours(dataset, name):
                return
            dataset.teacher(name)
        except (errors.CodistillError, FileNotFoundError) as error:
            self._add_problem(Kind.METADATA_DAMAGED, f"{path}/{forms[0]}/{DOCUMENT}", str(error))
            return
        self.arrays[dataset.name].append(name)
        self._check_teacher_group(f"{path}/{DOCUMENT}")
        if forms == [CODES]:
            self.problems += code_problems(dataset, name)

    def _add_unfinished_teacher(self, dataset: Dataset, name: str) -> None:
        """Tell of a teacher without the document of its tokens or codes."""
        path = f"{HIERARCHY}/{dataset.name}/{name}"
        for form in (TOKENS, CODES):
            if any(True for _ in self._storage.list_objects(f"{path}/{form}")):
                key = f"{path}/{form}/{DOCUMENT}"
                self._add_problem(Kind.METADATA_DAMAGED, key, "it is absent, and the teacher has shards")
                return
        if self._storage.exists(f"{path}/{DOCUMENT}"):
            self.notes.append(f"'{dataset.name}/{name}' has no tokens array: not begun, or not written by codistill")
        else:
            self._add_problem(Kind.FOREIGN_OBJECT, path, "a folder that is not part of the format")

    def _check_teacher_group(self, key: str) -> None:
        """Check the document of a teacher's group, which is the same for all."""
        try:
            if self._storage.read(key) != schema.group_document():
                self._add_problem(Kind.METADATA_DAMAGED, key, "it is not what codistill writes")
        except FileNotFoundError:
            self._add_problem(Kind.METADATA_DAMAGED, key, "it is absent")

    def _compare_with_seals(self, dataset: str) -> None:
        """Compare the documents of a dataset with the sums that the seals of its arrays recorded."""
        known = {problem.key for problem in self.problems}
        for array in sorted(self._storage.list_directories(f"{HIERARCHY}/{dataset}")):
            try:
                record = seal_record.load_record(self._storage, dataset=dataset, array=array)
            except errors.Damaged as error:
                key = schema.record_key(dataset, array)
                kind = Kind.SEALED_DAMAGED
                self.problems.append(Problem(kind=kind, key=key, message=str(error), dataset=dataset, array=array))
                continue
            keys = seal_record.recorded_documents(record, dataset, array) if record else ()
            for key in seal_record.changed(self._storage, keys, record) if record else ():
                if key not in known:
                    self._add_changed(key, dataset, array)
                    known.add(key)

    def _add_changed(self, key: str, dataset: str, array: str) -> None:
        """Report an object that is not the one that an array was sealed with."""
        is_document = key.rpartition("/")[2] == DOCUMENT
        what, kind = ("document", Kind.METADATA_DAMAGED) if is_document else ("array", Kind.CODE_DAMAGED)
        message = f"not the {what} that '{dataset}/{array}' was sealed with"
        self.problems.append(Problem(kind=kind, key=key, message=message, dataset=dataset, array=array))

    def _is_ours(self, dataset: Dataset, array: str) -> bool:
        """Return whether codistill wrote an array, so that its shards can be checked; a problem says if not."""
        node = dataset.array(array)
        if is_archive(node):
            self.notes.append(f"'{dataset.name}/{array}' is compressed: its rows are checked whenever they are read")
            return False
        if node.layout is None:
            key = f"{schema.array_path(dataset.name, array)}/{DOCUMENT}"
            message = "an array without attribute 'layout' in a dataset of codistill: its rows are not checked"
            self._add_problem(Kind.METADATA_DAMAGED, key, message)
            return False
        return True

    def _image_paths(self, dataset: Dataset) -> pa.Array | None:
        key = schema.images_key(dataset.name)
        try:
            data = self._storage.read(key)
        except FileNotFoundError:
            self._add_problem(Kind.IMAGE_LIST_DAMAGED, key, "it is absent")
            return None
        actual = hashlib.sha256(data).hexdigest()
        if actual != dataset.image_list_sha256:
            message = f"sha256 expected {dataset.image_list_sha256}, found {actual}"
            self._add_problem(Kind.IMAGE_LIST_DAMAGED, key, message)
            return None
        try:
            return manifest.parse_images(data, images=dataset.images, where=f"'{key}'")["path"].combine_chunks()
        except errors.Damaged as error:  # whole, and not what the dataset says
            self._add_problem(Kind.IMAGE_LIST_DAMAGED, key, str(error))
            return None

    def _check_objects(self) -> None:
        """Report objects and folders that the format does not have."""
        self._expect_folders("", TOP)
        self._expect("", ())
        folders = {  # also of datasets and teachers whose metadata is damaged: their side files are not foreign
            name: sorted(self._storage.list_directories(f"{HIERARCHY}/{name}"))
            for name in self._storage.list_directories(HIERARCHY)
        }
        self._expect("images", [f"{name}.parquet" for name in folders])
        self._expect("manifest", [f"{name}.parquet" for name in folders])
        self._expect("seal", [f"{name}.{array}.safetensors" for name in folders for array in folders[name]])
        self._expect(HIERARCHY, (DOCUMENT,))
        for entry in self._storage.list_objects(QUARANTINE):
            message = "moved here by a repair that did not end. Run: codistill store verify --repair"
            self._add_problem(Kind.QUARANTINED, f"{QUARANTINE}/{entry.name}", message)
        for dataset in self.datasets:
            self._check_dataset(dataset)

    def _check_dataset(self, dataset: Dataset) -> None:
        base = f"{HIERARCHY}/{dataset.name}"
        self._expect(base, (DOCUMENT,))
        for array in self.arrays[dataset.name]:
            node = dataset.array(array)
            shards = (shard_name(shard, len(node.shape)) for shard in range(dataset.shards))
            self._expect(node.path, {DOCUMENT, *shards})
            self._expect_folders(node.path, ())
            self._expect(schema.status_path(dataset.name, array), (DOCUMENT, "c.0"))
            if array != PIXELS:
                self._expect(schema.statistics_path(dataset.name, array), (DOCUMENT, "c.0.0.0"))
                self._expect(f"{base}/{array}", (DOCUMENT,))
                folders = (node.form, "status", "statistics")
                self._expect_folders(f"{base}/{array}", (*folders, *self._check_code(dataset, array)))

    def _check_code(self, dataset: Dataset, teacher: str) -> Iterator[str]:
        """Yield the folders that a teacher with a code has besides the others, having checked what lies in them."""
        info = dataset.teacher(teacher)
        if info.code is None:
            return
        path, arrays = code_path(dataset.name, teacher), code_arrays(dataset.name, teacher, info.code)
        tables = distortion_tables(dataset.name, teacher, channels=info.channels)
        for array in (*arrays.values(), *tables.values()):
            self._expect(array.path, (DOCUMENT, array.key.rpartition("/")[2]))
            self._expect_folders(array.path, ())
        self._expect(path, (DOCUMENT,))
        self._expect_folders(path, arrays)
        yield from (CODE, *tables)

    def _expect(self, prefix: str, names: Iterable[str]) -> None:
        known = set(names)
        for entry in self._storage.list_objects(prefix):
            if entry.name in known:
                continue
            key = f"{prefix}/{entry.name}" if prefix else entry.name
            if is_temporary(entry.name):
                self._judge_temporary(key, entry.name)
            else:
                self._add_problem(Kind.FOREIGN_OBJECT, key, self._foreign(prefix, entry))

    def _foreign(self, prefix: str, entry: Entry) -> str:
        name, suffix = entry.name.partition(".")[::2]
        if prefix == "images" and suffix == "parquet" and schema.is_name(name):
            ends = f"codistill store delete {self._storage.location} {name}"
            return f"there is no dataset '{name}': it was lost, or its deletion did not end. That ends it: {ends}"
        return f"{entry.size_bytes} bytes that are not part of the format"

    def _expect_folders(self, prefix: str, names: Iterable[str]) -> None:
        for name in sorted(set(self._storage.list_directories(prefix)) - set(names)):
            key = f"{prefix}/{name}" if prefix else name
            self._add_problem(Kind.FOREIGN_OBJECT, key, "a folder that is not part of the format")

    def _judge_temporary(self, key: str, name: str) -> None:
        match = TEMPORARY.fullmatch(name)
        if match and Writer(match["host"], match["boot"], match["pids"], int(match["pid"])).known_dead():
            self._add_problem(Kind.LEFTOVER, key, "a temporary object whose writer is dead")
        else:
            self.notes.append(f"'{key}' is being written, or a leftover that cannot be told from that for 6 hours")

    def _add_problem(self, kind: Kind, key: str, message: str) -> None:
        self.problems.append(Problem(kind=kind, key=key, message=message))


def open_for_checking(location: Location) -> Cache | Problem:
    """Return the cache, or the problem that keeps it from being opened.

    Raises:
        errors.MissingCache: there is no cache.
    """
    try:
        return open_cache(location)
    except (errors.Damaged, errors.UnsupportedFormat) as error:
        return Problem(kind=Kind.METADATA_DAMAGED, key=f"{HIERARCHY}/{DOCUMENT}", message=str(error))
