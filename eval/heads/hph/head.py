"""Multi-HMR's human perception head: tokens of an image and its camera to people.

Shapes: B images, n x n patches, N = n n, C channels, P people of the batch, p of an image (padded), J rotations.
Source: naver/multi-hmr (ECCV 2024) and DUNE (appendix B); parameters have the names of the released files.
"""

from collections.abc import Mapping

import torch
from torch import Tensor, nn

from eval.heads.body import base, rotations
from eval.heads.body.base import BodyModel
from eval.heads.hph import camera, detection
from eval.heads.hph.blocks import PrependedBlocks
from eval.heads.hph.decoder import PersonDecoder
from eval.heads.hph.mean_parameters import KID_NUMBERS
from eval.heads.hph.people import People
from eval.heads.hph.sizes import CAMERA_NUMBERS, HeadSizes
from store.errors import InvalidInput

QUERY_STD = 0.2
MEANS = ("init_body_pose", "init_betas", "init_betas_kid", "init_cam", "init_expression")


class PersonHead(nn.Module):
    """Cross-attention head: pose, shape, distance and expression of the people in given cells.

    Args:
        sizes: sizes of the head.
        means: buffers `MEANS` by name.
    """

    def __init__(self, sizes: HeadSizes, means: Mapping[str, Tensor]) -> None:
        super().__init__()
        width = sizes.context_dim
        for kind in ("cross_queries", "cross_values"):
            for axis in ("x", "y"):
                table = nn.Parameter(torch.empty(sizes.grid, width))
                nn.init.normal_(table, std=QUERY_STD)
                self.register_parameter(f"{kind}_{axis}", table)
        for name in MEANS:
            self.register_buffer(name, means[name].clone())
        self.mean_shape = "init_betas_kid" if sizes.num_betas == KID_NUMBERS else "init_betas"
        self.transformer = PersonDecoder(
            token_dim=width + sizes.pose_numbers + sizes.num_betas + CAMERA_NUMBERS,
            context_dim=width,
            dim=sizes.dim,
            depth=sizes.depth,
            heads=sizes.heads,
            dim_head=sizes.dim_head,
            mlp_dim=sizes.mlp_dim,
        )
        self.decpose = nn.Linear(sizes.dim, sizes.pose_numbers)
        self.decshape = nn.Linear(sizes.dim, sizes.num_betas)
        self.deccam = nn.Linear(sizes.dim, CAMERA_NUMBERS)
        self.decexpression = nn.Linear(sizes.dim, sizes.expressions) if sizes.expressions else None

    def forward(self, context: Tensor, cells: Tensor) -> dict[str, Tensor]:
        """Decode the people in some cells; people of one image attend to each other.

        The tables named x are indexed by **row**, those named y by column. A query has its cell's vector before the
        values are added to the cells of people.

        Args:
            context: (B, n, n, C + 99), tokens with their camera embedding.
            cells: int64 (P, 3), people of one image side by side, images in order.

        Returns:
            pose (P, 6 J), shape (P, S), camera (P, 3), expression (P, E), float32.
        """
        image, row, column = cells.unbind(1)
        mean_shape = self.get_buffer(self.mean_shape)
        centre = context[image, row, column] + self._table("cross_queries", row, column)
        means = [self.get_buffer("init_body_pose"), mean_shape, self.get_buffer("init_cam")]
        queries = torch.cat([centre, *(mean.expand(len(cells), -1) for mean in means)], dim=1)
        values = torch.zeros_like(context).index_put(
            (image, row, column), self._table("cross_values", row, column).to(context.dtype)
        )
        people = self._decode(queries, (context + values).flatten(1, 2), image)
        return {
            "pose": self.decpose(people).float() + self.get_buffer("init_body_pose"),
            "shape": self.decshape(people).float() + mean_shape,
            "camera": self.deccam(people).float() + self.get_buffer("init_cam"),
            "expression": self._expression(people).float() + self.get_buffer("init_expression"),
        }

    def _expression(self, people: Tensor) -> Tensor:
        """Return the expression's numbers, (P, D) -> (P, E); none for a body model without expression."""
        numbers: Tensor = people[:, :0] if self.decexpression is None else self.decexpression(people)
        return numbers

    def _decode(self, queries: Tensor, context: Tensor, image: Tensor) -> Tensor:
        """Run the decoder on images that have people, (P, Q) and (B, N, E) -> (P, D); others would attend to nobody."""
        counts = torch.bincount(image, minlength=len(context))  # (B,)
        present_images = counts.nonzero()[:, 0]
        if not len(present_images):
            return queries.new_zeros(0, self.decpose.in_features)
        packed_image = (counts > 0).cumsum(0)[image] - 1  # (P,), number among the images with people
        slot = torch.arange(len(image), device=image.device) - (counts.cumsum(0) - counts)[image]  # (P,)
        most = int(counts.max())
        packed = queries.new_zeros(len(present_images), most, queries.shape[1])
        packed = packed.index_put((packed_image, slot), queries)
        present = torch.arange(most, device=image.device) < counts[present_images, None]  # (B', p)
        people: Tensor = self.transformer(packed, context[present_images], present)
        return people[packed_image, slot]

    def _table(self, kind: str, row: Tensor, column: Tensor) -> Tensor:
        return self.get_parameter(f"{kind}_x")[row] + self.get_parameter(f"{kind}_y")[column]


class PerceptionHead(nn.Module):
    """Detection, offsets and the person head on the tokens of one square image.

    Args:
        sizes: sizes of the head.
        means: mean parameters; see `eval.heads.hph.mean_parameters`.
    """

    def __init__(self, sizes: HeadSizes, means: Mapping[str, Tensor]) -> None:
        super().__init__()
        self.sizes = sizes
        channels = sizes.embed_dim
        if sizes.blocks:
            self.prepended_blocks = PrependedBlocks(channels, blocks=sizes.blocks, num_heads=sizes.block_heads)
        self.mlp_classif = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, 1))
        self.mlp_offset = nn.Sequential(nn.Linear(channels, channels), nn.ReLU(), nn.Linear(channels, 2))
        self.x_attention_head = PersonHead(sizes, means)

    def forward(
        self,
        tokens: Tensor,
        intrinsics: Tensor | None,
        *,
        cells: Tensor | None = None,
        threshold: float = 0.3,
        nms_kernel: int = 3,
        body: BodyModel | None = None,
    ) -> People:
        """Find people and describe them.

        Args:
            tokens: (B, N, C), patches after the backbone's final norm; with prepended blocks (B, R + N, C), the
                student's before its final norm, CLS and registers first or left out.
            intrinsics: (B, 3, 3) or (3, 3) in px of the square input image.
            cells: int64 (P, 3) image, row, column of people, as in training: no detection. None detects.
            threshold: least score of a detection.
            nms_kernel: side of the window, in cells, in which only the highest score is a detection.
            body: body model, for meshes and joints; None leaves them out.

        Returns:
            The people in the order image, row, column (or that of `cells`); possibly none.

        Raises:
            InvalidInput: tokens, intrinsics or cells that do not fit the head, or tokens that are not finite.
        """
        grid = self.sizes.grid
        patches = self.patches(tokens)
        matrices = camera.check_intrinsics(intrinsics, images=len(patches), device=patches.device)
        scores = self.score_map(patches)
        if cells is None:
            if not bool(torch.isfinite(scores).all()):
                raise InvalidInput(
                    "tokens: expected finite numbers, found NaN or infinity. Check the image and encoder"
                )
            cells = detection.detect(scores, threshold=threshold, kernel=nms_kernel)
        else:
            cells = detection.check_cells(cells.to(patches.device), images=len(patches), grid=grid)
        with torch.autocast(patches.device.type, enabled=False):
            rays = camera.camera_embedding(matrices, grid)
        context = torch.cat([patches, rays.to(patches.dtype)], dim=-1)
        numbers = self.x_attention_head(context, cells)
        image, row, column = cells.unbind(1)
        offset = self.mlp_offset(patches[image, row, column]).float()
        with torch.autocast(patches.device.type, enabled=False):
            return self._people(numbers, offset=offset, cells=cells, scores=scores, intrinsics=matrices, body=body)

    def patches(self, tokens: Tensor) -> Tensor:
        """Check tokens, run the prepended blocks if there are any, and return the patches (B, n, n, C).

        Raises:
            InvalidInput: other tokens than the head is made for.
        """
        count, channels = self.sizes.grid**2, self.sizes.embed_dim
        at_least = "at least " if self.sizes.blocks else ""
        if not isinstance(tokens, Tensor):
            raise InvalidInput(f"tokens: expected a tensor, found {type(tokens).__name__}")
        fits = tokens.ndim == 3 and tokens.shape[2] == channels and tokens.is_floating_point()
        if not fits or tokens.shape[1] < count or (tokens.shape[1] > count and not self.sizes.blocks):
            raise InvalidInput(
                f"tokens: expected (B, {at_least}{count}, {channels}) of an image of {self.sizes.img_size} px, found "
                f"{tuple(tokens.shape)} {tokens.dtype}"
            )
        if self.sizes.blocks:
            tokens = self.prepended_blocks(tokens, patches=count)
        return tokens.reshape(len(tokens), self.sizes.grid, self.sizes.grid, channels)

    def score_map(self, patches: Tensor) -> Tensor:
        """Return the score of every cell, (B, n, n, C) -> float32 (B, n, n), in [1e-4, 1 - 1e-4]."""
        logits: Tensor = self.mlp_classif(patches)[..., 0].float()
        return logits.sigmoid().clamp(detection.SCORE_EPS, 1 - detection.SCORE_EPS)

    def _people(
        self,
        numbers: Mapping[str, Tensor],
        *,
        offset: Tensor,
        cells: Tensor,
        scores: Tensor,
        intrinsics: Tensor,
        body: BodyModel | None,
    ) -> People:
        """Turn numbers of the head into rotations, distances and places."""
        image, row, column = cells.unbind(1)
        of_person = intrinsics[image]  # (P, 3, 3)
        loc = (torch.stack([column, row], dim=1) + 0.5 + offset) * camera.CELL_PX
        y = numbers["camera"][:, :1]
        dist = camera.distance_from_log(y, of_person[:, 0, :1], img_size=self.sizes.img_size)
        transl = camera.back_project(loc, dist, of_person)
        rotmat = rotations.from_6d(numbers["pose"].reshape(len(cells), self.sizes.rotations, 6))
        mesh: dict[str, Tensor] = {}
        if body is not None:
            mesh = meshes(
                body,
                rotmat=rotmat,
                shape=numbers["shape"],
                expression=numbers["expression"],
                head=transl,
                intrinsics=of_person,
            )
        return People(
            idx_image_row_col=cells,
            scores_detected=scores[image, row, column],
            offset=offset,
            loc=loc,
            dist_postprocessed=y,
            dist=dist,
            rotmat=rotmat,
            rotvec=rotations.to_vector(rotmat),
            shape=numbers["shape"],
            expression=numbers["expression"],
            transl=transl,
            score_map=scores,
            **mesh,
        )


def meshes(
    body: BodyModel,
    *,
    rotmat: Tensor,
    shape: Tensor,
    expression: Tensor,
    intrinsics: Tensor,
    head: Tensor | None = None,
    shift: Tensor | None = None,
) -> dict[str, Tensor]:
    """Return v3d, j3d, v2d, j2d and transl_pelvis of people; arguments as for `eval.heads.body.base.place`.

    Args:
        body: body model.
        rotmat: (P, J, 3, 3).
        shape: (P, S).
        expression: (P, E).
        intrinsics: (P, 3, 3), camera of each person.
        head: (P, 3), place of the head in camera coordinates, or None.
        shift: (P, 3), shift of all points, or None.
    """
    placed = base.place(body, rotmat=rotmat, shape=shape, expression=expression, head=head, shift=shift)
    return {
        "v3d": placed.vertices,
        "j3d": placed.joints,
        "v2d": camera.project(placed.vertices, intrinsics),
        "j2d": camera.project(placed.joints, intrinsics),
        "transl_pelvis": placed.pelvis,
    }
