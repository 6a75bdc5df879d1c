"""A picture with its people drawn over it: meshes, or a circle at each head, with score and distance."""

import numpy as np
from PIL import Image, ImageDraw

from eval.heads.hph.predict import Prediction

# Colours that are told apart with every kind of colour vision (Wong, Nature Methods 2011).
COLOURS = ((0, 114, 178), (230, 159, 0), (0, 158, 115), (204, 121, 167), (86, 180, 233), (213, 94, 0), (240, 228, 66))
OPACITY = 0.75
DARKEST = 0.35
NEAREST_M = 0.01


def draw(prediction: Prediction) -> Image.Image:
    """Draw the people, far to near.

    Returns:
        RGB picture of the size of the original.
    """
    picture = Image.fromarray(prediction.pixels).convert("RGB")
    people = prediction.people
    far_to_near = np.argsort(-people.dist[:, 0].numpy(), kind="stable").tolist()
    if people.v3d is not None:
        painted = picture.copy()
        for number in far_to_near:
            _draw_mesh(ImageDraw.Draw(painted), prediction, number)
        picture = Image.blend(picture, painted, OPACITY)
    for number in far_to_near:
        _draw_head(ImageDraw.Draw(picture), prediction, number)
    return picture


def _draw_mesh(canvas: ImageDraw.ImageDraw, prediction: Prediction, number: int) -> None:
    """Draw the triangles of a person that face the camera, far to near, the lighter the more they face it."""
    people, faces = prediction.people, prediction.faces
    if people.v3d is None or people.v2d is None or faces is None:
        return
    vertices = people.v3d[number].double().numpy()
    corners = vertices[faces]  # (F, 3, 3)
    normals = np.cross(corners[:, 1] - corners[:, 0], corners[:, 2] - corners[:, 0])
    centres = corners.mean(1)
    lengths = np.linalg.norm(normals, axis=1) * np.linalg.norm(centres, axis=1)
    facing = -np.einsum("fc,fc->f", normals, centres) / np.maximum(lengths, 1e-12)
    shade = DARKEST + (1 - DARKEST) * np.abs(facing)
    colours = np.rint(shade[:, None] * np.array(COLOURS[number % len(COLOURS)])).astype(int).tolist()
    points = prediction.in_picture(people.v2d[number])[faces].reshape(len(faces), 6).tolist()
    visible = np.flatnonzero((corners[:, :, 2] > NEAREST_M).all(1) & np.isfinite(shade))
    for face in visible[np.argsort(-centres[visible, 2], kind="stable")].tolist():
        canvas.polygon(points[face], fill=tuple(colours[face]))


def _draw_head(canvas: ImageDraw.ImageDraw, prediction: Prediction, number: int) -> None:
    people = prediction.people
    x, y = prediction.in_picture(people.loc[number]).tolist()
    radius = max(3.0, max(prediction.pixels.shape[:2]) / 150)
    colour = COLOURS[number % len(COLOURS)]
    canvas.ellipse((x - radius, y - radius, x + radius, y + radius), fill=colour, outline=(255, 255, 255))
    text = f"{number + 1}: {float(people.scores_detected[number]):.2f}, {float(people.dist[number, 0]):.1f} m"
    canvas.text((x + 1.5 * radius, y), text, fill=(255, 255, 255), anchor="lm", stroke_width=1, stroke_fill=(0, 0, 0))
