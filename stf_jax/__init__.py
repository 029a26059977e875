"""Video-based person re-identification in JAX."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from stf_jax.embed import Extractor, embed_tracklets
    from stf_jax.identify import identify_tracklets, write_identities
    from stf_jax.match import match_tracklets, write_matches

__version__ = "0.1.0"
__all__ = [
    "Extractor",
    "__version__",
    "embed_tracklets",
    "identify_tracklets",
    "match_tracklets",
    "write_identities",
    "write_matches",
]

_HOMES = {
    "Extractor": "stf_jax.embed",
    "embed_tracklets": "stf_jax.embed",
    "identify_tracklets": "stf_jax.identify",
    "match_tracklets": "stf_jax.match",
    "write_identities": "stf_jax.identify",
    "write_matches": "stf_jax.match",
}


def __getattr__(name: str) -> Any:
    """Import what needs the frameworks on first use."""
    if name in _HOMES:
        import importlib

        return getattr(importlib.import_module(_HOMES[name]), name)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    """Name what is public, imported or not."""
    return sorted({*globals(), *__all__})
