"""How this business works: its country, currencies, language and policy for texts."""

from __future__ import annotations

import re
from dataclasses import dataclass, field

from savannah.domain.money import DEFAULT_CURRENCIES
from savannah.domain.notification_policy import Policy
from savannah.domain.sms_text import Locale


@dataclass(frozen=True, slots=True, kw_only=True)
class Business:
    """Plain values that the use cases follow.

    Attributes:
        region: ISO 3166 code of the country whose national phone spellings callers may use.
        currency: what an order is in when nobody says otherwise.

    Raises: ValueError, when `region` is written in another way.
    """

    region: str = "KE"
    currency: str = "KES"
    currencies: tuple[str, ...] = DEFAULT_CURRENCIES
    locale: Locale = Locale.EN
    policy: Policy = field(default_factory=Policy)

    def __post_init__(self) -> None:
        if not re.fullmatch("[A-Z]{2}", self.region):
            raise ValueError("region: must be two capital letters of ISO 3166, such as KE")
