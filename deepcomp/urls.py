"""URLs where paths may be: which strings are some, how messages name them, and what is beside them.

Standard library only.
"""

import os
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


def shown(path: str) -> str:
    """Return how messages name a path or a URL."""
    return without_credentials(path) if is_url(path) else path


def join(folder: str, name: str) -> str:
    """Return the path, or the URL, of a file in a folder.

    Examples
    --------
    >>> join("https://host/packed/?token=a", "model.dcz"), join("packed", "model.dcz")
    ('https://host/packed/model.dcz?token=a', 'packed/model.dcz')
    """
    if not is_url(folder):
        return os.path.join(folder, name)
    start, mark, query = folder.partition("?")
    return f"{start if start.endswith('/') else start + '/'}{name}{mark}{query}"


def beside(path: str, name: str) -> str:
    """Return the path, or the URL, of a file in the folder of another.

    Examples
    --------
    >>> beside("s3://bucket/packed/model.dcz.index.json", "a.dcz")
    's3://bucket/packed/a.dcz'
    """
    if not is_url(path):
        return os.path.join(os.path.dirname(path), name)
    start, mark, query = path.partition("?")
    return f"{start.rpartition('/')[0]}/{name}{mark}{query}"


def text_without_credentials(text: str) -> str:
    """Return a text in which all URLs are `without_credentials`.

    Examples
    --------
    >>> text_without_credentials("no answer from 's3://key:secret@bucket/m.dcz'")
    "no answer from 's3://bucket/m.dcz'"
    """
    return _IN_TEXT.sub(lambda found: without_credentials(found[0]), text)
