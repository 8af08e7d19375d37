"""HTML and SVG whose every text is escaped: what a stranger wrote can become text on a page, and nothing else."""

from html import escape

from tradesaga.consumers.audit.report.formatting import harmless


class Markup(str):
    """Text that is markup already, made by `element` or `join` alone."""

    __slots__ = ()


def text(value: str, longest: int = 4000) -> Markup:
    """Escape a text; control characters and those that turn the direction of writing are shown, not obeyed."""
    return Markup(escape(harmless(value, longest), quote=True))


def element(tag: str, *content: str, **attributes: str | float) -> Markup:
    """Make an element; content and attributes that are no markup yet are escaped.

    A trailing underscore of an attribute's name is dropped, others become hyphens: `class_`, `stroke_width`.
    """
    written = "".join(f' {name.rstrip("_").replace("_", "-")}="{_value(value)}"' for name, value in attributes.items())
    return Markup(f"<{tag}{written}>{join(*content)}</{tag}>")


def join(*content: str) -> Markup:
    """Put content together."""
    return Markup("".join(each if isinstance(each, Markup) else text(each) for each in content))


def _value(value: str | float) -> str:
    return text(value) if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
