"""Key sources: one suite for all of them, and what each owes to its service."""

from __future__ import annotations

import asyncio
import base64
import builtins
import secrets
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import replace
from pathlib import Path
from typing import Any

import httpx2
import orjson
import pytest
from moto.server import ThreadedMotoServer
from pytest_httpserver import HTTPServer

from agentcy_ray.core.errors import ConfigError, SealBrokenError, StoreUnavailableError
from agentcy_ray.core.settings import Settings
from agentcy_ray.stores.egress import Egress
from agentcy_ray.stores.keys.aws import AwsSource
from agentcy_ray.stores.keys.crc32c import crc32c
from agentcy_ray.stores.keys.gcp import GcpSource
from agentcy_ray.stores.keys.opening import open_keys, open_vault
from agentcy_ray.stores.keys.ring import KeyRing
from agentcy_ray.stores.keys.service import KeyService
from agentcy_ray.stores.keys.source import KEY_BYTES, WrappedKey
from agentcy_ray.stores.vault import Vault
from tests.stores.key_services import GCP_KEY, Bao, CloudKms, bao_server

DATA_KEY = secrets.token_bytes(KEY_BYTES)


@pytest.fixture(scope="module")
def bao(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Bao]:
    with bao_server(tmp_path_factory.mktemp("bao")) as server:
        yield server


@pytest.fixture(scope="module")
def aws() -> Iterator[str]:
    server = ThreadedMotoServer(ip_address="127.0.0.1", port=0)
    server.start()
    host, port = server.get_host_and_port()
    yield f"http://{host}:{port}"
    server.stop()


@pytest.fixture
def cloud(httpserver: HTTPServer) -> CloudKms:
    return CloudKms(httpserver, "token-of-google")


@pytest.fixture
def aws_settings(aws: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Settings:
    import boto3

    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.setenv(name, "of-a-test")
    made = boto3.client("kms", endpoint_url=aws, region_name="eu-west-1").create_key()
    return Settings.load(
        {"KMS_KEY_URI": f"aws-kms://{made['KeyMetadata']['Arn']}", "KMS_ENDPOINT": aws},
        agentcy_state_dir=tmp_path,
    )


def bao_settings(bao: Bao, folder: Path, token: str | None = None) -> Settings:
    name = f"agentcy-{secrets.token_hex(4)}"
    bao.post(f"secure/transit/keys/{name}")
    return Settings.load(
        {
            "KMS_KEY_URI": f"vault://secure/transit/{name}", "VAULT_ADDR": bao.url,
            "VAULT_TOKEN": token or bao.token,
        },
        agentcy_state_dir=folder,
    )  # fmt: skip


@pytest.fixture(params=["install", "aws", "gcp", "vault"])
def ring(request: pytest.FixtureRequest, tmp_path: Path) -> KeyRing:
    match request.param:
        case "install":
            return open_keys(Settings.load({}, agentcy_state_dir=tmp_path))
        case "aws":
            return open_keys(request.getfixturevalue("aws_settings"))
        case "vault":
            return open_keys(bao_settings(request.getfixturevalue("bao"), tmp_path))
        case _:
            double: CloudKms = request.getfixturevalue("cloud")
            server: HTTPServer = request.getfixturevalue("httpserver")
            return KeyRing(google(server, lambda: double.token))


def google(server: HTTPServer, bearer: Callable[[], str]) -> GcpSource:
    service = KeyService(Egress(Settings.load({})).guard("operator"))
    return GcpSource(GCP_KEY, server.url_for(""), service, bearer)


# -- all of them -----------------------------------------------------------------------------------


async def test_a_data_key_comes_back_as_it_was(ring: KeyRing) -> None:
    one, two = [await ring.current.wrap(DATA_KEY) for _ in range(2)]
    assert ring.current.owns(one.key_id)
    assert one.blob != two.blob
    assert DATA_KEY not in one.blob
    assert [await ring.current.unwrap(each) for each in (one, two)] == [DATA_KEY, DATA_KEY]
    assert await ring.current_id() == one.key_id
    await ring.aclose()


@pytest.mark.attack
async def test_a_wrapped_key_that_was_changed_opens_nothing(ring: KeyRing) -> None:
    wrapped = await ring.current.wrap(DATA_KEY)
    size = len(wrapped.blob)
    broken = [
        replace(
            wrapped, blob=wrapped.blob[:at] + bytes([wrapped.blob[at] ^ 1]) + wrapped.blob[at + 1 :]
        )
        for at in (0, size // 3, size // 2, size - 8)
    ]
    broken += [replace(wrapped, blob=blob) for blob in (b"", b"x", wrapped.blob[:-20], bytes(60))]
    for each in broken:
        # A service may take a changed reference to its key for one that we may not use.
        with pytest.raises((SealBrokenError, StoreUnavailableError)):
            await ring.current.unwrap(each)
    await ring.aclose()


async def test_secrets_are_sealed_and_opened_and_others_cannot(ring: KeyRing) -> None:
    vault = Vault(ring)
    sealed = await vault.seal(b"secret", "mine")
    brief = [await vault.seal_briefly(b"secret", f"call {number}") for number in range(3)]
    ring.forget()
    assert await vault.open(sealed, "mine") == b"secret"
    assert [await vault.open(each, f"call {n}") for n, each in enumerate(brief)] == [b"secret"] * 3
    # What lives minutes shares a data key where making one costs a request.
    assert len({each.wrapped_key for each in brief}) == (1 if ring.current.remote else 3)
    for other in (sealed, brief[0]):
        with pytest.raises(SealBrokenError):
            await vault.open(other, "theirs")
    await vault.aclose()


# -- what a ring remembers -------------------------------------------------------------------------


async def test_a_secret_that_is_read_often_asks_the_service_once(
    cloud: CloudKms, httpserver: HTTPServer
) -> None:
    ring = KeyRing(google(httpserver, lambda: cloud.token), remembered=3)
    wrapped = [(await ring.new_key()).wrapped for _ in range(6)]
    assert ring.known == 3
    ring.forget()
    keys = await asyncio.gather(*(ring.unwrap(wrapped[0]) for _ in range(50)))
    assert len(set(keys)) == 1
    assert cloud.asked["decrypt"] == 1
    for each in wrapped:
        await ring.unwrap(each)
    assert cloud.asked["decrypt"] == 6
    assert ring.known == 3
    ring.forget()
    await ring.unwrap(wrapped[0])
    assert cloud.asked["decrypt"] == 7
    await ring.aclose()
    assert ring.known == 0


async def test_what_is_remembered_is_forgotten_after_its_time(
    cloud: CloudKms, httpserver: HTTPServer
) -> None:
    ring = KeyRing(google(httpserver, lambda: cloud.token), remember_secs=0)
    wrapped = (await ring.new_key()).wrapped
    await ring.unwrap(wrapped)
    async with asyncio.timeout(60):
        while ring.known:
            await asyncio.sleep(0)
    await ring.aclose()


async def test_one_who_gives_up_leaves_the_answer_to_the_others() -> None:
    asked, go = asyncio.Event(), asyncio.Event()

    class Slow:
        name, remote = "slow", True

        def owns(self, key_id: str) -> bool:
            return True

        async def wrap(self, data_key: bytes) -> WrappedKey:
            return WrappedKey("slow", data_key)

        async def unwrap(self, wrapped: WrappedKey) -> bytes:
            asked.set()
            await go.wait()
            return wrapped.blob

        async def aclose(self) -> None:
            go.set()

    ring = KeyRing(Slow())
    first = asyncio.create_task(ring.unwrap(WrappedKey("slow", DATA_KEY)))
    second = asyncio.create_task(ring.unwrap(WrappedKey("slow", DATA_KEY)))
    await asyncio.wait_for(asked.wait(), 60)
    first.cancel()
    go.set()
    assert await asyncio.wait_for(second, 60) == DATA_KEY
    with pytest.raises(SealBrokenError):
        await ring.unwrap(WrappedKey("slow", b"too short"))
    await ring.aclose()


# -- each service ----------------------------------------------------------------------------------


@contextmanager
def looking_at_signatures(aws: str) -> Iterator[None]:
    """The server checks signatures and rights meanwhile."""
    with httpx2.Client(trust_env=False, timeout=60) as client:
        before = client.post(f"{aws}/moto-api/reset-auth", content=b"0").json()
        try:
            yield
        finally:
            count = str(before["PREVIOUS_INITIAL_NO_AUTH_ACTION_COUNT"])
            client.post(f"{aws}/moto-api/reset-auth", content=count.encode())


async def test_aws_checks_our_signature(
    aws: str, aws_settings: Settings, monkeypatch: pytest.MonkeyPatch
) -> None:
    import boto3

    iam = boto3.client("iam", endpoint_url=aws, region_name="eu-west-1")
    iam.create_user(UserName="agentcy")
    rights = {"Effect": "Allow", "Action": ["kms:Encrypt", "kms:Decrypt"], "Resource": "*"}
    iam.put_user_policy(
        UserName="agentcy", PolicyName="wrap",
        PolicyDocument=orjson.dumps({"Version": "2012-10-17", "Statement": [rights]}).decode(),
    )  # fmt: skip
    made = iam.create_access_key(UserName="agentcy")["AccessKey"]
    monkeypatch.setenv("AWS_ACCESS_KEY_ID", made["AccessKeyId"])
    with looking_at_signatures(aws):
        forged = open_keys(aws_settings)
        with pytest.raises(StoreUnavailableError, match=r"refuses \(403"):
            await forged.new_key()
        monkeypatch.setenv("AWS_SECRET_ACCESS_KEY", made["SecretAccessKey"])
        ring = open_keys(aws_settings)
        data_key = await ring.new_key()
        ring.forget()
        assert await ring.unwrap(data_key.wrapped) == data_key.plain
    await forged.aclose()
    await ring.aclose()


async def test_aws_is_named_by_id_or_arn_and_nothing_that_may_change(tmp_path: Path) -> None:
    def opened(uri: str, **more: str) -> KeyRing:
        return open_keys(Settings.load({"KMS_KEY_URI": uri, **more}, agentcy_state_dir=tmp_path))

    with pytest.raises(ConfigError, match="by its id or ARN"):
        opened("aws-kms://arn:aws:kms:eu-west-1:1:alias/agentcy")
    with pytest.raises(ConfigError, match="AWS_REGION"):
        opened("aws-kms://1234")
    source = opened("aws-kms://1234", AWS_REGION="cn-north-1").current
    assert isinstance(source, AwsSource)
    with pytest.raises(ConfigError, match="without a version"):
        opened(f"gcp-kms://{GCP_KEY}/cryptoKeyVersions/1")
    with pytest.raises(ConfigError, match="vault://<mount"):
        opened("vault://agentcy", VAULT_ADDR="https://vault.example")
    with pytest.raises(ConfigError, match="VAULT_ADDR"):
        opened("vault://transit/agentcy")


@pytest.mark.parametrize(
    ("uri", "library"),
    [("aws-kms://arn:aws:kms:eu-west-1:1:key/1", "botocore"), (f"gcp-kms://{GCP_KEY}", "google")],
)
def test_a_missing_library_is_named_with_the_command(
    uri: str, library: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    real: Callable[..., Any] = builtins.__import__

    def without(name: str, *more: Any, **named: Any) -> Any:
        if name.split(".")[0] == library:
            raise ImportError(name)
        return real(name, *more, **named)

    monkeypatch.setattr(builtins, "__import__", without)
    with pytest.raises(ConfigError, match=r"pip install 'agentcy-ray\[kms\]'"):
        open_keys(Settings.load({"KMS_KEY_URI": uri}, agentcy_state_dir=tmp_path))


async def test_google_answers_are_held_against_their_checksums(
    cloud: CloudKms, httpserver: HTTPServer
) -> None:
    assert crc32c(b"123456789") == 0xE3069283  # the check value of the algorithm
    source = google(httpserver, lambda: cloud.token)
    wrapped = await source.wrap(DATA_KEY)
    assert wrapped.key_id == f"gcp-kms://{GCP_KEY}/cryptoKeyVersions/1"
    cloud.garbled = True
    for work in (source.wrap(DATA_KEY), source.unwrap(wrapped)):
        with pytest.raises(StoreUnavailableError, match="changed on its way"):
            await work
    await source.aclose()


async def test_google_credentials_come_from_a_file_by_its_own_library(
    cloud: CloudKms, httpserver: HTTPServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    import orjson
    from cryptography.hazmat.primitives.asymmetric import rsa
    from cryptography.hazmat.primitives.serialization import (
        Encoding,
        NoEncryption,
        PrivateFormat,
    )

    private = rsa.generate_private_key(65537, 2048).private_bytes(
        Encoding.PEM, PrivateFormat.PKCS8, NoEncryption()
    )
    account = {
        "type": "service_account", "client_email": "a@p.iam.test", "private_key_id": "1",
        "private_key": private.decode(), "token_uri": httpserver.url_for("/token"),
        "project_id": "p",
    }  # fmt: skip
    file = tmp_path / "account.json"
    file.write_bytes(orjson.dumps(account))
    httpserver.expect_request("/token").respond_with_json({
        "access_token": cloud.token,
        "expires_in": 3600,
        "token_type": "Bearer",
    })
    monkeypatch.setenv("GOOGLE_APPLICATION_CREDENTIALS", str(file))
    environment = {"KMS_KEY_URI": f"gcp-kms://{GCP_KEY}", "KMS_ENDPOINT": httpserver.url_for("")}
    vault = open_vault(Settings.load(environment, agentcy_state_dir=tmp_path))
    sealed = await vault.seal(b"secret", "mine")
    vault.keys.forget()
    assert await vault.open(sealed, "mine") == b"secret"
    await vault.aclose()


async def test_a_token_of_vault_needs_two_rights_and_may_be_renewed_in_its_file(
    bao: Bao, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    file = tmp_path / "token"
    file.write_text("of nobody")
    name = bao_settings(bao, tmp_path).kms_key_uri or ""
    monkeypatch.setenv("VAULT_TOKEN_FILE", str(file))
    monkeypatch.setenv("KMS_KEY_URI", name)
    monkeypatch.setenv("VAULT_ADDR", bao.url)
    ring = open_keys(Settings.load(agentcy_state_dir=tmp_path))
    with pytest.raises(StoreUnavailableError, match=r"refuses \(403\)"):
        await ring.new_key()
    key = name.rpartition("/")[2]
    paths = [f"secure/transit/{verb}/{key}" for verb in ("encrypt", "decrypt")]
    file.write_text(bao.weaker_token(*paths) + "\n")
    made = await ring.new_key()
    ring.forget()
    assert await ring.unwrap(made.wrapped) == made.plain
    await ring.aclose()


async def test_versions_of_a_vault_key_are_told_apart(bao: Bao, tmp_path: Path) -> None:
    settings = bao_settings(bao, tmp_path)
    key = (settings.kms_key_uri or "").rpartition("/")[2]
    ring = open_keys(settings)
    first = (await ring.new_key()).wrapped
    bao.post(f"secure/transit/keys/{key}/rotate")
    second = (await ring.new_key()).wrapped
    assert [first.key_id[-3:], second.key_id[-3:]] == ["#v1", "#v2"]
    ring.forget()
    for wrapped in (first, second):
        await ring.unwrap(wrapped)
    ring.forget()
    with pytest.raises(SealBrokenError):  # a ciphertext of one version under the id of another
        await ring.unwrap(replace(second, blob=first.blob))
    bao.post(f"secure/transit/keys/{key}/config", min_decryption_version=2)
    with pytest.raises(SealBrokenError, match="min_decryption_version"):
        await ring.unwrap(first)
    await ring.aclose()


async def test_what_was_encrypted_for_another_purpose_is_no_data_key(
    bao: Bao, tmp_path: Path
) -> None:
    settings = bao_settings(bao, tmp_path)
    key = (settings.kms_key_uri or "").rpartition("/")[2]
    foreign = bao.post(
        f"secure/transit/encrypt/{key}", plaintext=base64.b64encode(DATA_KEY).decode()
    )
    ring = open_keys(settings)
    wrapped = WrappedKey(f"{settings.kms_key_uri}#v1", foreign["data"]["ciphertext"].encode())
    with pytest.raises(SealBrokenError):
        await ring.unwrap(wrapped)
    await ring.aclose()
