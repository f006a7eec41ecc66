"""Blobs in an S3 bucket: ``blobs/ab/<sha256>``, uploads in ``incoming/<upload_id>``.

Uploads are multipart uploads whose parts clients PUT to presigned URLs, so their bytes do not pass
through the site. The length of a part is signed: another length is refused by S3 itself.

The bucket needs CORS rules for uploads from browsers (allow PUT from the site's origin, expose
ETag), and a lifecycle rule that aborts incomplete multipart uploads is a good second broom.
Keys come from boto3's own variables (AWS_ACCESS_KEY_ID, AWS_SECRET_ACCESS_KEY, AWS_REGION, …).
"""

from __future__ import annotations

import hashlib
from collections.abc import Callable, Iterable, Iterator, Sequence
from datetime import datetime
from pathlib import Path
from typing import Any, BinaryIO

import boto3
from botocore.config import Config
from botocore.exceptions import ClientError

from vectors.errors import Refusal, _
from vectors.storage.base import (
    URL_LIFETIME,
    StagedPart,
    blob_key,
    missing_blob,
    missing_upload,
    wrong_hash,
)
from vectors.storage.disposition import disposition
from vectors.storage.s3source import S3Source
from vectors.tensorfile.source import ByteSource

COPY_LIMIT = 5 << 30  # CopyObject takes no more
COPY_PART = 1 << 30
PUT_PART = 32 << 20


class S3Storage:
    """The Storage of an S3 bucket, AWS's own or a compatible server's."""

    def __init__(self, bucket: str, endpoint: str = "") -> None:
        self._bucket = bucket
        session = boto3.session.Session()
        self._client = session.client(
            "s3",
            endpoint_url=endpoint or None,
            # Other servers than AWS do not care which region, but a signature names one.
            region_name=session.region_name or "us-east-1",
            config=Config(
                signature_version="s3v4",
                s3={"addressing_style": "path" if endpoint else "auto"},
                retries={"max_attempts": 5, "mode": "standard"},
                connect_timeout=5,
                read_timeout=120,
                max_pool_connections=32,
                # The default adds checksums that a client with a presigned URL does not send.
                request_checksum_calculation="when_required",
                response_checksum_validation="when_required",
            ),
        )

    def open(self, sha256: str) -> ByteSource:
        size = self.size(sha256)
        if size is None:
            raise missing_blob(sha256)
        return S3Source(self._client, self._bucket, _blob(sha256), size)

    def size(self, sha256: str) -> int | None:
        return self._size(_blob(sha256))

    def put(self, path: Path, sha256: str) -> None:
        if self.size(sha256) == path.stat().st_size:
            return
        key = _blob(sha256)
        digest = hashlib.sha256()
        with path.open("rb") as source:
            upload = self._begin(key)
            try:
                parts = [
                    (number, self._upload_part(key, upload, number, piece))
                    for number, piece in enumerate(_pieces(source, digest.update), 1)
                ]
                if digest.hexdigest() != sha256:
                    raise wrong_hash(path.name)
                self._complete(key, upload, parts)
            except BaseException:
                self._abort(key, upload)
                raise

    def delete(self, sha256: str) -> None:
        self._client.delete_object(Bucket=self._bucket, Key=_blob(sha256))

    def download_url(
        self, sha256: str, file_name: str, *, seconds: int = URL_LIFETIME
    ) -> str | None:
        url: str = self._client.generate_presigned_url(
            "get_object",
            Params={
                "Bucket": self._bucket,
                "Key": _blob(sha256),
                "ResponseContentDisposition": disposition(file_name),
                "ResponseContentType": "application/octet-stream",
            },
            ExpiresIn=seconds,
        )
        return url

    def free_bytes(self) -> int | None:
        return None

    def begin(self, upload_id: str, size: int) -> str:
        return self._begin(_incoming(upload_id))

    def part_url(self, upload_id: str, handle: str, number: int, size: int) -> str | None:
        url: str = self._client.generate_presigned_url(
            "upload_part",
            Params={
                "Bucket": self._bucket,
                "Key": _incoming(upload_id),
                "UploadId": handle,
                "PartNumber": number,
                "ContentLength": size,
            },
            ExpiresIn=URL_LIFETIME,
        )
        return url

    def write_part(
        self, upload_id: str, handle: str, number: int, offset: int, chunks: Iterable[bytes]
    ) -> str:
        return self._upload_part(_incoming(upload_id), handle, number, b"".join(chunks))

    def staged_parts(self, upload_id: str, handle: str) -> list[StagedPart] | None:
        pages = self._client.get_paginator("list_parts").paginate(
            Bucket=self._bucket, Key=_incoming(upload_id), UploadId=handle
        )
        try:
            return [
                StagedPart(part["PartNumber"], part["Size"], part["ETag"].strip('"'))
                for page in pages
                for part in page.get("Parts", [])
            ]
        except ClientError as error:
            if _code(error) == "NoSuchUpload":
                raise missing_upload() from error
            raise

    def complete(self, upload_id: str, handle: str, parts: Sequence[tuple[int, str]]) -> None:
        self._complete(_incoming(upload_id), handle, parts)

    def open_staged(self, upload_id: str) -> ByteSource:
        key = _incoming(upload_id)
        size = self._size(key)
        if size is None:
            raise missing_upload()
        return S3Source(self._client, self._bucket, key, size)

    def promote(self, upload_id: str, sha256: str) -> None:
        source, blob = _incoming(upload_id), _blob(sha256)
        size, there = self._size(source), self._size(blob)
        if size is None:
            if there is None:
                raise missing_upload()
            return
        if there != size:
            self._copy(source, blob, size)
        self._client.delete_object(Bucket=self._bucket, Key=source)

    def abort(self, upload_id: str, handle: str) -> None:
        key = _incoming(upload_id)
        if handle:
            self._abort(key, handle)
        self._client.delete_object(Bucket=self._bucket, Key=key)

    def tidy(self, before: datetime, keep: Callable[[str], bool]) -> int:
        dropped = 0
        for upload in self._listed("list_multipart_uploads", "Uploads", Prefix=""):
            if upload["Initiated"] < before and not keep(_upload_id(upload["Key"])):
                self._abort(upload["Key"], upload["UploadId"])
                dropped += 1
        for staged in self._listed("list_objects_v2", "Contents", Prefix="incoming/"):
            if staged["LastModified"] < before and not keep(_upload_id(staged["Key"])):
                self._client.delete_object(Bucket=self._bucket, Key=staged["Key"])
                dropped += 1
        return dropped

    def _size(self, key: str) -> int | None:
        try:
            answer = self._client.head_object(Bucket=self._bucket, Key=key)
        except ClientError as error:
            if error.response["ResponseMetadata"]["HTTPStatusCode"] == 404:
                return None
            raise
        return int(answer["ContentLength"])

    def _begin(self, key: str) -> str:
        answer = self._client.create_multipart_upload(
            Bucket=self._bucket, Key=key, ContentType="application/octet-stream"
        )
        return str(answer["UploadId"])

    def _upload_part(self, key: str, upload: str, number: int, piece: bytes) -> str:
        try:
            answer = self._client.upload_part(
                Bucket=self._bucket, Key=key, UploadId=upload, PartNumber=number, Body=piece
            )
        except ClientError as error:
            # Not every server has a word of its own for an upload that was aborted.
            if _code(error) == "NoSuchUpload" or not self._is_open(key, upload):
                raise missing_upload() from error
            raise
        return str(answer["ETag"]).strip('"')

    def _is_open(self, key: str, upload: str) -> bool:
        try:
            self._client.list_parts(Bucket=self._bucket, Key=key, UploadId=upload, MaxParts=1)
        except ClientError as error:
            if _code(error) == "NoSuchUpload":
                return False
            raise
        return True

    def _complete(self, key: str, upload: str, parts: Sequence[tuple[int, str]]) -> None:
        try:
            self._client.complete_multipart_upload(
                Bucket=self._bucket,
                Key=key,
                UploadId=upload,
                MultipartUpload={
                    "Parts": [
                        {"PartNumber": number, "ETag": f'"{etag}"'}
                        for number, etag in sorted(parts)
                    ]
                },
            )
        except ClientError as error:
            if _code(error) == "NoSuchUpload":
                if self._size(key) is not None:  # an earlier call did it
                    return
                raise missing_upload() from error
            if _code(error) in ("InvalidPart", "InvalidPartOrder", "EntityTooSmall"):
                raise Refusal(
                    _(
                        "The parts of this upload are not the ones that arrived. Send the file "
                        "again."
                    )
                ) from error
            raise

    def _copy(self, source: str, target: str, size: int) -> None:
        """Server-side; the target appears whole or not at all."""
        origin = {"Bucket": self._bucket, "Key": source}
        if size <= COPY_LIMIT:
            self._client.copy_object(Bucket=self._bucket, Key=target, CopySource=origin)
            return
        upload = self._begin(target)
        try:
            parts = []
            for number, start in enumerate(range(0, size, COPY_PART), 1):
                answer = self._client.upload_part_copy(
                    Bucket=self._bucket,
                    Key=target,
                    UploadId=upload,
                    PartNumber=number,
                    CopySource=origin,
                    CopySourceRange=f"bytes={start}-{min(start + COPY_PART, size) - 1}",
                )
                parts.append((number, str(answer["CopyPartResult"]["ETag"]).strip('"')))
            self._complete(target, upload, parts)
        except BaseException:
            self._abort(target, upload)
            raise

    def _abort(self, key: str, upload: str) -> None:
        try:
            self._client.abort_multipart_upload(Bucket=self._bucket, Key=key, UploadId=upload)
        except ClientError as error:
            if _code(error) not in ("NoSuchUpload", "NoSuchKey", "404"):
                raise

    def _listed(self, operation: str, field: str, **where: Any) -> Iterator[dict[str, Any]]:
        pages = self._client.get_paginator(operation).paginate(Bucket=self._bucket, **where)
        for page in pages:
            yield from page.get(field, [])


def _blob(sha256: str) -> str:
    return f"blobs/{blob_key(sha256)}"


def _incoming(upload_id: str) -> str:
    return f"incoming/{upload_id}"


def _upload_id(key: str) -> str:
    return key.removeprefix("incoming/")


def _code(error: ClientError) -> str:
    return str(error.response["Error"].get("Code", ""))


def _pieces(source: BinaryIO, seen: Callable[[bytes], object]) -> Iterator[bytes]:
    """The file in parts; one empty part for an empty file."""
    piece = source.read(PUT_PART)
    while True:
        seen(piece)
        yield piece
        piece = source.read(PUT_PART)
        if not piece:
            return
