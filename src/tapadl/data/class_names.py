"""What the names of class folders say about a model's outputs."""

from collections.abc import Sequence
from functools import cache


@cache
def wordnet_ids() -> tuple[str, ...]:
    """The WordNet ids of ImageNet's 1,000 classes, in the order of a model's outputs.

    Example:
        >>> wordnet_ids()[:2]
        ('n01440764', 'n01443537')
    """
    from timm.data.imagenet_info import ImageNetInfo

    info = ImageNetInfo("imagenet-1k")
    return tuple(info.index_to_label_name(output) for output in range(1000))


def outputs_of(class_names: Sequence[str]) -> tuple[int, ...] | None:
    """The output of an ImageNet model for each class; None where class i is output i.

    Args:
        class_names: Folder names. Where all are WordNet ids of ImageNet, and not all of them are there, each
            is an output of the 1,000. Otherwise the names say nothing.

    Example:
        >>> outputs_of(["n01443537", "n01440764"]), outputs_of(["cat", "dog"])
        ((1, 0), None)
    """
    output_of = {wordnet_id: output for output, wordnet_id in enumerate(wordnet_ids())}
    if len(class_names) == len(output_of) or not output_of.keys() >= set(class_names):
        return None
    return tuple(output_of[name] for name in class_names)


def are_numbers_of_v2(class_names: Sequence[str]) -> bool:
    """Whether the names are the numbers 0 to 999, which sorted as text are not in the order of the outputs.

    Example:
        >>> are_numbers_of_v2([str(number) for number in range(1000)]), are_numbers_of_v2(["0", "1"])
        (True, False)
    """
    return set(class_names) == {str(number) for number in range(1000)}
