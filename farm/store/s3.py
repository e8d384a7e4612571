"""The S3-compatible store: objects in one bucket, with every failure told as `NotFound` or `Transient`."""

from __future__ import annotations

import base64
import errno
import hashlib
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import datetime
from pathlib import Path
from typing import TYPE_CHECKING, Any
from urllib.parse import quote

import boto3
from boto3.exceptions import Boto3Error
from boto3.s3.transfer import TransferConfig
from botocore.config import Config
from botocore.exceptions import BotoCoreError, ClientError

from farm.errors import NotFound, Transient
from farm.settings import Settings

if TYPE_CHECKING:
    from mypy_boto3_s3 import S3Client

_MISSING = {"404", "NoSuchKey", "NotFound"}
_REFUSED = {"403", "AccessDenied", "InvalidAccessKeyId", "SignatureDoesNotMatch", "RequestTimeTooSkewed"}
_FULL = {"XMinioStorageFull", "QuotaExceeded", "InsufficientStorage"}
#: of a local disk, never of a connection
_LOCAL = {errno.ENOSPC, errno.EDQUOT, errno.EROFS}
_PART_BYTES = 16 * 1024 * 1024
#: Larger files travel in parts, several at a time.
_TRANSFER = TransferConfig(
    multipart_threshold=4 * _PART_BYTES, multipart_chunksize=_PART_BYTES, max_concurrency=4
)


@dataclass(frozen=True, slots=True, kw_only=True)
class StoredObject:
    key: str
    size: int
    modified_at: datetime


class Store:
    """One bucket. Methods raise `NotFound` for a missing object and `Transient` for everything that may pass."""

    def __init__(self, client: S3Client, signer: S3Client, bucket: str, endpoint: str):
        """`signer` signs what browsers open: it knows the store by its public address."""
        self._client = client
        self._signer = signer
        self.bucket = bucket
        self.endpoint = endpoint

    def close(self) -> None:
        self._client.close()
        self._signer.close()

    def ensure_bucket(self) -> None:
        """Make the bucket if it does not exist."""
        try:
            with self._told(self.bucket):
                self._client.head_bucket(Bucket=self.bucket)
        except NotFound:
            with self._told(self.bucket):
                self._client.create_bucket(Bucket=self.bucket)

    def answer(self) -> None:
        """Ask for a sign of life.

        Raises:
            FarmError: the store gives none, or has lost the bucket.
        """
        with self._told(self.bucket):
            self._client.head_bucket(Bucket=self.bucket)

    # writing

    def put_bytes(self, key: str, data: bytes, content_type: str = "application/octet-stream") -> str:
        """Write an object and return its SHA-256; the server checks what arrived against it."""
        digest = hashlib.sha256(data)
        with self._told(key):
            self._client.put_object(
                Bucket=self.bucket,
                Key=key,
                Body=data,
                ContentType=content_type,
                ChecksumSHA256=base64.b64encode(digest.digest()).decode(),
            )
        return digest.hexdigest()

    def put_file(self, key: str, path: Path, content_type: str = "application/octet-stream") -> None:
        """Write a file of any size, in parts when it is large; its size is checked afterwards."""
        with self._told(key):
            self._client.upload_file(
                str(path), self.bucket, key, ExtraArgs={"ContentType": content_type}, Config=_TRANSFER
            )
        self.verify(key, size=path.stat().st_size)

    def verify(self, key: str, *, size: int, sha256: str = "") -> None:
        """Ask the store whether the object lies there whole.

        Raises:
            Transient: it does not, or differs in size or, where the store keeps checksums, in content.
        """
        with self._told(key):
            found = self._client.head_object(Bucket=self.bucket, Key=key, ChecksumMode="ENABLED")
        if found["ContentLength"] != size:
            raise Transient(f"{key}: the store holds {found['ContentLength']} bytes, sent were {size}")
        kept = found.get("ChecksumSHA256", "")
        # a checksum with "-" in it is one of parts
        if sha256 and kept and "-" not in kept and base64.b64decode(kept).hex() != sha256:
            raise Transient(f"{key}: the store holds other bytes than were sent")

    def copy(self, source: str, target: str) -> None:
        """Copy within the bucket, of any size, without the bytes passing through here."""
        with self._told(source):
            self._client.copy({"Bucket": self.bucket, "Key": source}, self.bucket, target, Config=_TRANSFER)

    def delete(self, key: str) -> None:
        """Delete an object; one that is not there is fine."""
        with self._told(key):
            self._client.delete_object(Bucket=self.bucket, Key=key)

    # reading

    def get_bytes(self, key: str) -> bytes:
        with self._told(key):
            return self._client.get_object(Bucket=self.bucket, Key=key)["Body"].read()

    def get_range(self, key: str, start: int, length: int) -> bytes:
        """`length` bytes from `start` on; fewer at the object's end, none behind it."""
        if length <= 0:
            return b""
        try:
            with self._told(key):
                answer = self._client.get_object(
                    Bucket=self.bucket, Key=key, Range=f"bytes={start}-{start + length - 1}"
                )
                # a server that ignores ranges answers with the whole object
                whole = "ContentRange" not in answer
                data = answer["Body"].read(start + length if whole else length)
        except _BehindTheEnd:
            return b""
        return data[start:] if whole else data

    def iter_bytes(self, key: str, chunk: int = 1024 * 1024) -> Iterator[bytes]:
        """The object's content in pieces, for answers and archives that are streamed."""
        with self._told(key):
            body = self._client.get_object(Bucket=self.bucket, Key=key)["Body"]
            try:
                yield from body.iter_chunks(chunk)
            finally:
                body.close()

    def download(self, key: str, path: Path) -> None:
        """Write the object to `path`, in parallel parts when it is large. Its content is the caller's to verify."""
        with self._told(key):
            self._client.download_file(self.bucket, key, str(path), Config=_TRANSFER)

    def size(self, key: str) -> int | None:
        """Size in bytes; None when there is no such object."""
        try:
            with self._told(key):
                return self._client.head_object(Bucket=self.bucket, Key=key)["ContentLength"]
        except NotFound:
            return None

    def exists(self, key: str) -> bool:
        return self.size(key) is not None

    def list_objects(self, prefix: str) -> Iterator[StoredObject]:
        """Every object whose key begins with `prefix`, in the order of keys."""
        with self._told(prefix):
            for page in self._client.get_paginator("list_objects_v2").paginate(
                Bucket=self.bucket, Prefix=prefix
            ):
                for item in page.get("Contents", ()):
                    yield StoredObject(key=item["Key"], size=item["Size"], modified_at=item["LastModified"])

    # addresses for browsers

    def presigned_get(
        self, key: str, *, seconds: int, filename: str | None = None, content_type: str | None = None
    ) -> str:
        """An address that gives this object to anybody for `seconds`; with `filename` browsers save it."""
        options: dict[str, Any] = {"Bucket": self.bucket, "Key": key}
        if filename is not None:
            options["ResponseContentDisposition"] = content_disposition(filename)
        if content_type is not None:
            options["ResponseContentType"] = content_type
        return self._signer.generate_presigned_url("get_object", Params=options, ExpiresIn=seconds)

    def presigned_put(self, key: str, *, seconds: int, size: int) -> str:
        """An address that takes one PUT of exactly `size` bytes for `seconds`."""
        return self._signer.generate_presigned_url(
            "put_object",
            Params={"Bucket": self.bucket, "Key": key, "ContentLength": size},
            ExpiresIn=seconds,
        )

    @contextmanager
    def _told(self, key: str) -> Iterator[None]:
        """Failures in Farm's own words."""
        try:
            yield
        except ClientError as error:
            code = str(error.response.get("Error", {}).get("Code", ""))
            if code in _MISSING:
                raise NotFound(f"the store has no object {key}") from error
            if code in {"416", "InvalidRange"}:
                raise _BehindTheEnd(key) from error
            if code in _FULL or error.response.get("ResponseMetadata", {}).get("HTTPStatusCode") == 507:
                raise Transient(
                    f"the store at {self.endpoint} is full", "make room there", code="store_full"
                ) from error
            hint = "check its access key and this machine's clock" if code in _REFUSED else ""
            raise Transient(
                f"the store at {self.endpoint} answered {code}", hint, code="store_refused"
            ) from error
        except (BotoCoreError, Boto3Error, OSError) as error:
            if isinstance(error, OSError) and (error.filename is not None or error.errno in _LOCAL):
                raise  # the local file, not the store
            raise Transient(
                f"the store at {self.endpoint} is unreachable", type(error).__name__, code="store_unreachable"
            ) from error


class _BehindTheEnd(Exception):
    """A range that begins behind the object's end."""


def open_store(settings: Settings, *, patient: bool = True) -> Store:
    """The store that the settings name; without patience it is asked once, for a few seconds."""
    hurry: dict[str, Any] = {} if patient else {"connect_timeout": 2, "read_timeout": 5, "tries": 1}
    return connect_store(
        **hurry,
        endpoint=settings.s3_endpoint,
        access_key=settings.s3_access_key.get_secret_value(),
        secret_key=settings.s3_secret_key.get_secret_value(),
        bucket=settings.s3_bucket,
        region=settings.s3_region,
        public_endpoint=settings.s3_public_endpoint,
    )


def connect_store(
    *,
    endpoint: str,
    access_key: str,
    secret_key: str,
    bucket: str,
    region: str = "us-east-1",
    public_endpoint: str = "",
    connect_timeout: float = 3,
    read_timeout: float = 30,
    tries: int = 4,
) -> Store:
    """A store at `endpoint` (empty: AWS itself). Nothing is sent before the first call."""
    config = Config(
        signature_version="s3v4",
        s3={"addressing_style": "path"},
        connect_timeout=connect_timeout,
        read_timeout=read_timeout,
        retries={"total_max_attempts": tries, "mode": "standard"},
        max_pool_connections=16,
        # every file is checked by its SHA-256; servers other than AWS trip over the extra checksums
        request_checksum_calculation="when_required",
        response_checksum_validation="when_required",
    )

    def client(url: str) -> S3Client:
        session = boto3.session.Session()
        return session.client(
            "s3",
            endpoint_url=url or None,
            aws_access_key_id=access_key or None,
            aws_secret_access_key=secret_key or None,
            region_name=region,
            config=config,
        )

    internal = client(endpoint)
    signer = client(public_endpoint) if public_endpoint else internal
    return Store(internal, signer, bucket, endpoint or "AWS")


def content_disposition(filename: str) -> str:
    r"""A header that lets browsers save a file under this name, whatever characters it has (RFC 6266).

    >>> content_disposition('füchs "1".png')
    'attachment; filename="f_chs _1_.png"; filename*=UTF-8\'\'f%C3%BCchs%20%221%22.png'
    """
    plain = "".join(c if c.isascii() and c.isprintable() and c not in '"\\%/' else "_" for c in filename)
    return f"attachment; filename=\"{plain}\"; filename*=UTF-8''{quote(filename, safe='')}"
