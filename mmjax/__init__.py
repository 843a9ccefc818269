"""mmjax: text to images and video, images to text, one image into another, in JAX and Flax."""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from mmjax.export.load import load as load

__version__ = "0.1.0"
__all__ = ["load"]


def __getattr__(name: str) -> Any:
    # Loaded when first asked for: `import mmjax` alone stays quick.
    if name == "load":
        from mmjax.export.load import load

        return load
    raise AttributeError(f"module 'mmjax' has no attribute {name!r}")
