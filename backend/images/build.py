"""From settings to what reads images."""

from __future__ import annotations

from backend.images.guarded_http import Fetcher, HostRules
from backend.images.loader import ImageLoader
from backend.images.sources import ImageSource
from backend.label_studio.client import LabelStudioClient
from backend.settings import Settings


def build_images(settings: Settings, client: LabelStudioClient | None) -> ImageLoader:
    """What reads images, from where the settings allow it."""
    options = settings.images
    rules = HostRules.parse(options.allowed_hosts, options.allowed_networks)
    source = ImageSource(
        client,
        Fetcher(rules, timeout_s=(5.0, options.timeout_s), deadline_s=options.download_s),
        public_urls=settings.label_studio.public_urls,
        folders=options.allowed_folders,
        max_bytes=int(options.max_file_mb * 1e6),
        deadline_s=options.download_s,
    )
    return ImageLoader(
        source,
        max_pixels=options.max_pixels,
        cache_bytes=int(options.memory_mb * 1e6),
        max_age_s=options.max_age_s,
        max_waiting=max(2, 3 * settings.server.click_threads // 4),
    )
