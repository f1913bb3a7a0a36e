import numpy as np
import pytest
from PIL import Image, ImageFile
from torchvision.datasets.folder import default_loader

from tapadl.data.image_file import read_image

NOISE = np.random.default_rng(0).integers(0, 256, (40, 30, 4), dtype=np.uint8)


def save(image, path, **options):
    image.save(path, **options)
    return path


@pytest.mark.parametrize(
    ("mode", "name"),
    [
        ("RGB", "a.png"),
        ("RGB", "a.jpg"),
        ("RGB", "a.webp"),
        ("L", "a.png"),
        ("L", "a.jpg"),
        ("1", "a.png"),
        ("P", "a.png"),
        ("LA", "a.png"),
        ("RGBA", "a.png"),
        ("RGBA", "a.webp"),
        ("CMYK", "a.jpg"),
        ("CMYK", "a.tif"),
    ],
)
def test_every_mode_becomes_the_rgb_that_torchvision_reads(tmp_path, mode, name):
    pixels = NOISE if "A" in mode else NOISE[..., :3]
    path = save(Image.fromarray(pixels).convert(mode), tmp_path / name)
    image = read_image(path)
    assert (image.mode, image.size) == ("RGB", (30, 40))
    assert image.tobytes() == default_loader(path).tobytes()


@pytest.mark.parametrize("transparency", [3, bytes(range(256))])
def test_palette_with_transparency_keeps_its_colours_without_a_warning(tmp_path, transparency):
    image = Image.fromarray(NOISE[..., :3]).quantize(16)
    path = save(image, tmp_path / "a.png", transparency=transparency)
    assert read_image(path).tobytes() == image.convert("RGB").tobytes()


@pytest.mark.parametrize("name", ["a.png", "a.tif", "a.pgm"])
def test_gray_of_16_bits_is_scaled_and_not_clipped(tmp_path, name):
    values = np.array([[0, 128, 129, 255, 257], [32767, 32768, 65278, 65407, 65535]], dtype=np.uint16)
    image = read_image(save(Image.fromarray(values), tmp_path / name))
    expected = np.round(values / 257).astype(np.uint8)
    assert np.array_equal(np.asarray(image), np.stack([expected] * 3, axis=2))


@pytest.mark.parametrize("dtype", [np.int32, np.float32])
def test_values_of_32_bits_are_refused(tmp_path, dtype):
    path = save(Image.fromarray(np.ones((2, 2), dtype=dtype)), tmp_path / "a.tif")
    with pytest.raises(OSError, match=r"whole image at .*a\.tif.*32 bits"):
        read_image(path)


def test_orientation_noted_by_a_camera_is_not_applied(tmp_path):
    exif = Image.Exif()
    exif[0x0112] = 6
    path = save(Image.fromarray(NOISE[..., :3]), tmp_path / "a.jpg", exif=exif)
    assert read_image(path).size == (30, 40)


@pytest.mark.parametrize(
    ("name", "options"),
    [
        ("a.jpg", {}),
        ("a.jpg", {"progressive": True}),
        ("a.png", {}),
        ("a.bmp", {}),
        ("a.ppm", {}),
        ("a.webp", {}),
        ("a.tif", {}),
        ("a.tif", {"compression": "tiff_lzw"}),
    ],
)
@pytest.mark.parametrize("share", [0.02, 0.5, 0.95])
def test_image_cut_short_is_an_error_that_names_it(tmp_path, name, options, share):
    path = save(Image.fromarray(NOISE[..., :3]), tmp_path / name, **options)
    assert read_image(path).size == (30, 40)
    content = path.read_bytes()
    path.write_bytes(content[: int(len(content) * share)])
    with pytest.raises(OSError, match=rf"expected a whole image at .*{name}, but it does not decode"):
        read_image(path)


@pytest.mark.parametrize("content", [b"", b"<html>404</html>", b"\x89PNG\r\n\x1a\n"])
def test_file_that_is_no_image_is_named(tmp_path, content):
    path = tmp_path / "a.png"
    path.write_bytes(content)
    with pytest.raises(OSError, match=r"a\.png, but it does not decode"):
        read_image(path)


def test_damage_inside_a_png_is_noticed(tmp_path):
    path = save(Image.fromarray(NOISE[..., :3]), tmp_path / "a.png")
    content = bytearray(path.read_bytes())
    content[len(content) // 2] ^= 0xFF
    path.write_bytes(content)
    with pytest.raises(OSError, match=r"a\.png, but it does not decode"):
        read_image(path)


def test_missing_file_is_named(tmp_path):
    with pytest.raises(FileNotFoundError, match=r"gone\.png"):
        read_image(tmp_path / "gone.png")


@pytest.mark.filterwarnings("ignore::PIL.Image.DecompressionBombWarning")
@pytest.mark.parametrize("limit", [1000, 100], ids=["pillow would warn", "pillow would refuse"])
def test_too_many_pixels_are_refused_by_name_whatever_becomes_of_warnings(tmp_path, monkeypatch, limit):
    path = save(Image.fromarray(NOISE[..., :3]), tmp_path / "bomb.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", limit)
    with pytest.raises(OSError, match=r"bomb\.png.*1200"):
        read_image(path)


def test_limit_of_pixels_can_be_lifted(tmp_path, monkeypatch):
    path = save(Image.fromarray(NOISE[..., :3]), tmp_path / "large.png")
    monkeypatch.setattr(Image, "MAX_IMAGE_PIXELS", None)
    assert read_image(path).size == (30, 40)


def test_setting_that_fills_images_in_silence_is_refused(tmp_path, monkeypatch):
    path = save(Image.fromarray(NOISE[..., :3]), tmp_path / "a.jpg")
    monkeypatch.setattr(ImageFile, "LOAD_TRUNCATED_IMAGES", True)
    with pytest.raises(RuntimeError, match="LOAD_TRUNCATED_IMAGES"):
        read_image(path)


def test_postscript_under_the_name_of_an_image_is_not_run(tmp_path, monkeypatch):
    path = tmp_path / "a.jpg"
    path.write_bytes(b"%!PS-Adobe-3.0 EPSF-3.0\n%%BoundingBox: 0 0 4 4\n%%EndComments\nshowpage\n%%EOF\n")
    monkeypatch.setattr("PIL.EpsImagePlugin.Ghostscript", lambda *_, **__: pytest.fail("it was run"))
    with pytest.raises(
        OSError, match=r"a whole image at .*a\.jpg, but it does not decode \(it is none of BMP"
    ):
        read_image(path)
