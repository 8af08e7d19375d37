"""HTML and SVG elements with escaped text."""

from html import escape

from tradesaga.consumers.audit.report.formatting import harmless


class Markup(str):
    """Text that is markup, as `element` and `join` return it."""

    __slots__ = ()


def text(value: str, longest: int = 4000) -> Markup:
    """Escape a text for HTML, with control and bidirectional characters made visible."""
    return Markup(escape(harmless(value, longest), quote=True))


def element(tag: str, *content: str, **attributes: str | float) -> Markup:
    """Return an element; content and attributes that are not markup are escaped.

    In attribute names, a trailing underscore is removed and others become hyphens: `class_`, `stroke_width`.
    """
    written = "".join(f' {name.rstrip("_").replace("_", "-")}="{_value(value)}"' for name, value in attributes.items())
    return Markup(f"<{tag}{written}>{join(*content)}</{tag}>")


def join(*content: str) -> Markup:
    """Join content; what is not markup is escaped."""
    return Markup("".join(each if isinstance(each, Markup) else text(each) for each in content))


def _value(value: str | float) -> str:
    return text(value) if isinstance(value, str) else f"{value:.2f}".rstrip("0").rstrip(".")
