"""`strop replay`: the sessions of projects, made again from the journal."""

from __future__ import annotations

from dataclasses import dataclass

import torch
from tqdm import tqdm

from adaptation.errors import InputError
from adaptation.journal import Journal
from adaptation.learning.adapter import Adapter
from adaptation.models.base_decoder import Registry
from adaptation.models.sam import PromptableSam
from adaptation.storage.album import Album
from backend.embeddings.encoder import Encoder
from backend.learning.adapter_store import AdapterStore
from backend.learning.events import SessionEvent, read_events
from backend.learning.names import start_of
from backend.learning.objects import ObjectReader, ReplayContext
from backend.learning.rebuild import Rebuilder, Rebuilt
from backend.learning.worker import KnownImages
from backend.settings import Settings
from backend.wiring import (
    adapters_folder,
    build_embeddings,
    build_images,
    load_sam,
    use_threads,
)


@dataclass(frozen=True, slots=True, kw_only=True)
class Replayed:
    """What came of one session.

    Args:
        name: Of the session, or of its project's start.
        n_objects: Objects that it was trained on and has not un-learned.
        version: Of its weights as they were made again.
        saved: Of its file; None where there is none.
        difference: Where it came out otherwise than the journal says, or None.
    """

    name: str
    n_objects: int
    version: str
    saved: str | None
    difference: str | None

    @property
    def is_as_saved(self) -> bool:
        """Whether nothing differs, neither from the journal nor from the file."""
        return self.difference is None and self.version == self.saved

    def __str__(self) -> str:
        if self.difference is not None:
            told = f"NOT as it was: {self.difference}"
        elif self.saved is None:
            told = "as the journal says; it has no file"
        else:
            told = "as saved" if self.is_as_saved else f"its file is another one ({self.saved})"
        return f"{self.name}: {self.n_objects} objects, weights {self.version}: {told}"


def replay(
    settings: Settings,
    project_id: str | None,
    *,
    check: bool,
    sam: PromptableSam | None = None,
) -> list[Replayed]:
    """Make sessions again, on the base decoder in use, and save those whose file differs.

    Args:
        settings: Of the server whose sessions are meant; it should not be running.
        project_id: Only this project's.
        check: Save nothing.
        sam: The model, or None to load the one that the settings name.

    Raises:
        InputError: No session of the project ever learned upon this base decoder.
        StropError: Model or journal cannot be read.
    """
    use_threads(settings)
    model = load_sam(settings, show_progress=True) if sam is None else sam
    base = Registry(settings.registry_dir).load_current(model)
    encoder = Encoder(base, build_images(settings, None), build_embeddings(settings))
    images = KnownImages(encoder, Album(settings.album_dir))
    adapters = AdapterStore(
        base, adapters_folder(settings, model, base), max_sessions=16, ttl_s=float("inf")
    )
    found: list[Replayed] = []
    with Journal(settings.journal_url, create=False) as journal:
        for project, events in _by_project(journal, project_id).items():
            with tqdm(total=len(events), desc=f"project {project}", unit="event") as progress:
                rebuilder = Rebuilder(
                    ReplayContext(sam=base, reader=ObjectReader(journal, images.embed)),
                    use_threads=torch.set_num_threads,
                    on_event=progress.update,
                )
                rebuilt = rebuilder.rebuild(project, events)
            found += _compared(adapters, project, rebuilt, check)
    if not found:
        raise InputError(
            f"None of these sessions learned upon decoder {base.decoder_id}, which is in use: name "
            "the model, or roll back to the base, that they were served with."
        )
    return found


def _by_project(journal: Journal, project_id: str | None) -> dict[str, list[SessionEvent]]:
    found: dict[str, list[SessionEvent]] = {}
    for project, event in read_events(journal, project_id):
        found.setdefault(project, []).append(event)
    if not found:
        whose = "no project" if project_id is None else f"project {project_id} not"
        raise InputError(
            f"The journal {journal.location} tells of no session that learned: {whose} was "
            "labelled with learning.is_on, or by an older Strop that wrote less down."
        )
    return found


def _compared(
    adapters: AdapterStore, project: str, rebuilt: Rebuilt, check: bool
) -> list[Replayed]:
    names = sorted({*rebuilt.sessions, *rebuilt.differences})
    rebuilt_adapters: list[tuple[str, int, Adapter | None]] = []
    for name in names:
        session = rebuilt.sessions.get(name)
        made = None if session is None else session.adapter
        rebuilt_adapters.append((name, 0 if session is None else session.n_objects, made))
    if rebuilt.start is not None:
        rebuilt_adapters.append((start_of(project), 0, rebuilt.start))
    return [
        _compare(adapters, name, n_objects, made, rebuilt.differences.get(name), check)
        for name, n_objects, made in rebuilt_adapters
    ]


def _compare(
    adapters: AdapterStore,
    name: str,
    n_objects: int,
    made: Adapter | None,
    difference: str | None,
    check: bool,
) -> Replayed:
    saved = adapters.adapter(name)
    replayed = Replayed(
        name=name,
        n_objects=n_objects,
        version="none" if made is None else made.version,
        saved=None if saved is None else saved.version,
        difference=difference,
    )
    if made is not None and difference is None and not replayed.is_as_saved and not check:
        adapters.publish(name, made, n_objects)
    return replayed
