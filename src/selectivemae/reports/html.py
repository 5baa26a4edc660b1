"""Self-contained pages from the templates beside this file."""

import base64
from typing import Any


def fill(template: str, **values: Any) -> str:
    """A template of ``templates/`` as HTML; values are escaped, and one that is not given is an error."""
    from jinja2 import Environment, PackageLoader, StrictUndefined

    environment = Environment(
        loader=PackageLoader("selectivemae.reports"),
        autoescape=True,
        undefined=StrictUndefined,
        trim_blocks=True,
        lstrip_blocks=True,
    )
    return environment.get_template(template).render(**values)


def data_uri(data: bytes, kind: str) -> str:
    """Encoded image bytes (``kind`` png or jpeg) as an address that a page carries inside."""
    return f"data:image/{kind};base64,{base64.b64encode(data).decode()}"
