"""The templates of the pages that are written."""

from jinja2 import Environment, PackageLoader, StrictUndefined


def templates() -> Environment:
    """The templates of this folder: escaped, and strict about names."""
    return Environment(
        loader=PackageLoader("stf_jax.evaluation.pages", "."),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
