"""Where a server may listen without a token."""

import ipaddress

from avjax.errors import InputError

_LEAST_TOKEN = 16  # characters


def is_loopback(host: str) -> bool:
    """Whether a host can be reached from this machine alone."""
    try:
        return ipaddress.ip_address(host).is_loopback
    except ValueError:
        return host == "localhost"


def check_token(host: str, token: str | None) -> None:
    """Raises InputError unless a host may be served with this token."""
    if token is None and not is_loopback(host):
        raise InputError(
            f"--host={host} can be reached from other machines, so it needs a --token or "
            "AVJAX_TOKEN; make one: python -c 'import secrets; print(secrets.token_urlsafe())'"
        )
    if token is not None and len(token) < _LEAST_TOKEN:
        raise InputError(
            f"the token has {len(token)} characters; choose one of {_LEAST_TOKEN} or more"
        )
