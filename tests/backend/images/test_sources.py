from __future__ import annotations

import base64
import os
from collections.abc import Iterator, Sequence
from pathlib import Path
from urllib.parse import quote

import pytest
from hypothesis import given
from hypothesis import strategies as st

from adaptation.errors import ImageError
from backend.images.guarded_http import Fetcher, HostRules
from backend.images.sources import ImageSource, public_reference
from backend.label_studio.client import LabelStudioClient, Transport
from tests.backend.sites import LEGACY_TOKEN, PERSONAL_TOKEN, LabelStudioSite, Site

LIMIT = 10_000


@pytest.fixture
def studio() -> Iterator[LabelStudioSite]:
    with LabelStudioSite().running() as running:
        assert isinstance(running, LabelStudioSite)
        yield running


@pytest.fixture
def bucket() -> Iterator[Site]:
    """The storage that presigned addresses point to: another host for all that Strop knows."""
    with Site().running() as running:
        yield running


def source_of(
    studio: Site | None,
    *,
    token: str = LEGACY_TOKEN,
    hosts: Sequence[str] = (),
    folders: Sequence[Path] = (),
    public_urls: Sequence[str] = (),
    prefix: str = "",
) -> ImageSource:
    client = None if studio is None else LabelStudioClient(Transport(studio.url + prefix, token))
    fetcher = Fetcher(HostRules.parse(hosts, ["127.0.0.0/8"]), deadline_s=5)
    return ImageSource(
        client, fetcher, public_urls=public_urls, folders=folders, max_bytes=LIMIT, deadline_s=5
    )


def host_of(site: Site) -> str:
    return f"127.0.0.1:{site.port}"


def asked(site: Site, path: str) -> bool:
    return path in site.paths()


# -- Label Studio's own files --------------------------------------------------------------------


@pytest.mark.parametrize("token", [LEGACY_TOKEN, PERSONAL_TOKEN])
@pytest.mark.parametrize("is_absolute", [True, False])
def test_an_upload_is_read_with_the_token(
    studio: LabelStudioSite, token: str, is_absolute: bool
) -> None:
    path = "/data/upload/1/f2582610-coffee.jpg"
    url = studio.serve(path, b"jpeg")
    assert source_of(studio, token=token).read(url if is_absolute else path, "1") == b"jpeg"


def test_local_files_are_read_with_their_query(studio: LabelStudioSite) -> None:
    studio.serve("/data/local-files/", b"png")
    name = "imgs/two words, große.png"
    assert source_of(studio).read(f"/data/local-files/?d={name}", "1") == b"png"
    assert studio.requests[-1].query == {"d": name}


def test_a_label_studio_below_a_path(studio: LabelStudioSite) -> None:
    studio.serve("/label/data/upload/1/a.png", b"png")
    source = source_of(studio, prefix="/label")
    for reference in (
        "/data/upload/1/a.png",
        "/label/data/upload/1/a.png",
        f"{studio.url}/label/data/upload/1/a.png",
    ):
        assert source.read(reference, "1") == b"png"


def test_the_address_that_browsers_use_means_the_same_label_studio(studio: LabelStudioSite) -> None:
    """Label Studio writes its public address into tasks; Strop reaches it by another one."""
    studio.serve("/data/upload/1/a.png", b"png")
    reference = "https://labels.example.com/data/upload/1/a.png"
    source = source_of(studio, public_urls=["https://labels.example.com/"])
    assert source.read(reference, "1") == b"png"
    with pytest.raises(
        ImageError, match=r"public_urls: \[https://labels\.example\.com\]"
    ) as caught:
        source_of(studio).read(reference, "1")
    assert "allowed_hosts" not in str(caught.value)


@pytest.mark.parametrize(
    "reference", ["/label-studio{}", "https://labels.example.com/label-studio{}"]
)
def test_a_public_address_below_a_path_that_the_inner_one_has_not(
    studio: LabelStudioSite, folder: Path, reference: str
) -> None:
    studio.serve("/data/upload/4/x.png", b"png")
    public = ["https://other.example.com", "https://labels.example.com/label-studio/"]
    source = source_of(studio, public_urls=public, folders=[folder])
    assert source.read(reference.format("/data/upload/4/x.png"), "1") == b"png"
    local = reference.format("/data/local-files/?d=inner.png")
    assert source.read(local, "1") == b"inside"
    with pytest.raises(ImageError, match="public_urls: .https://labels.example.com/label-studio."):
        source_of(studio).read("https://labels.example.com/label-studio/data/upload/4/x.png", "1")


def test_of_two_prefixes_the_longer_one_is_taken_off(studio: LabelStudioSite) -> None:
    studio.serve("/data/upload/4/x.png", b"png")
    source = source_of(studio, public_urls=["https://a.example.com/x", "https://b.example.com/x/y"])
    assert source.read("/x/y/data/upload/4/x.png", "1") == b"png"


SPACES = [0x20, 0xA0, 0xAD, 0x200B, 0x200D, 0x200F, 0x2028, 0x202F, 0x3000, 0xFEFF, 0xE9, 0x1F600]


@pytest.mark.parametrize("code", SPACES, ids=hex)
def test_spaces_and_joiners_of_every_kind_are_part_of_a_name(
    studio: LabelStudioSite, bucket: Site, tmp_path: Path, code: int
) -> None:
    """The names of screenshots on macOS hold U+202F."""
    name = f"Screenshot 9.41{chr(code)}PM.png"
    url = bucket.serve(f"/{quote(name)}", b"http")
    studio.presigned["12", f"s3://scans/{name}"] = url
    studio.serve(f"/data/upload/1/{quote(name)}", b"upload")
    (tmp_path / name).write_bytes(b"local")
    source = source_of(studio, hosts=[host_of(bucket)], folders=[tmp_path])
    assert source.read(f"{bucket.url}/{name}", "1") == b"http"
    assert source.read(f"s3://scans/{name}", "12") == b"http"
    assert source.read(f"/data/upload/1/{name}", "1") == b"upload"
    assert source.read(f"/data/local-files/?d={name}", "1") == b"local"


@pytest.mark.parametrize("text", ["a\x00.png", "a\n.png", "a\x85.png", "a\x7f.png", "a\ud800.png"])
def test_control_characters_are_refused(studio: LabelStudioSite, text: str) -> None:
    for reference in (f"http://host/{text}", f"s3://b/{text}", f"/data/local-files/?d={text}"):
        with pytest.raises(ImageError, match="control characters"):
            source_of(studio).read(reference, "1")


def test_spaces_around_an_address_are_left_out_as_browsers_do(studio: LabelStudioSite) -> None:
    studio.serve("/data/upload/1/a.png", b"png")
    assert source_of(studio).read(" \t/data/upload/1/a.png\r\n", "1") == b"png"


def test_a_redirect_in_utf8_is_followed(bucket: Site) -> None:
    bucket.serve(f"/{quote('große.png')}", b"png")
    url = bucket.redirect("/a.png", "/große.png".encode().decode("latin-1"))
    assert source_of(None, hosts=[host_of(bucket)]).read(url, "1") == b"png"


@pytest.mark.parametrize(
    "reference",
    [
        "/api/projects/1/export",
        "/api/current-user/token",
        "/user/account",
        "/data/../api/projects/",
        "/data/%2e%2e/api/projects/",
        "/data/%252e%252e/api/projects/",
        "/data/..%2fapi/projects/",
        "/data/..\\api/projects/",
        "/data/local-files/?d=../../etc/passwd",
        "/data/local-files/?d=%2e%2e/secret.png",
    ],
)
def test_the_token_opens_nothing_but_images(studio: LabelStudioSite, reference: str) -> None:
    with pytest.raises(ImageError, match="not one of its images"):
        source_of(studio).read(reference, "1")
    assert studio.requests == []


@pytest.mark.parametrize(
    ("status", "message"), [(403, "may not see"), (404, "no such file"), (500, "answered 500")]
)
def test_a_refusal_says_what_to_do(studio: LabelStudioSite, status: int, message: str) -> None:
    from tests.backend.sites import Reply

    studio.routes["/data/upload/1/a.png"] = lambda _: Reply(status)
    with pytest.raises(ImageError, match=message):
        source_of(studio).read("/data/upload/1/a.png", "1")


def test_a_wrong_token_is_told_apart_from_a_missing_file(studio: LabelStudioSite) -> None:
    studio.serve("/data/upload/1/a.png", b"png")
    with pytest.raises(ImageError, match="refused the token"):
        source_of(studio, token="0" * 40).read("/data/upload/1/a.png", "1")


def test_a_label_studio_that_is_down_is_an_image_error() -> None:
    client = LabelStudioClient(Transport("http://127.0.0.1:9", LEGACY_TOKEN))
    source = ImageSource(client, Fetcher(HostRules()), max_bytes=LIMIT)
    with pytest.raises(ImageError, match="cannot be reached"):
        source.read("/data/upload/1/a.png", "1")


def test_without_a_label_studio_its_files_cannot_be_read() -> None:
    with pytest.raises(ImageError, match="set label_studio.url"):
        source_of(None).read("/data/upload/1/a.png", "1")


def test_a_file_of_label_studio_has_the_same_byte_limit(studio: LabelStudioSite) -> None:
    studio.serve("/data/upload/1/a.png", b"x" * (LIMIT + 1))
    with pytest.raises(ImageError, match="larger than the 10000 bytes"):
        source_of(studio).read("/data/upload/1/a.png", "1")


# -- buckets -------------------------------------------------------------------------------------


@pytest.mark.parametrize("uri", ["s3://scans/a b.png", "gs://scans/ä.png", "azure-blob://c/x.png"])
@pytest.mark.parametrize("token", [LEGACY_TOKEN, PERSONAL_TOKEN])
def test_a_bucket_is_read_through_the_presign_route_and_the_token_stays_home(
    studio: LabelStudioSite, bucket: Site, uri: str, token: str
) -> None:
    bucket.serve("/scans/a.png", b"png")
    studio.presigned["12", uri] = f"{bucket.url}/scans/a.png?X-Amz-Signature=abc"
    source = source_of(studio, token=token, hosts=[host_of(bucket)])
    assert source.read(uri, "12") == b"png"
    (request,) = bucket.requests
    assert "Authorization" not in request.headers and "Cookie" not in request.headers
    assert request.query == {"X-Amz-Signature": "abc"}


def test_a_task_that_names_the_presign_route_itself(studio: LabelStudioSite, bucket: Site) -> None:
    """Tasks of the API hold the resolved form of a bucket's address."""
    bucket.serve("/a.png", b"png")
    studio.presigned["12", "s3://scans/a.png"] = f"{bucket.url}/a.png"
    encoded = base64.urlsafe_b64encode(b"s3://scans/a.png").decode()
    source = source_of(studio, hosts=[host_of(bucket)])
    assert source.read(f"/tasks/12/resolve/?fileuri={encoded}", "12") == b"png"


def test_a_presigned_host_that_is_not_listed_is_named_and_never_contacted(
    studio: LabelStudioSite, bucket: Site
) -> None:
    studio.presigned["12", "s3://scans/a.png"] = f"{bucket.url}/a.png?X-Amz-Signature=abc"
    with pytest.raises(ImageError, match="add it to images.allowed_hosts") as caught:
        source_of(studio, hosts=["elsewhere.example.com"]).read("s3://scans/a.png", "12")
    assert host_of(bucket) in str(caught.value) and "Signature" not in str(caught.value)
    assert bucket.requests == []


def test_a_bucket_that_is_not_connected_is_a_clear_error(studio: LabelStudioSite) -> None:
    with pytest.raises(ImageError, match="needs? a storage that is connected|connected to the"):
        source_of(studio).read("s3://scans/a.png", "12")


@pytest.mark.parametrize("task_id", ["", "../1", "1/../../api", "١٢"])
def test_a_bucket_needs_the_number_of_the_task(studio: LabelStudioSite, task_id: str) -> None:
    with pytest.raises(ImageError, match="number of its task"):
        source_of(studio).read("s3://scans/a.png", task_id)
    assert studio.requests == []


# -- other hosts, redirects --------------------------------------------------------------------


def test_another_host_is_read_when_it_is_listed(bucket: Site) -> None:
    bucket.serve("/a%20b.png", b"png")
    assert source_of(None, hosts=[host_of(bucket)]).read(f"{bucket.url}/a b.png", "1") == b"png"
    with pytest.raises(ImageError, match="images.allowed_hosts"):
        source_of(None).read(f"{bucket.url}/a b.png", "1")


def test_a_redirect_to_a_host_that_is_not_listed_is_refused(
    studio: LabelStudioSite, bucket: Site
) -> None:
    studio.redirect("/data/upload/1/a.png", "http://169.254.169.254/latest/meta-data/")
    url = bucket.redirect("/a.png", "http://localhost:9090/")
    source = source_of(studio, hosts=[host_of(bucket)])
    for reference in ("/data/upload/1/a.png", url):
        with pytest.raises(ImageError, match="not read from (169.254.169.254|localhost:9090)"):
            source.read(reference, "1")


@pytest.mark.parametrize("target", ["file:///etc/passwd", "ftp://127.0.0.1/a", "gopher://x/"])
def test_a_redirect_to_another_kind_of_address_is_refused(bucket: Site, target: str) -> None:
    url = bucket.redirect("/a.png", target)
    with pytest.raises(ImageError):
        source_of(None, hosts=[host_of(bucket)]).read(url, "1")


def test_a_redirect_back_to_label_studio_gets_the_token_and_its_rules(
    studio: LabelStudioSite, bucket: Site
) -> None:
    studio.serve("/data/upload/1/a.png", b"png")
    source = source_of(studio, hosts=[host_of(bucket)])
    good = bucket.redirect("/good.png", f"{studio.url}/data/upload/1/a.png")
    assert source.read(good, "1") == b"png"
    bad = bucket.redirect("/bad.png", f"{studio.url}/api/current-user/token")
    with pytest.raises(ImageError, match="not one of its images"):
        source.read(bad, "1")


def test_a_relative_redirect_stays_where_it_is(bucket: Site) -> None:
    bucket.serve("/store/b.png", b"png")
    url = bucket.redirect("/store/a.png", "b.png")
    assert source_of(None, hosts=[host_of(bucket)]).read(url, "1") == b"png"


def test_endless_redirects_end(bucket: Site) -> None:
    url = bucket.redirect("/a.png", "/a.png")
    with pytest.raises(ImageError, match="redirects more than 5 times"):
        source_of(None, hosts=[host_of(bucket)]).read(url, "1")
    assert len(bucket.requests) == 6


@pytest.mark.parametrize(
    "reference",
    [
        "",
        "file:///etc/passwd",
        "FILE:///etc/passwd",
        "/etc/passwd",
        "etc/passwd",
        "C:\\images\\a.png",
        "//evil.example.com/a.png",
        "ftp://host/a.png",
        "javascript:alert(1)",
        "http://[::1",
        "http://host:port/a.png",
        "\x00",
        "http://\n127.0.0.1/",
    ],
)
def test_every_other_reference_is_refused(studio: LabelStudioSite, reference: str) -> None:
    with pytest.raises(ImageError) as caught:
        source_of(studio).read(reference, "1")
    assert "passwd" not in str(caught.value)
    assert studio.requests == []


# -- folders -------------------------------------------------------------------------------------


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    (tmp_path / "outside.png").write_bytes(b"outside")
    images = tmp_path / "images"
    (images / "deep").mkdir(parents=True)
    (images / "deep" / "a b.png").write_bytes(b"inside")
    (images / "link.png").symlink_to(tmp_path / "outside.png")
    (images / "inner.png").symlink_to(images / "deep" / "a b.png")
    os.mkfifo(images / "pipe.png")
    return images


@pytest.mark.parametrize("name", ["deep/a b.png", "./deep/a b.png", "inner.png"])
def test_an_allowed_folder_is_read_from_the_disk(
    studio: LabelStudioSite, folder: Path, name: str
) -> None:
    source = source_of(studio, folders=[folder])
    for written in (name, quote(name)):
        assert source.read(f"/data/local-files/?d={written}", "1") == b"inside"
        assert source.read(f"{studio.url}/data/local-files/?d={written}", "1") == b"inside"
    assert studio.requests == []


@pytest.mark.parametrize("name", ["../outside.png", "deep/../../outside.png", "%2e%2e/outside.png"])
def test_no_name_climbs_out_of_a_folder(folder: Path, name: str) -> None:
    with pytest.raises(ImageError, match=r"climbs out"):
        source_of(None, folders=[folder]).read(f"/data/local-files/?d={name}", "1")


@pytest.mark.parametrize("name", ["link.png", "pipe.png", "deep", "none.png"])
def test_links_out_pipes_and_folders_are_left_to_label_studio(
    studio: LabelStudioSite, folder: Path, name: str
) -> None:
    studio.serve("/data/local-files/", b"from label studio")
    source = source_of(studio, folders=[folder])
    assert source.read(f"/data/local-files/?d={name}", "1") == b"from label studio"


def test_a_slash_before_a_name_is_left_out_as_label_studio_does(folder: Path) -> None:
    source = source_of(None, folders=[folder])
    assert source.read("/data/local-files/?d=/inner.png", "1") == b"inside"
    with pytest.raises(ImageError, match="No folder of images.allowed_folders") as caught:
        source.read(f"/data/local-files/?d={folder / 'inner.png'}", "1")
    assert str(folder) not in str(caught.value)


@pytest.mark.parametrize("name", ["none.png", "x" * 5000, "a/" * 3000 + "x.png", "deep"])
def test_a_missing_local_file_says_where_it_was_looked_for(folder: Path, name: str) -> None:
    with pytest.raises(ImageError, match=r"allowed_folders holds.*set label_studio\.url"):
        source_of(None, folders=[folder]).read(f"/data/local-files/?d={name}", "1")


def test_a_name_too_long_for_the_disk_is_left_to_label_studio(
    studio: LabelStudioSite, folder: Path
) -> None:
    studio.serve("/data/local-files/", b"from label studio")
    source = source_of(studio, folders=[folder])
    assert source.read(f"/data/local-files/?d={'x' * 5000}", "1") == b"from label studio"


def test_a_ring_of_links_is_no_file(folder: Path) -> None:
    (folder / "ring").symlink_to(folder / "ring")
    with pytest.raises(ImageError, match="allowed_folders holds"):
        source_of(None, folders=[folder]).read("/data/local-files/?d=ring/a.png", "1")


def test_missing_folders_are_told_at_the_start(
    tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    source_of(None, folders=[tmp_path, tmp_path / "none"])
    (line,) = [record.getMessage() for record in caplog.records]
    assert "images.allowed_folders" in line and line.count(str(tmp_path / "none")) == 1


def test_a_local_file_of_another_label_studio_is_not_looked_up_here(folder: Path) -> None:
    reference = "http://other.example.com/data/local-files/?d=inner.png"
    with pytest.raises(ImageError, match="not read from http://other.example.com"):
        source_of(None, folders=[folder]).read(reference, "1")


def test_a_local_file_has_the_same_byte_limit(folder: Path) -> None:
    (folder / "large.png").write_bytes(b"x" * (LIMIT + 1))
    with pytest.raises(ImageError, match="larger"):
        source_of(None, folders=[folder]).read("/data/local-files/?d=large.png", "1")


# -- data: ---------------------------------------------------------------------------------------


@given(st.binary(max_size=300))
def test_data_addresses_are_decoded(content: bytes) -> None:
    source = source_of(None)
    encoded = base64.b64encode(content).decode()
    assert source.read(f"data:image/png;base64,{encoded}", "1") == content
    assert source.read(f"data:image/png;charset=x;BASE64,{quote(encoded)}", "1") == content
    assert source.read(f"data:,{quote(content)}", "1") == content


@pytest.mark.parametrize(
    "uri", ["data:", "data:image/png;base64", "data:;base64,???", "data:;base64,a"]
)
def test_broken_data_addresses_are_refused(uri: str) -> None:
    with pytest.raises(ImageError, match="data: address"):
        source_of(None).read(uri, "1")


def test_large_data_addresses_are_refused() -> None:
    content = base64.b64encode(b"x" * (LIMIT + 1)).decode()
    for uri in (f"data:;base64,{content}", "data:," + "x" * (4 * LIMIT + 1)):
        with pytest.raises(ImageError, match="larger"):
            source_of(None).read(uri, "1")


# -- what may be shown of a reference --------------------------------------------------------------


@pytest.mark.parametrize(
    ("reference", "shown"),
    [
        ("/data/upload/1/a.png", "/data/upload/1/a.png"),
        ("/data/local-files/?d=imgs/a.png", "/data/local-files/?d=imgs/a.png"),
        ("https://u:p@b.s3.amazonaws.com/a.png?X-Sig=1#f", "https://b.s3.amazonaws.com/a.png"),
        ("s3://scans/a.png", "s3://scans/a.png"),
        ("data:image/png;base64,AAAA", "data:image/png;base64"),
        ("http://[::1", "(not an address)"),
    ],
)
def test_what_is_shown_of_a_reference(reference: str, shown: str) -> None:
    assert public_reference(reference) == shown
