"""URLs as they are given to `load`: which strings are some, and how messages name them.

Standard library only.
"""

import re

_SCHEME = re.compile(r"(?:[A-Za-z][\w+.-]*::)*[A-Za-z][\w+.-]*://")
_IN_TEXT = re.compile(r"[A-Za-z][\w+.-]{0,30}://[^\s'\"<>]+")
# A slash belongs before no "@" of a user and password, but people forget to quote it: what looks
# like a password (a colon, and no number of a port) is taken to go on to the last "@".
_USER = re.compile(r"://(?:[^/?#]*@|[^/?#:@]+:(?!:|\d*(?:[/?#]|$)).*@)", re.DOTALL)
_QUERY = re.compile(r"([?#]).+", re.DOTALL)


def is_url(path: object) -> bool:
    """Return whether a path is a URL, or a chain of some: a string with ``://`` after a scheme.

    Examples
    --------
    >>> is_url("https://host/a.dcz"), is_url("simplecache::s3://bucket/a.dcz"), is_url("./a://b")
    (True, True, False)
    """
    return isinstance(path, str) and _SCHEME.match(path) is not None


def without_credentials(url: str) -> str:
    """Return a URL without user, password and query: that is where keys and signatures stand.

    Examples
    --------
    >>> without_credentials("https://me:secret@host:8080/model.dcz?token=secret")
    'https://host:8080/model.dcz?...'
    """
    return _QUERY.sub(r"\1...", _USER.sub("://", url))


def text_without_credentials(text: str) -> str:
    """Return a text in which all URLs are `without_credentials`.

    Examples
    --------
    >>> text_without_credentials("no answer from 's3://key:secret@bucket/m.dcz'")
    "no answer from 's3://bucket/m.dcz'"
    """
    return _IN_TEXT.sub(lambda found: without_credentials(found[0]), text)
