"""A procedural picture of frost on glass, for installations without the published photographs."""

import math

import numpy as np
import numpy.typing as npt
from PIL import Image, ImageDraw
from scipy.ndimage import gaussian_filter

HEIGHT, WIDTH = 480, 640
FERNS = 420
SIXTY_DEGREES = math.pi / 3


def frost_texture(number: int) -> npt.NDArray[np.uint8]:
    """Ferns of ice, the later over the earlier, on haze, in shades of pale blue.

    Args:
        number: Another number gives another picture.

    Returns:
        (480, 640, 3).
    """
    generator = np.random.default_rng(number)
    # Drawn at twice the size and halved: lines of Pillow have hard edges.
    canvas = Image.new("L", (2 * WIDTH, 2 * HEIGHT), 90)
    draw = ImageDraw.Draw(canvas)
    for fern in range(FERNS):
        # Large ferns first, small ones into the gaps between them.
        _draw_fern(draw, generator, length=260 * (1 - fern / FERNS) + 30)
    ice = np.asarray(canvas.reduce(2), dtype=np.float64) / 255
    relief = ice - gaussian_filter(ice, 1.5)
    haze = gaussian_filter(generator.normal(size=(HEIGHT, WIDTH)), 40)
    ice = 0.5 * gaussian_filter(ice, 0.6) + 0.7 * relief + 0.09 * haze / haze.std()
    ice += generator.uniform(0.25, 0.55) + 0.015 * generator.normal(size=ice.shape)
    # Thin ice is bluer than thick ice.
    shades = np.clip(ice, 0, 1)[..., None] ** np.array([1.3, 1.05, 0.95])
    levels: npt.NDArray[np.uint8] = np.round(255 * shades).astype(np.uint8)
    return levels


def _draw_fern(draw: ImageDraw.ImageDraw, generator: np.random.Generator, length: float) -> None:
    """A bent spine with barbs on both sides that leave it at 60 degrees and shorten towards its tip."""
    x, y = generator.uniform(0, (2 * WIDTH, 2 * HEIGHT))
    angle, bend = generator.uniform(0, 2 * math.pi), generator.normal() * 0.006
    light, spread = generator.uniform(0.35, 1), generator.uniform(0.15, 0.45)
    step = 5
    for travelled in np.arange(0, length, step):
        end = x + step * math.cos(angle), y + step * math.sin(angle)
        rest = 1 - travelled / length
        for side, barb in zip((-1, 1), spread * length * rest * generator.uniform(0.5, 1, 2), strict=True):
            along = angle + side * SIXTY_DEGREES
            tip = x + barb * math.cos(along), y + barb * math.sin(along)
            draw.line(((x, y), tip), fill=int(255 * light * generator.uniform(0.4, 0.85)), width=3)
        draw.line(((x, y), end), fill=int(255 * light), width=4)
        (x, y), angle = end, angle + bend * step
