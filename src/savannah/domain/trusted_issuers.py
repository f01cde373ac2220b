"""Other issuers whose access tokens we take: what one must say, and what it then allows here.

Only the rules. Whether the signature is right is the adapter's to find out, and nothing of a token
counts before that.
"""

from __future__ import annotations

from collections.abc import Mapping
from dataclasses import dataclass, field
from datetime import UTC, datetime, timedelta
from typing import Any, Final
from uuid import UUID

from savannah.domain.access import ROLE_SCOPES, Caller, Role, Scope, expand
from savannah.domain.errors import InvalidToken, TokenExpired

# Clocks of other houses; our own tokens get no such leeway.
SKEW: Final = timedelta(seconds=60)

AT_JWT: Final = "at+jwt"
PLAIN_JWT: Final = "jwt"
RSA: Final = "RSA"
# Each algorithm with the kind of key it takes: RSA, or the curve (RFC 7518 section 3.1). No `none`
# and nothing with a shared secret, so that a public key never passes for one.
ALGORITHMS: Final[Mapping[str, str]] = {
    **{f"{family}{bits}": RSA for family in ("RS", "PS") for bits in (256, 384, 512)},
    "ES256": "P-256",
    "ES384": "P-384",
    "ES512": "P-521",
}

Path = tuple[str, ...]

_SUBJECT_MAX: Final = 255  # OpenID Connect Core section 2
_LAST_SECOND: Final = 253_402_214_400  # a day before the year 10000, which no clock here has
_CLIENT_CLAIMS: Final = ("azp", "client_id", "appid", "cid")
# Keycloak and Cognito say in the payload what a token is for.
_OTHER_PURPOSES: Final = frozenset({"id", "refresh", "offline", "logout"})
_ACCESS_PURPOSES: Final = frozenset({"bearer", "access", "dpop"})
# Members an access token has and an ID token has not, where `typ` does not tell them apart.
_OF_ACCESS_TOKENS: Final = (
    *("scope", "scp", "client_id", "appid", "cid", "azpacr", "appidacr", "gty", "permissions"),
)
_OF_ID_TOKENS: Final = ("at_hash", "c_hash", "s_hash")
_RANK: Final = tuple(Role)  # the later, the more it may do


@dataclass(frozen=True, slots=True, kw_only=True)
class ExternalIdentity:
    """Whom a foreign token speaks for, and what that is worth here.

    Who somebody is, is the pair of issuer and subject, never an e-mail address: another issuer may
    give the same subject to somebody else.

    Attributes:
        client: the program the token was given to, as its issuer names it.
        issued_at: as late as it can have been where the token does not say.
        role: None for one to whom no role was mapped, programs among them.
    """

    issuer: str
    subject: str
    client: str | None
    role: Role | None
    permissions: frozenset[Scope]
    issued_at: datetime
    expires_at: datetime

    @property
    def principal(self) -> str:
        """What audit rows and limits name; the first `#` ends the issuer, which has none."""
        return f"external:{self.issuer}#{self.subject}"

    def caller(self, *, request_id: str | None = None) -> Caller:
        """A caller without an account and without a login of ours."""
        return Caller(
            principal=self.principal,
            permissions=self.permissions,
            role=self.role,
            request_id=request_id,
        )


@dataclass(frozen=True, slots=True, kw_only=True)
class TrustedIssuer:
    """One issuer an operator trusts, and how far.

    Attributes:
        issuer: as it stands in `iss`, character for character.
        audiences: a token must be meant for one of them.
        algorithms: names of `ALGORITHMS`; the token does not get to choose another.
        token_types: what the header's `typ` may be, in small letters; `jwt` also stands for none.
        roles: the issuer's name for a role or group, and what it is here; the highest counts.
        roles_claim: where those names are; the first of these paths that leads anywhere.
        default_role: for people to whom `roles` gives nothing.
        scopes_from_role: the role alone decides, because the issuer knows no scopes of ours.
        scope_claim: where the scopes are, as `roles_claim`.
        scope_names: the issuer's name for a scope, and ours or an alias of ours.
        machine_scopes: what programs with tokens of their own and no role may have at most.
        tenant: what `tid` must be, where the issuer has several.
        jwks_uri: where the keys are; None asks the discovery document.
    """

    issuer: str
    audiences: frozenset[str]
    algorithms: tuple[str, ...] = ("RS256",)
    token_types: frozenset[str] = frozenset({AT_JWT})
    roles: Mapping[str, Role] = field(default_factory=dict)
    roles_claim: tuple[Path, ...] = (("roles",),)
    default_role: Role | None = None
    scopes_from_role: bool = False
    scope_claim: tuple[Path, ...] = (("scope",), ("scp",))
    scope_names: Mapping[str, str] = field(default_factory=dict)
    machine_scopes: frozenset[Scope] = frozenset()
    tenant: str | None = None
    jwks_uri: str | None = None

    def identity(
        self, header: Mapping[str, Any], claims: Mapping[str, Any], *, now: datetime
    ) -> ExternalIdentity:
        """Whom these claims speak for, once their signature has been verified.

        Source: RFC 9068 section 4, RFC 8725 section 3. Members that bring their own key (`jku`,
        `jwk`, `x5u`, `x5c`) are not looked at.

        Raises:
            InvalidToken: a member is missing, of the wrong kind, or not as it must be.
            TokenExpired.
        """
        self._check_purpose(header, claims)
        audience = claims.get("aud")
        meant_for = audience if isinstance(audience, list) else [audience]
        subject = claims.get("sub")
        if (
            claims.get("iss") != self.issuer
            or not any(isinstance(each, str) and each in self.audiences for each in meant_for)
            or not isinstance(subject, str)
            or not 0 < len(subject) <= _SUBJECT_MAX
            or not (subject.isascii() and subject.isprintable())
            or (self.tenant is not None and not _same_tenant(claims.get("tid"), self.tenant))
        ):
            raise InvalidToken
        expires_at = _moment(claims.get("exp"))
        begun = [_moment(claims[name]) for name in ("iat", "nbf") if claims.get(name) is not None]
        if any(moment > now + SKEW for moment in begun):
            raise InvalidToken
        if expires_at + SKEW <= now:
            raise TokenExpired
        client = _client_of(claims)
        role, permissions = self._rights(claims, subject, client)
        return ExternalIdentity(
            issuer=self.issuer,
            subject=subject,
            client=client,
            role=role,
            permissions=permissions,
            issued_at=begun[0] if begun else min(now, expires_at),
            expires_at=expires_at,
        )

    def _check_purpose(self, header: Mapping[str, Any], claims: Mapping[str, Any]) -> None:
        """Raises: InvalidToken, for anything but an access token that its bearer may use."""
        kind, kid = header.get("typ", PLAIN_JWT), header.get("kid")
        if not isinstance(kind, str) or not isinstance(kid, str | None):
            raise InvalidToken
        kind = kind.lower().removeprefix("application/")  # RFC 7515 section 4.1.9
        if kind not in self.token_types or header.get("alg") not in self.algorithms:
            raise InvalidToken
        # `crit` names what must be understood (RFC 7515 section 4.1.11), and we understand
        # nothing; `cnf` binds a token to a key that a bearer does not show.
        if "crit" in header or "cnf" in claims or "events" in claims:
            raise InvalidToken
        purposes = {_word(claims.get("typ")), _word(claims.get("token_use"))}
        if purposes & _OTHER_PURPOSES or any(name in claims for name in _OF_ID_TOKENS):
            raise InvalidToken
        if kind != AT_JWT and not purposes & _ACCESS_PURPOSES:
            is_access_token = any(name in claims for name in _OF_ACCESS_TOKENS)
            if "nonce" in claims or not is_access_token:
                raise InvalidToken

    def _rights(
        self, claims: Mapping[str, Any], subject: str, client: str | None
    ) -> tuple[Role | None, frozenset[Scope]]:
        machine = (
            (client is not None and subject in (client, f"{client}@clients"))
            or claims.get("gty") == "client-credentials"
            or claims.get("idtyp") == "app"
        )
        named = _names(_found(claims, self.roles_claim), apart=False)
        mapped = [self.roles[name] for name in named if name in self.roles]
        role = max(mapped, key=_RANK.index) if mapped else None if machine else self.default_role
        if role is not None and self.scopes_from_role:
            return role, ROLE_SCOPES[role]
        words = _names(_found(claims, self.scope_claim), apart=True)
        # The short names `read` and `write` may mean anything elsewhere: only `scope_names` says.
        ours = expand(self.scope_names.get(word, word if ":" in word else "") for word in words)
        granted = frozenset(scope for scope in Scope if scope in ours)
        if role is not None:
            return role, granted & ROLE_SCOPES[role]
        return None, granted & self.machine_scopes if machine else frozenset()


def _found(claims: Mapping[str, Any], paths: tuple[Path, ...]) -> object:
    """What stands at the first of these paths that leads anywhere; None without any."""
    for path in paths:
        here: object = claims
        for name in path:
            here = here.get(name) if isinstance(here, dict) else None
        if here is not None:
            return here
    return None


def _names(value: object, *, apart: bool) -> list[str]:
    """The strings of a list; of a text, its words or the whole."""
    if isinstance(value, str):
        return value.split() if apart else [value]
    return [each for each in value if isinstance(each, str)] if isinstance(value, list) else []


def _client_of(claims: Mapping[str, Any]) -> str | None:
    for name in _CLIENT_CLAIMS:
        if isinstance(client := claims.get(name), str) and client:
            return client
    return None


def _word(value: object) -> str:
    return value.lower() if isinstance(value, str) else ""


def _same_tenant(value: object, tenant: str) -> bool:
    try:
        return isinstance(value, str) and UUID(value) == UUID(tenant)
    except ValueError:
        return False


def _moment(seconds: object) -> datetime:
    """A time of a token: seconds since 1970, perhaps with a fraction (RFC 7519 section 2).

    Raises: InvalidToken.
    """
    # True is a number too, and NaN fits no range.
    if type(seconds) not in (int, float) or not 0 <= seconds <= _LAST_SECOND:  # type: ignore[operator]  # a number now
        raise InvalidToken
    return datetime.fromtimestamp(seconds, UTC)  # type: ignore[arg-type]  # likewise
