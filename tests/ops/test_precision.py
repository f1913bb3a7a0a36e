import torch

from tapadl.ops.precision import without_autocast


def test_autocast_is_off_inside_and_back_after():
    square = torch.ones(2, 2)
    with torch.autocast("cpu", torch.bfloat16):
        with without_autocast(square.device):
            assert (square @ square).dtype == torch.float32
        assert (square @ square).dtype == torch.bfloat16


def test_devices_without_autocast_pass():
    with without_autocast(torch.device("meta")):
        assert torch.ones(2, device="meta").is_meta
