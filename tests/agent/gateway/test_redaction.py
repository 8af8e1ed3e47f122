import pytest
from hypothesis import given
from hypothesis import strategies as st

from agentcy_ray.core.redaction import MASK, Redactor, secrets_of
from agentcy_ray.core.settings import Settings


@pytest.mark.requirement("SEC-03")
@pytest.mark.parametrize(
    "secret",
    [
        "AKIA" + "A1B2" * 4,
        "ghp_" + "a" * 36,
        "github_pat_" + "a" * 40,
        "glpat-" + "a" * 20,
        "xoxb-1234567890-abcdef",
        "sk-ant-api03-" + "a" * 30,
        "AIza" + "a" * 35,
        "agk_" + "a" * 32,
        "ctx_" + "a" * 32,
        "whsec_" + "a" * 32,
        "eyJhbGciOiJIUzI1NiJ9.eyJzdWIiOiIxMjM0In0.c2lnbmF0dXJl",
        "-----BEGIN RSA PRIVATE KEY-----\nMIIE\n-----END RSA PRIVATE KEY-----",
    ],
)
def test_well_known_keys_are_masked_wherever_they_stand(secret):
    text = Redactor().text(f"before {secret} after")
    assert text == f"before {MASK} after"


def test_credentials_in_urls_are_masked_and_plain_urls_are_not():
    redact = Redactor().text
    assert redact("postgres://me:pa55word@db/x") == f"postgres://{MASK}@db/x"
    assert redact("https://example.com:8080/a@b") == "https://example.com:8080/a@b"


def test_known_values_are_masked_in_keys_and_values_at_any_depth():
    redactor = Redactor(["correct horse", "short"])
    value = {"a": ["x correct horse y", {"correct horse": 1}], "b": "short", "n": None}
    assert redactor.json(value) == {"a": [f"x {MASK} y", {MASK: 1}], "b": "short", "n": None}


def test_the_secrets_of_the_settings_are_known():
    settings = Settings.load({"ANTHROPIC_API_KEY": "not-a-shape-we-know", "JWT_SECRET": "j" * 40})
    assert set(secrets_of(settings)) == {"not-a-shape-we-know", "j" * 40}


def test_fields_named_like_secrets_are_masked_in_arguments_only():
    value = {"password": "x", "api_key": "y", "next_page_token": "z", "count_secret": 3}
    assert Redactor().json(value, by_field=True) == {
        "password": MASK, "api_key": MASK, "next_page_token": "z", "count_secret": 3,
    }  # fmt: skip
    assert Redactor().json(value) == value


@given(st.recursive(
    st.none() | st.booleans() | st.integers(-(2**63), 2**63) | st.floats(allow_nan=False)
    | st.text("abc xyz", max_size=8),
    lambda leaf: st.lists(leaf, max_size=3) | st.dictionaries(st.text("ab"), leaf, max_size=3),
))  # fmt: skip
def test_json_without_secrets_is_unchanged(value):
    assert Redactor(["nowhere to be found"]).json(value) == value


@pytest.mark.parametrize("kind", ["ghp_", "gho_", "ghs_"])
def test_a_secret_deep_in_json_is_found_whatever_its_neighbours(kind):
    value = {"a": [{"b": f"x {kind}{'a' * 36} y"}], "n": 1, "t": "high risk-free"}
    assert Redactor().json(value) == {"a": [{"b": f"x {MASK} y"}], "n": 1, "t": "high risk-free"}


def test_a_known_value_is_found_though_json_escapes_it():
    redactor = Redactor(['quo"ted\\back\nline'])
    assert redactor.json({"a": 'x quo"ted\\back\nline y'}) == {"a": f"x {MASK} y"}


def test_what_is_no_plain_json_becomes_text():
    assert Redactor().json({"n": 2**70, "nul": "a\x00b"}) == {"n": str(2**70), "nul": "a\ufffdb"}
