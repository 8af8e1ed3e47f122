"""Which permission each route names, as the product specification says (§30.1 and §30.2)."""

from __future__ import annotations

TABLE = """
open | GET /auth/config | POST /auth/login /auth/refresh /auth/register
open | GET /auth/oidc/start /auth/oidc/callback
any | GET /auth/me /auth/ping | POST /auth/logout /auth/password
org.read | GET /org /org/usage /settings/security /settings/retrieval
org.write | PATCH /org | POST /settings/security
org.delete | DELETE /org
org.transfer | POST /org/transfer
org.invite | GET /org/invites | POST /org/invites | DELETE /org/invites/{invite_id}
user.read | GET /users /users/{user_id}
user.write | PATCH /users/{user_id} | DELETE /users/{user_id}
apikey.read | GET /api-keys
apikey.write | POST /api-keys | DELETE /api-keys/{key_id}
access.request | POST /access-requests
access.decide | GET /access-requests | POST /access-requests/{request_id}
activity.read | GET /activity
activity.write | POST /activity
agent.read | GET /agents /agents/{agent_id}
agent.write | POST /agents | PATCH /agents/{agent_id}
artifact.read | GET /artifacts /artifacts/{artifact_id} /artifacts/{artifact_id}/content
audit.read | GET /policies/audit /policies/audit.csv /policies/audit.ndjson /policies/audit.parquet
audit.read | GET /policies/audit/stream /policies/audit/verify /policies/audit/{audit_id}
chat.approve | POST /approvals/{approval_id}
chat.approve | POST /chat/conversations/{conversation_id}/approvals/{approval_id}
chat.read | GET /approvals /approvals/{approval_id} /runs /runs/{run_id} /runs/{run_id}/events
chat.read | GET /chat/conversations /chat/conversations/{conversation_id}
chat.read | GET /chat/conversations/{conversation_id}/approvals
chat.read | GET /chat/conversations/{conversation_id}/messages
chat.read | GET /chat/conversations/{conversation_id}/tool-calls/{tool_call_id}
chat.read | POST /chat/conversations/{conversation_id}/read
chat.tool.execute | POST /chat/conversations/{conversation_id}/tool-calls
chat.write | POST /chat/conversations /chat/conversations/{conversation_id}/messages
chat.write | POST /chat/conversations/{conversation_id}/cancel /runs/{run_id}/cancel
chat.write | PATCH /chat/conversations/{conversation_id}
chat.write | DELETE /chat/conversations/{conversation_id}
embedding.manage | GET /rag/spaces /rag/spaces/{space_id} /rag/spaces/{space_id}/backfill/errors
embedding.manage | POST /rag/spaces /rag/spaces/{space_id}/activate /rag/spaces/{space_id}/backfill
embedding.manage | POST /rag/spaces/{space_id}/backfill/cancel
embedding.manage | POST /rag/spaces/{space_id}/backfill/pause
embedding.manage | POST /rag/spaces/{space_id}/backfill/resume /rag/spaces/{space_id}/check
embedding.manage | DELETE /rag/spaces/{space_id}
embedding.manage | GET /rag/swaps /rag/swaps/{swap_id}
embedding.manage | POST /rag/swaps /rag/swaps/{swap_id}/cancel /rag/swaps/{swap_id}/check
embedding.manage | POST /rag/swaps/{swap_id}/rollback /settings/retrieval
engine.migrate | GET /context/migrations /context/migrations/{migration_id}
engine.migrate | POST /context/migrations /context/migrations/{migration_id}/cancel
graph.native | POST /context/query/native
graph.query | POST /context/query
graph.read | GET /context/capabilities /context/completion /context/examples /context/graph
graph.read | GET /context/nodes/{node_id} /context/nodes/{node_id}/neighbors /context/overview
graph.read | GET /context/schema /context/search /context/stats /realms
job.read | GET /jobs /jobs/{job_id}
job.manage | POST /jobs/{job_id}/cancel /jobs/{job_id}/retry
pipeline.read | GET /context/pipelines /context/pipelines/{pipeline_id}
pipeline.read | GET /context/pipelines/{pipeline_id}/runs
pipeline.write | POST /context/pipelines /context/pipelines/{pipeline_id}/tokens
pipeline.write | GET /context/pipelines/{pipeline_id}/tokens
pipeline.write | PATCH /context/pipelines/{pipeline_id}
pipeline.write | DELETE /context/pipelines/{pipeline_id}
pipeline.write | DELETE /context/pipelines/{pipeline_id}/tokens/{token_id}
policy.read | GET /policies /policies/{policy_id} /policies/replays/{replay_id}
policy.read | POST /policies/evaluate /policies/replays
policy.write | POST /policies /policies/restore
policy.write | POST /policies/{policy_id}/disable /policies/{policy_id}/enable
policy.write | PUT /policies/{policy_id} | DELETE /policies/{policy_id}
rag.search | POST /rag/hybrid /rag/search
realm.write | POST /realms | PATCH /realms/{name} | DELETE /realms/{name}
source.create | POST /sources
source.update | PATCH /sources/{source_id} | POST /sources/{source_id}/revert
source.delete | DELETE /sources/{source_id}
source.read | GET /catalog/connectors /catalog/connectors/{connector}
source.read | GET /catalog/connectors/{connector}/tools /catalog/search /catalog/tools
source.read | GET /sources /sources/{source_id} /sources/{source_id}/packages
source.read | GET /sources/{source_id}/runs /sources/{source_id}/tools /sync-runs/{sync_run_id}
source.sync | POST /sources/{source_id}/sync /sources/{source_id}/test
source.sync | POST /sync-runs/{sync_run_id}/cancel
"""
OWN_DOOR = frozenset({
    "/health", "/health/live", "/health/ready", "/metrics", "/api/v1/auth/ping",
    "/api/v1/openapi.json",
})  # fmt: skip
"""Plain routes that ask for no bearer, have one of their own, or check for a login themselves."""


def specified() -> dict[tuple[str, str], str]:
    """(method, path below the prefix) → permission, ``any`` or ``open``."""
    found: dict[tuple[str, str], str] = {}
    for line in TABLE.strip().splitlines():
        permission, *groups = line.split(" | ")
        for group in groups:
            method, *paths = group.split()
            found.update(dict.fromkeys(((method, path) for path in paths), permission))
    return found
