"""The header lines of the console's answers: what a browser may do with them, and that it must not guess their type."""

from mooring.web.http1 import header_lines

# No site but this server is asked, nothing runs that stands in the page itself, and nobody shows the page in a frame.
CONTENT_SECURITY_POLICY = (
    "default-src 'none'; script-src 'self'; style-src 'self'; img-src 'self' blob: data:; connect-src 'self'; "
    "base-uri 'none'; form-action 'none'; frame-ancestors 'none'"
)

FOR_FILES = header_lines(
    [
        ("content-security-policy", CONTENT_SECURITY_POLICY),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-opener-policy", "same-origin"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cache-control", "no-cache"),
    ]
)
"""Those of the page and its files, which a browser keeps and asks for again each time."""

FOR_DATA = header_lines(
    [
        ("content-security-policy", "default-src 'none'; frame-ancestors 'none'"),
        ("x-content-type-options", "nosniff"),
        ("referrer-policy", "no-referrer"),
        ("cross-origin-resource-policy", "same-origin"),
        ("cache-control", "no-store"),
    ]
)
"""Those of answers with data, which nobody keeps."""
