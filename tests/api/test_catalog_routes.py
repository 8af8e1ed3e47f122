"""Connectors and tools in the caller's reach."""

from __future__ import annotations

from tests.api.platform import Platform


async def test_connectors_are_listed_with_their_config_and_tools(platform: Platform) -> None:
    owner = await platform.as_("owner")
    items = (await owner.get("/catalog/connectors")).json()["items"]
    names = {item["name"] for item in items}
    assert {"git", "files", "csv", "json", "demo"} <= names
    files = (await owner.get("/catalog/connectors/files")).json()
    assert files in items
    assert "root" in files["config_schema"]["properties"]
    unknown = await owner.get("/catalog/connectors/gti/tools")
    assert unknown.status_code == 404
    assert "git" in unknown.json()["error"]["message"]


async def test_tools_are_those_of_enabled_sources(platform: Platform) -> None:
    owner = await platform.as_("owner")
    folder = platform.roots / "toolbox"
    folder.mkdir()
    source = await platform.source(name="toolbox", connector="files", config={"root": str(folder)})
    path = f"/sources/{source['id']}/tools"
    tools = (await owner.get(path)).json()["items"]
    assert {tool["tool"] for tool in tools} == {"list_files", "read_file", "search_text"}
    assert {tool["source"] for tool in tools} == {"toolbox"}
    of_files = (await owner.get("/catalog/connectors/files/tools")).json()["items"]
    assert all(tool in of_files for tool in tools)
    found = (await owner.get("/catalog/search", params={"q": "read a file"})).json()["tools"]
    assert "files.read_file" in {tool["name"] for tool in found}
    await owner.patch(f"/sources/{source['id']}", json={"enabled": False})
    assert (await owner.get(path)).json()["items"] == []
