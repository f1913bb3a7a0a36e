"""What looks on while an operation runs, where only plain operations of torch will do."""

import torch
from torch.autograd import forward_ad


def is_transformed(*tensors: torch.Tensor) -> bool:
    """Whether a transform of `torch.func` is active or one of the tensors carries a forward-mode tangent.

    Example:
        >>> is_transformed(torch.ones(2)), torch.vmap(lambda x: x + is_transformed(x))(torch.ones(2))
        (False, tensor([2., 2.]))
    """
    # Public names tell nothing of transforms; torch asks this one in every call of an autograd.Function.
    active: bool = torch._C._are_functorch_transforms_active()
    return active or any(forward_ad.unpack_dual(tensor).tangent is not None for tensor in tensors)


def has_hidden_batch(grad: torch.Tensor) -> bool:
    """Whether `torch.autograd.grad(..., is_grads_batched=True)` runs a backward on many gradients at once."""
    hidden: bool = torch._C._functorch.is_legacy_batchedtensor(grad)
    return hidden
