"""Pairs of posed frames of a dataset on disk: what all readers of layouts have in common.

A reader lists frames (names of files, pose, camera) and pairs of them; images and depth are read when a pair is asked
for. Shapes: F frames, P pairs, H W pixels.
"""

from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal, TypeAlias

import numpy as np

from eval.heads.pairs.files import Tree
from eval.heads.pairs.geometry import inverse_pose, resized_intrinsics
from eval.heads.pairs.resize import resize_nearest
from eval.heads.pairs.views import Pair, View, checked_view, pose_problems
from store.common.text import some
from store.errors import InvalidInput, MissingFile

MaskBackground: TypeAlias = Literal["never", "random", "always"]
ASPECT_TOLERANCE = 0.02
FOREGROUND = 128  # least value of a mask


@dataclass(frozen=True, kw_only=True, slots=True, eq=False)
class Frame:
    """One posed image.

    Attributes:
        image: name of the image's file below the root.
        depth: name of the depth's file.
        pose: float64 (4, 4), camera to world, axes of OpenCV.
        intrinsics: float64 (3, 3), pixel centres at integers.
        scene: frames of one scene share a world.
        camera_size: (width, height) that `intrinsics` are for; None means that of the image.
        mask: name of the mask of the foreground; None means no mask.
    """

    image: str
    depth: str
    pose: np.ndarray
    intrinsics: np.ndarray
    scene: str
    camera_size: tuple[int, int] | None = None
    mask: str | None = None


Depth: TypeAlias = tuple[np.ndarray, np.ndarray | None]
"""Depth, floats (H, W) with 0 or less where unknown, and the sky, bool (H, W), or None."""


@dataclass(frozen=True, kw_only=True, eq=False)
class FramePairs:
    """Pairs of frames; the world of a pair is the first camera's frame.

    Attributes:
        tree: the files.
        frames: all frames.
        pairs: int64 (P, 2), positions in `frames`.
        read_depth: reads the depth of a frame.
        is_metric: whether depth and poses are in metres.
        enlarge_depth: whether depth may have another size than the image, of the same aspect; it is then enlarged
            by repeating pixels.
        mask_background: whether depth outside of a frame's mask is dropped; "random" decides for each pair.
    """

    tree: Tree
    frames: Sequence[Frame]
    pairs: np.ndarray
    read_depth: Callable[[Tree, Frame], Depth]
    is_metric: bool
    enlarge_depth: bool = False
    mask_background: MaskBackground = "never"

    def __len__(self) -> int:
        return len(self.pairs)

    def pair(self, index: int, rng: np.random.Generator) -> Pair:
        """See `PairDataset.pair`; `rng` decides whether the background is masked."""
        masked = self.mask_background == "always" or (self.mask_background == "random" and bool(rng.integers(2)))
        frames = [self.frames[number] for number in self.pairs[index]]
        problems = pose_problems(frames[0].pose)
        if problems:
            raise InvalidInput(f"{self.tree.subject}, {frames[0].image}: {problems[0]}")
        origin = inverse_pose(frames[0].pose)  # far from the origin of a scene, float32 would round positions
        first, second = (self._view(frame, origin @ frame.pose, masked=masked) for frame in frames)
        return first, second

    def _view(self, frame: Frame, pose: np.ndarray, *, masked: bool) -> View:
        image = self.tree.image(frame.image)
        size = image.shape[1], image.shape[0]
        depth, sky = self.read_depth(self.tree, frame)
        if self.enlarge_depth and depth.ndim == 2 and depth.shape != image.shape[:2]:
            self._check_aspect("depth", (depth.shape[1], depth.shape[0]), size, frame)
            depth = resize_nearest(depth, size)
            sky = None if sky is None else resize_nearest(sky, size)
        intrinsics = frame.intrinsics
        if frame.camera_size not in (None, size):
            self._check_aspect("camera", frame.camera_size, size, frame)
            width, height = frame.camera_size
            intrinsics = resized_intrinsics(intrinsics, (size[0] / width, size[1] / height))
        mask = None
        if masked and frame.mask is not None:
            mask = self.tree.image(frame.mask)[..., 0] >= FOREGROUND
        return checked_view(
            image=image,
            depthmap=depth,
            sky=sky,
            mask=mask,
            camera_pose=pose,
            intrinsics=intrinsics,
            is_metric=self.is_metric,
            dataset=self.tree.subject,
            label=frame.scene,
            instance=frame.image,
        )

    def _check_aspect(self, what: str, found: tuple[int, int], image: tuple[int, int], frame: Frame) -> None:
        if abs(found[0] * image[1] / (found[1] * image[0]) - 1) > ASPECT_TOLERANCE:
            raise InvalidInput(
                f"{self.tree.subject}, {frame.image}: {what} of {found[0]} x {found[1]} px, but the image has "
                f"{image[0]} x {image[1]}, another aspect"
            )


def frame_pairs(
    tree: Tree,
    frames: Sequence[Frame],
    pairs: Iterable[tuple[int, int]],
    *,
    read_depth: Callable[[Tree, Frame], Depth],
    is_metric: bool,
    expected: str,
    enlarge_depth: bool = False,
    mask_background: MaskBackground = "never",
) -> FramePairs:
    """Return a dataset of frames and pairs.

    Args:
        tree: the files.
        frames: all frames.
        pairs: positions in `frames`.
        read_depth: see `FramePairs`.
        is_metric: see `FramePairs`.
        expected: files that the layout has, for the message.
        enlarge_depth: see `FramePairs`.
        mask_background: see `FramePairs`.

    Raises:
        MissingFile: there are no pairs.
    """
    listed = np.array(list(pairs), dtype=np.int64).reshape(-1, 2)
    if not len(listed):
        found = f"{len(frames)} frames in {some(sorted({frame.scene for frame in frames}))}" if frames else "no frames"
        raise MissingFile(f"{tree.subject}: no pairs below '{tree.root}' ({found}). Expected {expected}")
    return FramePairs(
        tree=tree,
        frames=frames,
        pairs=listed,
        read_depth=read_depth,
        is_metric=is_metric,
        enlarge_depth=enlarge_depth,
        mask_background=mask_background,
    )


def step_pairs(frames: Sequence[Frame], steps: Iterable[int]) -> list[tuple[int, int]]:
    """Pair each frame with those that come `steps` frames later in the same scene.

    Args:
        frames: frames of a scene follow one another, in order of time.
        steps: distances in frames, 1 or more.
    """
    wanted = sorted(set(steps))
    return [
        (number, number + step)
        for number in range(len(frames))
        for step in wanted
        if number + step < len(frames) and frames[number].scene == frames[number + step].scene
    ]
