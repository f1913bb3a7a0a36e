"""griffe extension: `Example:` in a docstring is a section of code, as `Examples:` is in Google's style."""

import re
from typing import Any

from griffe import Extension, Object


class ShowExamples(Extension):
    """Renames the section while docstrings are read."""

    def on_object(self, *, obj: Object, **_: Any) -> None:
        """Called by griffe with each module, class, function and attribute."""
        if obj.docstring is not None:
            obj.docstring.value = re.sub(r"(?m)^Example:$", "Examples:", obj.docstring.value)
