import pytest

from agentcy_ray.connectors.inference import convert, infer


@pytest.mark.parametrize(
    ("values", "kind"),
    [
        (["1", "-2", " 3 ", ""], "integer"),
        (["1", "2.5", "1e3"], "float"),
        (["true", "FALSE"], "boolean"),
        (["2024-01-02", "2024-01-02 03:04", "2024-01-02T03:04:05.123Z"], "datetime"),
        (["a.b+c@example.co.uk"], "email"),
        (["https://example.org/a?b=c", "http://x"], "url"),
        (["", "  "], "string"),
        ([], "string"),
        (["01234", "+4912345"], "string"),
        (["1", "x"], "string"),
        (["nan", "inf"], "string"),
        (["2024-13-01"], "string"),
        (["20240102"], "integer"),
        (["0", "1"], "integer"),
        (["yes", "no"], "string"),
        (["a@b", "@", "a b@c.de"], "string"),
        (["ftp://x"], "string"),
        (["1234567890123456789"], "string"),
        (["९", "1९", "२०२४-01-02"], "string"),
    ],
)
def test_the_narrowest_type_that_all_values_have_is_inferred(values, kind):
    assert infer(values) == kind


@pytest.mark.parametrize(
    "kind", ["string", "integer", "float", "boolean", "datetime", "email", "url"]
)
def test_a_value_that_does_not_fit_its_type_is_kept_and_blank_is_nothing(kind):
    assert convert("~ odd ~", kind) == "~ odd ~"
    assert convert("  ", kind) is None
