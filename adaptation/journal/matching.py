"""Which shown mask became which submitted region: the rule, without a database.

The client keeps the id of a suggestion that is accepted, also when the mask is edited afterwards,
so the id is the proof.  Where it is lost (copied, split, converted or redrawn regions), the region
goes to the mask of the same task and label that overlaps it most, if by half; of equals, to the
newest.  A mask is given to one region of a submission at most.
"""

from __future__ import annotations

import logging
from collections.abc import Sequence
from dataclasses import dataclass

from adaptation.errors import InputError
from adaptation.journal.records import LinkKind, SubmittedRegion
from adaptation.masks import Rle, rle_iou, run_lengths

logger = logging.getLogger(__name__)

MIN_OVERLAP = 0.5
"""The IoU from which on two masks are taken for the same object."""


@dataclass(frozen=True, slots=True, kw_only=True)
class Offer:
    """A candidate with what is needed to match it."""

    seq: int
    request_id: str
    region_id: str
    label: str
    rle: Rle


@dataclass(frozen=True, slots=True, kw_only=True)
class Match:
    """A submitted region's origin; ``offer`` is None where nothing fits."""

    offer: Offer | None
    how: LinkKind
    iou: float | None


NO_MATCH = Match(offer=None, how="none", iou=None)


def match(
    regions: Sequence[SubmittedRegion], by_id: Sequence[Offer], others: Sequence[Offer]
) -> list[Match]:
    """Find the origin of every region of one submission.

    Args:
        regions: As submitted.
        by_id: Candidates of the task that have the id of one of the regions.
        others: Candidates that were shown in the task before, for the regions without an id.

    Returns:
        One match for each region, in order.
    """
    matches = [_match_by_id(region, by_id) for region in regions]
    taken = {(m.offer.seq, m.offer.region_id) for m in matches if m.offer is not None}
    for overlap, position, offer in _overlaps(regions, matches, others):
        key = (offer.seq, offer.region_id)
        if matches[position].offer is None and key not in taken:
            matches[position] = Match(offer=offer, how="overlap", iou=overlap)
            taken.add(key)
    return matches


def _match_by_id(region: SubmittedRegion, offers: Sequence[Offer]) -> Match:
    found = [offer for offer in offers if offer.region_id == region.region_id]
    if not found:
        return NO_MATCH
    newest = max(found, key=lambda offer: offer.seq)
    return Match(offer=newest, how="region_id", iou=overlap_of(region.rle, newest.rle))


def _overlaps(
    regions: Sequence[SubmittedRegion], matches: Sequence[Match], offers: Sequence[Offer]
) -> list[tuple[float, int, Offer]]:
    """All pairs that could be linked, the best first: by overlap, then the newest."""
    pairs = []
    for position, (region, known) in enumerate(zip(regions, matches, strict=True)):
        if known.offer is not None or region.rle is None or not _has_pixels(region.rle):
            continue
        for offer in offers:
            if offer.label == region.label:
                overlap = overlap_of(region.rle, offer.rle) or 0.0
                if overlap >= MIN_OVERLAP:
                    pairs.append((overlap, position, offer))
    return sorted(pairs, key=lambda pair: (-pair[0], -pair[2].seq, pair[1]))


def overlap_of(submitted: Rle | None, offered: Rle) -> float | None:
    """IoU of two masks; None without a readable mask, 0 for masks of different images."""
    if submitted is None:
        return None
    if tuple(submitted.size) != tuple(offered.size):
        return 0.0
    if submitted.counts == offered.counts:
        return 1.0
    try:
        return rle_iou(submitted, offered)
    except InputError as error:
        logger.warning("a mask in the journal cannot be read: %s", error)
        return None


def _has_pixels(rle: Rle) -> bool:
    try:
        return bool(run_lengths(rle)[1::2].any())
    except InputError:
        return False
