"""A task's image reference -> the bytes of the file, from where the operator allows it.

| reference | read from |
|---|---|
| ``/data/upload/..``, ``/data/local-files/?d=..``, other paths of images | Label Studio |
| ``http(s)://`` Label Studio's own or public address | Label Studio |
| ``/data/local-files/?d=..`` that lies in an allowed folder | this machine's disk |
| ``s3:// gs:// azure-blob://`` | where Label Studio's presign route redirects to |
| other ``http(s)://`` | the host, if it is on the list |
| ``data:`` | the reference itself |

Anything else is refused.  A redirect is a new reference that is checked from the start; the token
is sent to Label Studio's own address and nowhere else.
"""

from __future__ import annotations

import base64
import binascii
import logging
import re
import time
import unicodedata
from collections.abc import Sequence
from pathlib import Path
from urllib.parse import parse_qs, quote, unquote, unquote_to_bytes, urljoin, urlsplit

from adaptation.errors import ImageError
from backend.images.guarded_http import (
    Fetcher,
    HostNotAllowedError,
    HttpBody,
    read_limited,
    too_many_bytes,
)
from backend.label_studio.client import LabelStudioClient, LabelStudioError

logger = logging.getLogger(__name__)

MAX_REDIRECTS = 5
CLOUD_SCHEMES = ("s3", "gs", "azure-blob", "azure")

_LABEL_STUDIO_PATHS = re.compile(
    r"/(data/|static/|(tasks|projects)/\d+/(presign|resolve|file-proxy)/|api/projects/\d+/file-proxy/)"
)
_LOCAL_FILES = "/data/local-files/"
_OWN_FILES = re.compile(r"(.*?)/data/(upload|local-files)/")
"""Paths that hardly any server but Label Studio has, and what stands before them."""

_ENDS = "".join(map(chr, range(0x21)))
"""Control characters and spaces: browsers leave them out at an address's ends."""

_AS_IT_IS = "".join(chr(code) for code in range(0x21, 0x7F))
_REFUSED = {
    401: "it refused the token: run `strop doctor`",
    403: "the token's owner may not see this image",
    404: "there is no such file (local files and buckets need a storage that is connected to the "
    "project)",
}


class ImageSource:
    """Reads the files that references name.  Safe to share between threads.

    Args:
        client: Label Studio, or None to read no image from it.
        fetcher: For hosts other than Label Studio's, with the rules about them.
        public_urls: Other addresses of the same Label Studio, such as the one that browsers use;
            they are never contacted, ``client`` is.
        folders: Folders of this machine that local files are looked up in first, each a document
            root like Label Studio's ``LOCAL_FILES_DOCUMENT_ROOT``.
        max_bytes: Largest file.
        deadline_s: Longest download, with all its redirects, in seconds.
    """

    def __init__(
        self,
        client: LabelStudioClient | None,
        fetcher: Fetcher,
        *,
        public_urls: Sequence[str] = (),
        folders: Sequence[Path] = (),
        max_bytes: int,
        deadline_s: float = 60.0,
    ) -> None:
        self._client = client
        self._fetcher = fetcher
        self._bases = tuple(url.rstrip("/") for url in public_urls)
        if client is not None:
            self._bases = (client.url, *self._bases)
        self._folders = tuple(Path(folder).resolve() for folder in folders)
        for folder in self._folders:
            if not folder.is_dir():
                logger.warning("images.allowed_folders: %s is no folder that can be read", folder)
        self._max_bytes = max_bytes
        self._deadline_s = deadline_s

    def read(self, image_ref: str, task_id: str) -> bytes:
        """The encoded file.

        Args:
            image_ref: As it stands in the task's data.
            task_id: The task; Label Studio presigns bucket addresses for it.

        Raises:
            ImageError: It may not be read, or it cannot; the message names no path and no secret.
        """
        if image_ref.startswith("data:"):
            return _decode_data_uri(image_ref, self._max_bytes)
        image_ref = image_ref.strip(_ENDS)
        _check_reference(image_ref)
        local = self._from_folder(image_ref)
        if local is not None:
            return local
        where = self._first_address(image_ref, task_id)
        give_up_at = time.monotonic() + self._deadline_s
        for _ in range(MAX_REDIRECTS + 1):
            download = self._request(where, max(0.1, give_up_at - time.monotonic()))
            if download.location is None:
                return download.content
            where = urljoin(where, _as_sent(download.location))
            _check_reference(where)
        raise ImageError(f"The image's address redirects more than {MAX_REDIRECTS} times.")

    # -- where to ask -----------------------------------------------------------------------------

    def _first_address(self, image_ref: str, task_id: str) -> str:
        """The absolute http(s) address that a reference stands for."""
        scheme = urlsplit(image_ref).scheme.lower()
        if scheme in ("http", "https"):
            return image_ref
        if scheme in CLOUD_SCHEMES:
            return self._label_studio().url + _presign_path(image_ref, task_id)
        if image_ref.startswith("/") and not image_ref.startswith("//"):
            return self._below_label_studio(image_ref)
        kind = f"addresses of the kind {scheme}:" if scheme else "plain file names"
        raise ImageError(
            f"Images are not read from {kind}; use an upload, Label Studio's local files, a "
            "connected bucket, or http(s)."
        )

    def _below_label_studio(self, path: str) -> str:
        return self._label_studio(path).url + self._without_prefix(path)

    def _without_prefix(self, path: str) -> str:
        """A path on Label Studio, which may write that of any of its addresses before it."""
        prefixes = (urlsplit(base).path for base in self._bases)
        found = [prefix for prefix in prefixes if prefix and path.startswith(prefix + "/")]
        return path.removeprefix(max(found, key=len, default=""))

    def _label_studio(self, path: str = "") -> LabelStudioClient:
        if self._client is not None:
            return self._client
        if self._folders and self._local_name(path) is not None:
            raise ImageError(
                "No folder of images.allowed_folders holds the image's file, and Strop was not "
                "told where Label Studio is, to ask it: set label_studio.url and "
                "label_studio.token, or put the file there."
            )
        raise ImageError(
            "The image lies in Label Studio, and Strop was not told its address: set "
            "label_studio.url and label_studio.token."
        )

    # -- one request ------------------------------------------------------------------------------

    def _request(self, url: str, left_s: float) -> HttpBody:
        for base in self._bases:
            path = _path_below(base, url)
            if path is not None:
                return self._from_label_studio(path, left_s)
        if urlsplit(url).scheme not in ("http", "https"):
            raise ImageError("The image's address redirects to something that is not http(s).")
        try:
            return self._fetcher.fetch(
                _percent_encoded(url), max_bytes=self._max_bytes, deadline_s=left_s
            )
        except HostNotAllowedError:
            own_address = _looks_like_label_studio(url)
            if own_address is None:
                raise
            raise ImageError(
                f"Images are not read from {own_address}: if that is Label Studio's address under "
                f"another name, set label_studio.public_urls: [{own_address}]."
            ) from None

    def _from_label_studio(self, path: str, left_s: float) -> HttpBody:
        if not _LABEL_STUDIO_PATHS.match(path) or _climbs(path):
            raise ImageError("The reference is a page of Label Studio, not one of its images.")
        client = self._label_studio()
        try:
            reply = client.http.open(path, headers={"Accept-Encoding": "identity"})
        except LabelStudioError as error:
            raise ImageError(str(error)) from None
        with reply:
            if reply.is_redirect:
                return HttpBody(location=urljoin(client.url + path, reply.headers["Location"]))
            if not reply.ok:
                reason = _REFUSED.get(reply.status_code, "see its log")
                answer = f"Label Studio answered {reply.status_code} for the image"
                raise ImageError(f"{answer}: {reason}.")
            return HttpBody(content=read_limited(reply, self._max_bytes, left_s))

    # -- this machine's disk ----------------------------------------------------------------------

    def _from_folder(self, image_ref: str) -> bytes | None:
        """The file, where an allowed folder holds it; None to ask Label Studio."""
        relative = self._local_name(image_ref)
        if relative is None:
            return None
        for folder in self._folders:
            path = _file_below(folder, relative)
            if path is not None:
                return self._read_file(path)
        return None

    def _local_name(self, image_ref: str) -> str | None:
        """The name behind ``?d=`` of a local file of this Label Studio, else None."""
        if not self._folders:
            return None
        path: str | None = self._without_prefix(image_ref)
        if urlsplit(image_ref).scheme:
            below = (_path_below(base, image_ref) for base in self._bases)
            path = next((found for found in below if found is not None), None)
        if path is None or urlsplit(path).path not in (_LOCAL_FILES, _LOCAL_FILES.rstrip("/")):
            return None
        # Label Studio takes a name with a slash before it for one without.
        name = parse_qs(urlsplit(path).query).get("d", [""])[0].lstrip("/")
        if not name or _climbs(name) or "\0" in name:
            raise ImageError("The local file's name is empty, or climbs out with '..'.")
        return name

    def _read_file(self, path: Path) -> bytes:
        try:
            with path.open("rb") as file:
                content = file.read(self._max_bytes + 1)
        except OSError:
            raise ImageError("The image is in an allowed folder, but cannot be read.") from None
        if len(content) > self._max_bytes:
            raise too_many_bytes(self._max_bytes)
        return content


def _file_below(folder: Path, relative: str) -> Path | None:
    """A file inside of a folder; None for links out of it, pipes, and names that no disk takes."""
    try:
        path = (folder / relative).resolve()
        return path if path.is_relative_to(folder) and path.is_file() else None
    except (OSError, RuntimeError, ValueError):
        return None


def public_reference(image_ref: str) -> str:
    """A reference that may be logged, shown and kept: no credentials, and of ``data:`` no content.

    Queries may carry signatures and are cut, but for the name of a local file.
    """
    if image_ref.startswith("data:"):
        return image_ref.partition(",")[0][:64]
    try:
        parts = urlsplit(image_ref)
    except ValueError:
        return "(not an address)"
    host = parts.netloc.rpartition("@")[2]
    query = parts.query if parts.path.startswith(_LOCAL_FILES.rstrip("/")) else ""
    return parts._replace(netloc=host, query=query, fragment="").geturl()[:1000]


def _check_reference(reference: str) -> None:
    """Refuse what no address looks like, before anything takes it apart."""
    if not reference:
        raise ImageError("The image's address is empty.")
    if any(unicodedata.category(c) in ("Cc", "Cs") for c in reference):
        raise ImageError("The image's address holds control characters or broken ones.")
    try:
        usable = urlsplit(reference).port != 0
    except ValueError:
        usable = False
    if not usable:
        raise ImageError("The image's address is no valid address.")


def _percent_encoded(url: str) -> str:
    """An address as browsers send it: spaces of every kind, joiners and letters as UTF-8."""
    parts = urlsplit(url)
    path, query = (quote(part, safe=_AS_IT_IS) for part in (parts.path, parts.query))
    return parts._replace(path=path, query=query, fragment="").geturl()


def _as_sent(location: str) -> str:
    """A redirect's address: HTTP reads bytes as Latin-1, servers mean UTF-8."""
    try:
        return location.encode("latin-1").decode()
    except UnicodeError:
        return location


def _looks_like_label_studio(url: str) -> str | None:
    """The address of the Label Studio that an image's address seems to belong to, if any."""
    parts = urlsplit(url)
    match = _OWN_FILES.match(parts.path)
    return None if match is None else f"{parts.scheme}://{parts.netloc}{match.group(1)}"


def _path_below(base: str, url: str) -> str | None:
    """Path and query of an address below a base address, or None where it lies elsewhere."""
    own, other = urlsplit(base), urlsplit(url)
    if _origin(base) != _origin(url) or not (other.path + "/").startswith(own.path + "/"):
        return None
    path = other.path.removeprefix(own.path) or "/"
    return f"{path}?{other.query}" if other.query else path


def _origin(url: str) -> tuple[str, str, int]:
    parts = urlsplit(url)
    default = {"http": 80, "https": 443}.get(parts.scheme, 0)
    return parts.scheme, (parts.hostname or "").rstrip("."), parts.port or default


def _presign_path(image_ref: str, task_id: str) -> str:
    if not (task_id.isascii() and task_id.isdecimal()):
        raise ImageError("An image in a bucket needs the number of its task in Label Studio.")
    encoded = base64.urlsafe_b64encode(image_ref.encode()).decode()
    return f"/tasks/{task_id}/presign/?fileuri={encoded}"


def _climbs(path: str) -> bool:
    """Whether a path holds "..", also percent-encoded (up to twice) or behind a backslash."""
    for _ in range(3):
        if ".." in path.replace("\\", "/").replace("?", "/").replace("=", "/").split("/"):
            return True
        path = unquote(path)
    return False


def _decode_data_uri(uri: str, max_bytes: int) -> bytes:
    head, comma, body = uri.partition(",")
    if not comma:
        raise ImageError("The image's data: address has no comma, and so no content.")
    if len(body) > 4 * max_bytes:
        raise too_many_bytes(max_bytes)
    content = unquote_to_bytes(body)
    if head.lower().endswith(";base64"):
        try:
            content = base64.b64decode(b"".join(content.split()), validate=True)
        except binascii.Error:
            raise ImageError("The image's data: address is not valid base64.") from None
    if len(content) > max_bytes:
        raise too_many_bytes(max_bytes)
    return content
