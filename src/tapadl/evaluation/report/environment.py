"""Templates of pages: what all pages share lies here, the rest with the package that writes the page."""

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined
from markupsafe import Markup

from tapadl.evaluation.report import words
from tapadl.evaluation.report.charts import mark


def page_environment(package: str) -> Environment:
    """An environment for the templates of a package, over those of all pages.

    `page.html.j2` is the frame to extend, `page.css` its look. A name that is not there is an error.

    Args:
        package: The package with a folder `templates`.
    """
    environment = Environment(
        loader=ChoiceLoader([PackageLoader(package), PackageLoader("tapadl.evaluation.report")]),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    environment.filters.update(
        percent=words.percent,
        duration=words.duration,
        milliseconds=words.milliseconds,
        corruption=words.corruption_label,
        breakable=_breakable,
    )
    environment.globals.update(mark=mark)
    return environment


def _breakable(name: str) -> Markup:
    """A name that a narrow screen may break behind an underscore, as in vit_tiny_patch16_224."""
    return Markup("_<wbr>").join(name.split("_"))
