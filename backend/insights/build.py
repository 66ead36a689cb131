"""From settings to insights, without a model: `strop report` needs none."""

from __future__ import annotations

from adaptation.journal import Journal
from adaptation.storage.album import Album
from backend.insights.insights import Insights, InsightsOptions
from backend.insights.store import FactStore
from backend.settings import Settings


def build_insights(settings: Settings, journal: Journal) -> Insights:
    """What the journal says of the team's work."""
    studio = settings.label_studio
    options = InsightsOptions(
        learning_is_on=settings.learning.is_on,
        with_annotators=settings.insights.annotators,
        label_studio_url=next(iter(studio.public_urls), studio.url),
        takes_up_bases=settings.model.registry_poll_s > 0,
    )
    store = FactStore(settings.insights_path, journal)
    return Insights(
        journal,
        store,
        Album(settings.album_dir),
        options,
        registry=settings.registry_dir,
        adapters=settings.adapters_dir,
    )
