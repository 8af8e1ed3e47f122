"""Queries over HTTP: language, budgets, refusals; and the routes around them."""

from __future__ import annotations

import pytest

from tests.devkyma.conftest import Talk


async def test_health_needs_no_token(talk: Talk):
    async with talk.server.client("none") as client:
        answer = await client.get("/health")
    assert answer.status_code == 200
    assert answer.json()["status"] == "ok"


async def test_refusals_of_tokens_are_plain_text(talk: Talk):
    if not talk.server.tokens:
        pytest.skip("this server asks for no token")
    query = {"content": "SELECT 1", "headers": {"x-database": talk.database}}
    async with talk.server.client("none") as client:
        missing = await client.post("/v1/query", **query)
        wrong = {**query["headers"], "authorization": "Bearer wrong"}
        unknown = await client.post("/v1/query", content="SELECT 1", headers=wrong)
    assert (missing.status_code, missing.text) == (401, "missing Authorization: Bearer <token>")
    assert (unknown.status_code, unknown.text) == (401, "unknown token")
    assert missing.headers["www-authenticate"] in {'Bearer realm="kyma"', 'Bearer realm="pensieve"'}
    if not talk.server.real:
        async with talk.server.client("read") as client:
            low = await client.post("/v1/ingest", headers={"x-table": "t"})
        assert (low.status_code, low.text) == (403, "token role `Read` below required `Write`")


async def test_no_database_is_said_before_the_query_is_read(talk: Talk):
    assert await talk.refused("not sql at all") == (404, "database_not_found")


@pytest.mark.parametrize(
    "text",
    [
        "SELECT", "SELECT nope FROM t", "SELECT * FROM nope", "SELECT no_such_function(1)",
        "DROP TABLE t", "INSERT INTO t VALUES (1)", "DELETE FROM t", "SET a = 1",
        "CREATE TABLE x AS SELECT 1", "COPY (SELECT 1) TO 'x.csv'", "SELECT 1; SELECT 2",
        "SELECT * FROM '/etc/passwd'", "SHOW TABLES",
    ],
)  # fmt: skip
async def test_sql_that_does_not_plan_or_would_write_is_refused(talk: Talk, text: str):
    await talk.ingest({"label": "a"})
    assert await talk.refused(text) == (400, "sql_parse_error")


@pytest.mark.parametrize(
    "text",
    [
        "SELECT label FROM t QUALIFY row_number() OVER (ORDER BY label) = 1",
        "FROM t",
        "SELECT * FROM t |> WHERE label = 'a'",
        "SELECT array_max(make_array(1, 2)) AS m",
        "SELECT percentile_cont(0.5) WITHIN GROUP (ORDER BY length(label)) AS p FROM t",
        "SELECT any_value(label) AS l FROM t",
        "SELECT label, count(*) AS n FROM t GROUP BY ALL",
        "SELECT value FROM generate_series(1, 3)",
        "SELECT l.x FROM t, LATERAL (SELECT t.label AS x) l",
    ],
)
async def test_sql_newer_than_kymas_engine_is_refused(talk: Talk, text: str):
    await talk.ingest({"label": "a"})
    assert await talk.refused(text) == (400, "sql_parse_error")


async def test_blank_and_undecodable_bodies_have_codes_of_their_own(talk: Talk):
    await talk.ingest({"label": "a"})
    assert await talk.refused("  \n") == (400, "empty_query")
    odd = await talk.client.post("/v1/query", content=b"SELECT '\xff'")
    assert odd.json()["error"]["code"] == "bad_encoding"


async def test_the_request_id_is_echoed_and_stands_in_the_error(talk: Talk):
    answer = await talk.ask("SELECT 1", x_request_id="req-7")
    assert answer.headers["x-request-id"] == "req-7"
    assert answer.json()["error"]["request_id"] == "req-7"


@pytest.mark.parametrize(
    ("text", "budget", "limit", "code"),
    [
        (
            "WITH s AS (SELECT unnest(generate_series(1, 40000)) AS v)"
            " SELECT count(*) AS n FROM s a CROSS JOIN s b WHERE a.v + b.v = 7",
            "Wall-Clock-Ms", "20 wall_clock_ms", "wall_clock_exceeded",
        ),
        (
            "SELECT array_agg(v) AS a FROM (SELECT unnest(generate_series(1, 1000000)) AS v)",
            "Memory-Bytes", "1048576 memory", "memory_exceeded",
        ),
    ],
)  # fmt: skip
async def test_a_budget_that_runs_out_is_429(
    talk: Talk, text: str, budget: str, limit: str, code: str
):
    await talk.ingest({"label": "a"})
    asked = limit.split()[0]
    headers = {f"X-{prefix}-Max-{budget}": asked for prefix in ("Kyma", "Pensieve")}
    answer = await talk.ask(text, **headers)
    assert (answer.status_code, answer.json()["error"]["code"]) == (429, code)
    assert answer.headers["retry-after"] == "1"
    assert answer.headers["x-kyma-budget-limit"] == limit


async def test_vector_functions_give_null_where_vectors_do_not_match(talk: Talk):
    await talk.ingest({"label": "a"})
    (row,) = await talk.rows(
        "SELECT cosine_distance(make_array(1, 0), make_array(0, 1)) AS c,"
        " l2_distance(make_array(0, 0), make_array(3, 4)) AS l,"
        " inner_product(make_array(1, 2), make_array(3, 4)) AS i,"
        " inner_product(make_array(1), make_array(3, 4)) AS none,"
        " cosine_distance(make_array(0, 0), make_array(0, 1)) AS zero"
    )
    assert row == {"c": 1.0, "l": 5.0, "i": 11.0}


async def test_promql_is_read_as_sql(talk: Talk):
    await talk.ingest({"label": "a"})
    assert await talk.refused("rate(x[5m])", "application/promql") == (400, "sql_parse_error")


async def test_unknown_paths_are_404(talk: Talk):
    assert (await talk.client.get("/v1/no/such/path")).status_code == 404
    admin = f"/v1/admin/databases/{talk.database}/tables/t"
    assert (await talk.client.get(admin)).status_code == 404
