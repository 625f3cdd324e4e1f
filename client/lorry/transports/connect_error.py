"""Why no connection was made, in words that say what to do about it."""

from __future__ import annotations

import errno

from lorry.errors import ConnectError


def connect_error(url: str, cause: BaseException, *, is_name_unknown: bool = False) -> ConnectError:
    """Return (not raise) the error for a connection that failed because of `cause`."""
    code = getattr(cause, "errno", None)
    if is_name_unknown:
        reason = "its host name is not known"
    elif _is_tls(cause):
        reason = "the TLS handshake failed"
    elif code == errno.ECONNREFUSED:
        reason = "it refuses connections; is the server running?"
    elif code in (errno.EMFILE, errno.ENFILE):
        reason = "no file descriptor is left; raise `ulimit -n` or make fewer calls at once"
    elif code == errno.EADDRNOTAVAIL:
        reason = "no local port is left; make fewer calls at once"
    else:
        reason = "no connection was made"
    return ConnectError(
        f"cannot connect to {url}: {reason} ({cause})", refused=code == errno.ECONNREFUSED
    )


def _is_tls(cause: BaseException) -> bool:
    import ssl  # something failed: there is time to load it

    return isinstance(cause, ssl.SSLError)
