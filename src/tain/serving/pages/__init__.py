"""Web pages of the server: one to try the models, and one that lists the endpoints. They load nothing from elsewhere."""

import base64
import hashlib
import re
from importlib import resources

from starlette.responses import Response

_SHARED = re.compile(r"/\* (common\.(?:css|js)) \*/")  # where a page has the content of that file
_INLINE = re.compile(r"<(script|style)>(.*?)</\1>", re.DOTALL)


def page_response(name: str) -> Response:
    """Make the response of a page.

    The security policy lets the browser run only the script and style of the page, and send requests only to this server.

    Args:
        name: File in this folder.
    """
    html = _SHARED.sub(lambda found: _read(found[1]).strip(), _read(name))
    allowed: dict[str, list[str]] = {"script": [], "style": []}
    for kind, content in _INLINE.findall(html):
        digest = base64.b64encode(hashlib.sha256(content.encode()).digest()).decode()
        allowed[kind].append(f"'sha256-{digest}'")
    policy = "; ".join(
        [
            "default-src 'none'",
            *(f"{kind}-src {' '.join(sources)}" for kind, sources in allowed.items()),
            "connect-src 'self'",
            "img-src data:",
            "base-uri 'none'",
            "form-action 'none'",
            "frame-ancestors 'none'",
        ]
    )
    headers = {"Content-Security-Policy": policy, "X-Content-Type-Options": "nosniff", "Referrer-Policy": "no-referrer"}
    return Response(html, media_type="text/html; charset=utf-8", headers=headers)


def _read(name: str) -> str:
    return resources.files(__name__).joinpath(name).read_text(encoding="utf-8")
