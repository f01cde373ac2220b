"""The customer: every broken field at once, one revision per real change, an unchanging code."""

from dataclasses import replace
from datetime import UTC, datetime, timedelta
from uuid import UUID

import pytest
from hypothesis import given
from hypothesis import strategies as st

from savannah.domain.customer import (
    CODE_SYMBOLS,
    READ_ONLY,
    Customer,
    CustomerId,
    Reachability,
    code,
    generated_code,
)
from savannah.domain.errors import CustomerArchived, CustomerErased, Invalid, Refused
from savannah.domain.phone import PhoneNumber
from savannah.domain.sms_text import Locale
from savannah.testing import customers, emails, metadata, phone_numbers, phone_spellings, texts

NOW = datetime(2026, 11, 23, 9, 15, tzinfo=UTC)
LATER = NOW + timedelta(hours=1)


def create(**fields):
    given = {
        "id": CustomerId(UUID(int=1)),
        "name": "Jane Smith",
        "phone_number": "0700 123 456",
        "code": "CUST-4F7K2Q",
        "locale": "en",
        "region": "KE",
        "at": NOW,
    }
    return Customer.create(**given | fields)


def update(customer, **changes):
    return customer.updated(changes, region="KE", at=LATER)


def codes(call, *args, **options):
    """The broken fields and their codes."""
    with pytest.raises(Invalid) as invalid:
        call(*args, **options)
    return {problem.field: problem.code for problem in invalid.value.problems}


@given(
    data=st.data(),
    name=texts(most=255),
    phone=phone_numbers(),
    email=st.none() | emails(),
    locale=st.sampled_from(Locale),
    opted_out=st.booleans(),
    notes=texts(most=2000, least=0, multiline=True),
    pairs=metadata(),
)
def test_a_new_customer_holds_what_was_typed(
    *, data, name, phone, email, locale, opted_out, notes, pairs
):
    customer = create(
        name=f"\n{name} ",
        phone_number=data.draw(phone_spellings(phone)),
        email=email,
        locale=str(locale),
        sms_opt_out=opted_out,
        notes=notes,
        metadata=pairs,
    )
    assert (customer.name, customer.phone, customer.email) == (name, phone, email)
    assert (customer.locale, customer.sms_opt_out) == (locale, opted_out)
    assert (customer.notes, customer.metadata) == (notes, pairs)
    assert (customer.version, customer.reachability) == (1, Reachability.UNKNOWN)
    assert customer.created_at == customer.updated_at == NOW
    assert customer.archived_at is customer.erased_at is None


def test_a_customer_needs_no_more_than_a_name_and_a_phone():
    jane = create()
    assert jane.phone == PhoneNumber("+254700123456")
    assert (jane.email, jane.notes, jane.metadata, jane.sms_opt_out) == (None, "", {}, False)


def test_all_broken_fields_of_a_new_customer_are_told_at_once():
    assert codes(
        create,
        name=" ",
        phone_number="0202345678",
        email="jane",
        code="-",
        locale="fr",
        sms_opt_out=1,
        notes="\x00",
        metadata={"a": None},
    ) == {
        "name": "blank",
        "phone_number": "phone_not_mobile",
        "email": "invalid_email",
        "code": "too_short",
        "locale": "invalid_choice",
        "sms_opt_out": "wrong_type",
        "notes": "invalid_format",
        "metadata": "wrong_type",
    }


@pytest.mark.parametrize(
    ("fields", "found"),
    [
        ({"name": "x" * 256}, {"name": "too_long"}),
        ({"name": None}, {"name": "wrong_type"}),
        ({"phone_number": "0700FLOWER"}, {"phone_number": "invalid_phone"}),
        ({"phone_number": 700123456}, {"phone_number": "wrong_type"}),
        ({"phone_number": None}, {"phone_number": "wrong_type"}),
        ({"locale": None}, {"locale": "wrong_type"}),
        ({"email": f"{'a' * 250}@example.com"}, {"email": "too_long"}),
    ],
)
def test_each_rule_of_a_new_customer_has_its_code(fields, found):
    assert codes(create, **fields) == found


def test_national_spellings_are_those_of_the_region():
    assert create(phone_number="0700 123 456", region="UG").phone == PhoneNumber("+256700123456")


# The code


@given(st.from_regex(r"[A-Za-z0-9][A-Za-z0-9-]{1,19}", fullmatch=True))
def test_a_code_is_kept_in_upper_case(typed):
    assert code(f" {typed} ") == typed.upper()
    assert code(code(typed)) == code(typed)


@pytest.mark.parametrize(
    ("typed", "refusal"),
    [
        ("", "blank"),
        ("A", "too_short"),
        ("A" * 21, "too_long"),
        ("-A", "invalid_format"),
        ("A_B", "invalid_format"),
        ("A B", "invalid_format"),
        ("ÄB", "invalid_format"),
        ("ß" * 20, "invalid_format"),
        ("\u0131D", "invalid_format"),  # a dotless i, whose capital is I
        ("\u017fHOP", "invalid_format"),  # a long s
        (None, "wrong_type"),
    ],
)
def test_other_codes_are_refused(typed, refusal):
    with pytest.raises(Refused) as refused:
        code(typed)
    assert refused.value.code == refusal


@given(st.text(CODE_SYMBOLS, min_size=6, max_size=6))
def test_a_generated_code_is_a_valid_one(six):
    assert code(generated_code(six)) == f"CUST-{six}"


@given(customers(), st.text("ABCabc-19", max_size=8))
def test_a_code_never_changes(customer, typed):
    if typed.strip().upper() == customer.code:
        assert update(customer, code=typed) == (customer, ())
    else:
        assert codes(update, customer, code=typed) == {"code": "immutable_field"}
    assert codes(update, customer, code=None) == {"code": "immutable_field"}
    assert update(customer, code=f" {customer.code.lower()} ") == (customer, ())


# Updates


@given(st.data(), customers())
def test_repeating_what_a_customer_holds_changes_nothing(data, customer):
    after, changed = update(
        customer,
        name=f" {customer.name}\n",
        phone_number=data.draw(phone_spellings(customer.phone)),
        email=customer.email,
        code=customer.code,
        locale=str(customer.locale),
        sms_opt_out=customer.sms_opt_out,
        notes=customer.notes,
        metadata=dict(customer.metadata),
    )
    assert after is customer
    assert changed == ()
    assert update(customer) == (customer, ())


@given(
    customers(), customers(), st.sets(st.sampled_from(["name", "email", "notes", "sms_opt_out"]))
)
def test_an_update_changes_what_was_named_and_nothing_else(customer, other, names):
    after, changed = update(customer, **{name: getattr(other, name) for name in names})
    different = {name for name in names if getattr(customer, name) != getattr(other, name)}
    assert set(changed) == different
    for name in ("name", "email", "notes", "sms_opt_out"):
        assert getattr(after, name) == getattr(other if name in names else customer, name)
    if different:
        assert (after.version, after.updated_at) == (customer.version + 1, LATER)
    else:
        assert after is customer
    assert (after.created_at, after.id, after.code) == (
        customer.created_at,
        customer.id,
        customer.code,
    )


@given(customers(), phone_numbers())
def test_a_new_phone_makes_what_was_learnt_about_the_old_one_void(customer, phone):
    after, changed = update(customer, phone_number=phone.e164)
    if phone == customer.phone:
        assert after is customer
    else:
        assert changed == ("phone_number",)
        assert after.reachability is Reachability.UNKNOWN


@given(customers(sms_opt_out=True))
def test_who_wants_texts_again_is_not_taken_for_blocked_any_longer(customer):
    after, changed = update(customer, sms_opt_out=False)
    assert changed == ("sms_opt_out",)
    if customer.reachability is Reachability.BLOCKED:
        assert after.reachability is Reachability.UNKNOWN
    else:
        assert after.reachability is customer.reachability


@given(customers(reachability=Reachability.BLOCKED))
def test_nothing_else_that_is_said_of_a_customer_lifts_a_block(customer):
    after, _ = update(customer, name="Jane", email=None, notes="x", sms_opt_out=True)
    assert after.reachability is Reachability.BLOCKED
    same, changed = update(customer, sms_opt_out=customer.sms_opt_out)
    assert (same is customer, changed) == (True, ())


def test_metadata_merges_and_null_removes_a_pair():
    jane = create(metadata={"a": "1", "b": "2"})
    after, changed = update(jane, metadata={"a": None, "c": "3"})
    assert after.metadata == {"b": "2", "c": "3"}
    assert changed == ("metadata",)


def test_null_clears_the_email_and_nothing_else():
    jane = create(email="jane@example.com")
    assert update(jane, email=None)[0].email is None
    names = ("name", "phone_number", "locale", "sms_opt_out", "notes", "metadata")
    assert codes(update, jane, **dict.fromkeys(names)) == dict.fromkeys(names, "null_not_allowed")


def test_all_broken_fields_of_an_update_are_told_at_once():
    assert codes(
        update,
        create(),
        name="",
        phone_number="0800",
        email="x",
        locale="xx",
        sms_opt_out="yes",
        notes=1,
        metadata={"": ""},
        code="OTHER",
        version=7,
        phone="0700123456",
    ) == {
        "name": "blank",
        "phone_number": "invalid_phone",
        "email": "invalid_email",
        "locale": "invalid_choice",
        "sms_opt_out": "wrong_type",
        "notes": "wrong_type",
        "metadata": "blank",
        "code": "immutable_field",
        "version": "read_only_field",
        "phone": "unknown_field",
    }


@pytest.mark.parametrize("name", sorted(READ_ONLY))
def test_what_the_server_sets_cannot_be_updated(name):
    assert codes(update, create(), **{name: None}) == {name: "read_only_field"}


# Archived, restored, erased


@given(customers())
def test_archiving_and_restoring_are_one_revision_each_and_repeats_are_none(customer):
    away = customer.archived(at=LATER)
    assert (away.archived_at, away.version) == (LATER, customer.version + 1)
    assert away.archived(at=LATER + timedelta(1)) is away
    with pytest.raises(CustomerArchived):
        away.require_editable()
    back = away.restored(at=LATER)
    assert (back.archived_at, back.version) == (None, customer.version + 2)
    assert back.restored(at=LATER) is back
    back.require_editable()


@given(customers(erased_at=NOW, archived_at=st.sampled_from([None, NOW])))
def test_nobody_is_left_to_edit_or_restore_once_a_customer_was_erased(customer):
    with pytest.raises(CustomerErased):
        customer.require_editable()
    with pytest.raises(CustomerErased):
        customer.restored(at=LATER)


@given(customers(), st.sampled_from(Reachability))
def test_what_reports_teach_is_no_revision(customer, learnt):
    assert replace(customer.reached(learnt), reachability=customer.reachability) == customer
    assert customer.reached(learnt).reachability is learnt


@given(customers(), metadata())
def test_customers_go_into_sets(customer, pairs):
    assert {customer, replace(customer)} == {customer}
    other = replace(customer, metadata=pairs)
    assert len({customer, other}) == 1 + (pairs != customer.metadata)
