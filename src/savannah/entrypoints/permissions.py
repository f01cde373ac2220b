"""Who may do what, as a page: asked of the use cases and read off the endpoints, never typed twice.

A use case is asked by calling it as somebody who may do nothing: each looks at its caller first,
and says what is missing.
"""

from __future__ import annotations

import inspect
from collections.abc import Awaitable, Callable, Iterable, Iterator
from typing import Any, Final

from savannah.adapters.logout_sender import HttpLogoutSender
from savannah.adapters.memory import MemoryRateLimiter, MemoryStorage
from savannah.adapters.passwords import Argon2Hasher
from savannah.adapters.proofs import JoseProofs
from savannah.adapters.system import SystemClock, SystemRandomness
from savannah.adapters.tokens import JoseTokens
from savannah.application.identity import IdentitySettings
from savannah.application.savannah import Identity
from savannah.domain.access import ROLE_SCOPES, Caller, Role, Scope
from savannah.domain.errors import InsufficientScope, RoleForbidden
from savannah.domain.order import TRANSITIONS
from savannah.entrypoints.http.operations import OPERATION, Operation
from savannah.entrypoints.http.routes import API_PREFIX, API_ROUTES
from savannah.entrypoints.library import in_memory

UseCase = Callable[..., Awaitable[object]]

OWN: Final = "one's own"
LOGIN: Final = "a token"
NOTHING: Final = "nothing"

_HEAD: Final = """\
# Permissions

<!-- Written by `savannah permissions --output docs/reference/permissions.md`; a test compares. -->

A caller may do what both the role and the token allow. Each use case checks that itself, before
anything else, so it is the same over HTTP, on the command line and for programs that embed the
core. A role acts as it is at the moment of the request; a machine client has none, only its scopes.
The operator on the command line may do everything.
"""
_OBJECTS: Final = """\
Beyond the scope:

- One's own is one's account and the login a request came with; another's is out of reach there.
- A third-party app acts for a person within its scopes and looks after no account: it reads the
  profile with `profile` and `email`, and may not change it, the password or consents.
- An order moves along the edges above, each with its own scope.
- Nobody gives a machine client a scope they do not have themselves, nor takes a secret or sets a
  key for one that has it.
- The last active administrator can be neither demoted nor locked out.
"""
_OPEN: Final = """\
Where it needs nothing, the endpoint has a limit or a secret of its own. `create-app` needs
`apps:manage` unless `APP_CREATION` is open.
"""


def use_cases() -> Iterator[tuple[str, UseCase]]:
    """Every use case by its name, such as `orders.cancel`."""
    savannah = in_memory()
    storage, clock = MemoryStorage(), SystemClock()
    identity = Identity.over(
        storage=storage,
        tokens=JoseTokens(
            storage=storage, clock=clock, secret_key="", issuer="http://localhost", audience=""
        ),
        hasher=Argon2Hasher(),
        limiter=MemoryRateLimiter(clock),
        clock=clock,
        randomness=SystemRandomness(),
        proofs=JoseProofs(),
        logout_sender=HttpLogoutSender(allow_loopback=False),
        settings=IdentitySettings(),
        issuer="http://localhost",
        ticket_key=b"",
    )
    for nouns, owner in (
        (("customers", "orders", "notifications", "reports"), savannah),
        (("accounts", "apps", "logins"), identity),
    ):
        for noun in nouns:
            for name, method in inspect.getmembers(
                getattr(owner, noun), inspect.iscoroutinefunction
            ):
                if not name.startswith("_"):
                    yield f"{noun}.{name}", method


async def attempt(use_case: UseCase, by: Caller) -> None:
    """Call a use case with nothing but its caller. Raises: whatever it refuses first."""
    given: dict[str, Any] = {
        name: None
        for name, parameter in inspect.signature(use_case).parameters.items()
        if parameter.default is parameter.empty
    }
    await use_case(**{**given, "by": by})


async def needs() -> dict[str, str | None]:
    """What each use case needs: a scope, `OWN`, or None where it has no caller at all."""
    nobody = Caller(principal="nobody", permissions=frozenset())
    found: dict[str, str | None] = {}
    for name, use_case in use_cases():
        if "by" not in inspect.signature(use_case).parameters:
            found[name] = None
            continue
        try:
            await attempt(use_case, nobody)
        except InsufficientScope as refused:
            found[name] = refused.required_scope
        except RoleForbidden:
            found[name] = OWN
        else:
            raise AssertionError(f"{name} lets everybody in")
    return found


def routes() -> Iterator[tuple[str, str, str]]:
    """Every endpoint of the API: method, path, and what it needs."""
    for handler in API_ROUTES:
        operation: Operation = handler.opt[OPERATION]
        if operation.scope is not None:
            need = operation.scope.value
        else:
            need = LOGIN if operation.auth == "token" else NOTHING
        for path in handler.paths:
            for method in handler.http_methods:
                yield str(method), API_PREFIX + path.replace(":str}", "}").rstrip("/") + "/", need


async def page() -> str:
    """The whole page, in Markdown."""
    with_caller = {name: need for name, need in (await needs()).items() if need is not None}
    without = [name for name, need in (await needs()).items() if need is None]
    parts = [
        _HEAD,
        "## Scopes\n",
        _table("scope", ((f"`{scope}`", scope) for scope in Scope), shown=False),
        "## Use cases\n",
        _table("use case", ((f"`{name}`", need) for name, need in with_caller.items())),
        "Without a caller, for the doors and the worker, who know what they are about: "
        + ", ".join(f"`{name}`" for name in without)
        + ".\n",
        "## Orders\n",
        _table(
            "step",
            ((f"{edge.source} to {edge.target}", edge.scope.value) for edge in TRANSITIONS),
        ),
        _OBJECTS,
        "## Endpoints\n",
        _table(
            "endpoint",
            (
                (f"`{m} {path}`", need)
                for m, path, need in sorted(routes(), key=lambda route: (route[1], route[0]))
            ),
        ),
        _OPEN,
    ]
    return "\n".join(parts)


def _table(what: str, rows: Iterable[tuple[str, str]], *, shown: bool = True) -> str:
    """Rows with what each needs, if that is `shown`, and the roles that have it."""
    columns = [what, *(["needs"] if shown else []), *Role]
    lines = [columns, ["---"] * len(columns)]
    for name, need in rows:
        needed = f"`{need}`" if ":" in need else need
        allowed = ["yes" if ":" not in need or need in ROLE_SCOPES[role] else "-" for role in Role]
        lines.append([name, *([needed] if shown else []), *allowed])
    return "".join(f"| {' | '.join(line)} |\n" for line in lines)
