"""One image out of a file: whole and in RGB, or an error that names the file."""

from pathlib import Path
from typing import IO

import numpy as np
from PIL import Image, ImageFile, UnidentifiedImageError

# Pillow goes by content, not by name, and would have Ghostscript run what begins like PostScript.
FORMATS = ("BMP", "GIF", "JPEG", "PNG", "PPM", "TIFF", "WEBP")


def read_image(path: Path) -> Image.Image:
    """The image in a file, whole, in RGB.

    As torchvision and timm read it: transparency is dropped, the orientation noted by a camera (EXIF) is not
    applied, of several frames the first is taken. Unlike there, 16-bit gray is scaled to 8 bits and not
    clipped at 255. Bytes that were changed inside a JPEG without cutting it short cannot be told.

    Raises:
        OSError: If the file is missing, cut short, no image, has more pixels than
            `PIL.Image.MAX_IMAGE_PIXELS`, or values without a known range (32 bits); the message names it.
        RuntimeError: If `PIL.ImageFile.LOAD_TRUNCATED_IMAGES` is set, which fills missing parts with gray.
    """
    return decode_image(path, str(path))


def decode_image(file: Path | IO[bytes], location: str) -> Image.Image:
    """As `read_image`, from a file that may be open already.

    Args:
        file: A path, or a file to read from where it stands.
        location: What an error calls it.

    Raises:
        OSError: As `read_image`.
        RuntimeError: As `read_image`.
    """
    if ImageFile.LOAD_TRUNCATED_IMAGES:
        raise RuntimeError(
            "expected PIL.ImageFile.LOAD_TRUNCATED_IMAGES to be False, got True: images cut short would be "
            "filled with gray in silence; set it to False"
        )
    try:
        with Image.open(file, formats=FORMATS) as image:
            limit = Image.MAX_IMAGE_PIXELS
            if limit is not None and image.width * image.height > limit:
                raise ValueError(f"{image.width * image.height} pixels, the limit is {limit}")
            return _to_rgb(image)
    except (FileNotFoundError, IsADirectoryError, PermissionError):
        raise
    except UnidentifiedImageError:
        reason = f"it is none of {', '.join(FORMATS)}"
    except (
        Exception
    ) as error:  # decoders raise anything: OSError, SyntaxError, struct.error, bombs of their own
        reason = str(error) or type(error).__name__
    raise OSError(f"expected a whole image at {location}, but it does not decode ({reason}); fetch it again")


def _to_rgb(image: Image.Image) -> Image.Image:
    if image.mode.startswith("I;16") or (image.mode == "I" and image.format in ("PNG", "PPM")):
        values = np.asarray(image).astype(np.uint32)
        return Image.fromarray(((values * 255 + 32767) // 65535).astype(np.uint8)).convert("RGB")
    if image.mode in ("I", "F"):
        raise ValueError(f"values of 32 bits (mode {image.mode}), whose range is not known")
    if image.mode == "P" and "transparency" in image.info:
        image = image.convert("RGBA")  # Pillow warns of the direct way; the colours are the same
    return image.convert("RGB")
