"""Templates of pages: what all pages share lies here, the rest with the package that writes the page."""

from jinja2 import ChoiceLoader, Environment, PackageLoader, StrictUndefined

from tapadl.evaluation.report import words


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
    )
    return environment
