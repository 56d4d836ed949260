"""Set Ray's authentication mode in this process to that of the cluster, which is asked for it.

Both sides must use the same mode. A cluster that asks for a token refuses a driver without one. A cluster
that asks for none accepts a driver with a token, but then cannot reach it, takes it for dead and starts
none of its actors.
Ray reads ``RAY_AUTH_MODE`` when it is imported, and sets it where it starts a cluster itself.
"""

from __future__ import annotations

import os
from collections.abc import Iterator
from contextlib import contextmanager

from ray_kd.cluster.quiet import AUTH_MODE, TOKEN, TOKEN_IS_RAYS, native_quiet, quiet
from ray_kd.config.errors import UserError

quiet()
# Ray has no public way to change its mode once it is imported: these are what its own `ray.init` uses.
from ray._raylet import (  # type: ignore[attr-defined]  # noqa: E402
    AuthenticationTokenLoader,
    Config,
    GcsClient,
)
from ray.exceptions import AuthenticationError  # noqa: E402

_REMEDY = (
    "On the cluster's head 'ray get-auth-token' prints it: put it into the variable RAY_AUTH_TOKEN, or into "
    "a file that RAY_AUTH_TOKEN_PATH names, or into ~/.ray/auth_token, and run the same command again."
)


@contextmanager
def authentication(address: str | None) -> Iterator[None]:
    """Within the block Ray uses the cluster's mode; a Ray that is started here asks for a token.

    A ``RAY_AUTH_MODE`` that the user has set takes precedence, and is restored after the block.

    Args:
        address: ``host:port`` of a cluster; None: Ray is started here.

    Raises:
        UserError: the cluster asks for a token, and there is none, a wrong one, or one that may not be sent.
    """
    asked = os.environ.get(AUTH_MODE)
    if asked == TOKEN and TOKEN_IS_RAYS:
        asked = None
    try:
        _use(None)
        AuthenticationTokenLoader.instance().reset_cache()  # the file may have changed since Ray read it
        if address is not None:
            _use(_mode_of(address, asked))
        elif asked is None or asked.lower() == TOKEN:
            _has_token()  # Ray makes a token where there is none
            _use(TOKEN)
        else:
            _use(asked)
        yield
    finally:
        _use(asked)


def _use(mode: str | None) -> None:
    if mode is None:
        os.environ.pop(AUTH_MODE, None)
    else:
        os.environ[AUTH_MODE] = mode
    Config.initialize("")  # makes Ray read its environment again


def _mode_of(address: str, asked: str | None) -> str | None:
    """What ``RAY_AUTH_MODE`` must be for this cluster; called while no mode is set."""
    insists = asked is not None and asked.lower() == TOKEN
    if _admits(address):
        if not insists:
            return asked
        raise UserError(
            f"the Ray cluster at '{address}' asks for no token, but {AUTH_MODE}={asked} is set: with it, Ray "
            f"would join the cluster and start none of its trials. Unset {AUTH_MODE}, or restart the cluster "
            f"with {AUTH_MODE}=token and one token on every node."
        )
    if asked is not None and not insists:
        raise UserError(
            f"the Ray cluster at '{address}' asks for a token, but {AUTH_MODE}={asked} is set, so that none "
            f"is sent. Unset {AUTH_MODE}: a token is sent to a cluster that asks for one. {_REMEDY}"
        )
    if not _has_token():
        raise UserError(
            f"the Ray cluster at '{address}' asks for a token, and there is none here: RAY_AUTH_TOKEN and "
            f"RAY_AUTH_TOKEN_PATH are not set, and there is no ~/.ray/auth_token. {_REMEDY}"
        )
    _use(TOKEN)
    if not _admits(address):
        raise UserError(
            f"the Ray cluster at '{address}' refuses the token of {_source()}: it is not this cluster's. "
            f"(Ray leaves a token of its own in ~/.ray/auth_token when it is started here.) {_REMEDY}"
        )
    return TOKEN


def _admits(address: str) -> bool:
    """Whether a cluster accepts a connection in the present mode."""
    try:
        with native_quiet():
            GcsClient(address=address)
    except AuthenticationError:
        return False
    return True


def _has_token() -> bool:
    try:
        return bool(AuthenticationTokenLoader.instance().has_token(ignore_auth_mode=True))
    except AuthenticationError as error:
        raise UserError(f"Ray finds no token ({str(error).partition('. ')[0]}). {_REMEDY}") from error


def _source() -> str:
    """Where Ray has found the token, in the order in which it looks."""
    if os.environ.get("RAY_AUTH_TOKEN"):
        return "RAY_AUTH_TOKEN"
    file = os.environ.get("RAY_AUTH_TOKEN_PATH")
    return f"RAY_AUTH_TOKEN_PATH ('{file}')" if file else "~/.ray/auth_token"
