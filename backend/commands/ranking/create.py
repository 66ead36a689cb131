"""`strop ranking create`: prompts of the journal -> tasks with three masks each."""

from __future__ import annotations

import logging
from dataclasses import dataclass, field

from tqdm import tqdm

from adaptation.errors import ImageError, InputError, SettingsError
from adaptation.journal import InteractionRecord, Journal
from adaptation.storage.album import Album
from adaptation.storage.images import Pixels
from backend.commands.ranking.choosing import Census, RankingPrompt, Wanted, choose, load_prompt
from backend.commands.ranking.picture import draw_candidates
from backend.commands.ranking.projects import find_ranking_project, look_up, make_ranking_project
from backend.commands.ranking.tasks import read_key, task_body
from backend.images.build import build_images
from backend.images.loader import ImageLoader
from backend.label_studio.build import build_client
from backend.label_studio.client import LabelStudioClient, Project
from backend.settings import Settings

logger = logging.getLogger(__name__)


@dataclass(slots=True, kw_only=True)
class Created:
    """What became of the prompts.

    Args:
        census: What there was to choose from.
        ranking_project_id: Where the tasks are; None where there is none.
        n_added: Tasks made now.
        n_unreadable: Prompts left out because their image could not be read; the log names them.
    """

    census: Census
    ranking_project_id: str | None = None
    n_added: int = 0
    n_unreadable: int = 0

    def __str__(self) -> str:
        census = self.census
        where = f" to project {self.ranking_project_id}" if self.ranking_project_id else ""
        return (
            f"{self.n_added} tasks added{where}; {census.n_known} objects were there already.\n"
            f"Of {census.n_prompts} prompts in the journal, {census.n_few} have fewer than three "
            f"masks, {census.n_alike} have masks too much alike, and of {self.n_unreadable} the "
            "image could not be read."
        )


@dataclass(slots=True)
class _Images:
    """Images as they were clicked on: from the album, or read again and compared.

    Args:
        album: Kept by the server.
        loader: Reads from where the tasks name them.
        unreadable: Ids of images that were tried in vain, with the reason.
    """

    album: Album
    loader: ImageLoader
    unreadable: dict[str, str] = field(default_factory=dict)

    def read(self, record: InteractionRecord) -> Pixels | None:
        if record.image_id in self.unreadable:
            return None
        try:
            return self._read(record)
        except ImageError as error:
            logger.warning("image %s of task %s: %s", record.image_ref, record.task_id, error)
            self.unreadable[record.image_id] = str(error)
            return None

    def _read(self, record: InteractionRecord) -> Pixels:
        if self.album.path(record.image_id) is not None:
            return self.album.read(record.image_id)
        image = self.loader.load(record.image_ref, record.task_id)
        if image.digest != record.image_id:
            raise ImageError("The image was replaced by another one since it was clicked on.")
        return image.pixels


def create_rankings(
    settings: Settings, project_id: int, wanted: Wanted, *, show_progress: bool = True
) -> Created:
    """Fill the ranking project of a project, which is made where it is missing.

    Raises:
        StropError: Label Studio refuses or has no such project, the journal has nothing to rank,
            or none of the images can be read.
    """
    client = connect(settings)
    with client.http, Journal(settings.journal_url, create=False) as journal:
        source = look_up(client, str(project_id))
        if source is None:
            raise InputError(
                f"Label Studio at {client.url} has no project {project_id} that the token's owner "
                "can see: its number stands in the address of its page."
            )
        images = _Images(Album(settings.album_dir), build_images(settings, client))
        return _fill(journal, client, source, wanted, images, show_progress=show_progress)


def connect(settings: Settings) -> LabelStudioClient:
    """The Label Studio that is set; SettingsError where none is."""
    client = build_client(settings)
    if client is None:
        raise SettingsError(
            "Set label_studio.url and label_studio.token: in which Label Studio are masks ranked?"
        )
    return client


def _fill(
    journal: Journal,
    client: LabelStudioClient,
    source: Project,
    wanted: Wanted,
    images: _Images,
    *,
    show_progress: bool,
) -> Created:
    home = find_ranking_project(journal, client, source.project_id)
    known = set() if home is None else _known_requests(client, home)
    names, census = choose(journal, source.project_id, wanted, known)
    done = Created(census=census, ranking_project_id=home.project_id if home else None)
    total = min(len(names), wanted.count)
    with tqdm(total=total, unit="task", disable=not show_progress) as bar:
        for prompt in (load_prompt(journal, name, wanted.seed) for name in names):
            if done.n_added == wanted.count:
                break
            pixels = images.read(prompt.record)
            if pixels is None:
                done.n_unreadable += 1
                continue
            home = home or make_ranking_project(journal, client, source)
            done.ranking_project_id = home.project_id
            _add(client, home, prompt, pixels)
            done.n_added += 1
            bar.update()
    _check_images(done, images)
    return done


def _add(client: LabelStudioClient, home: Project, prompt: RankingPrompt, pixels: Pixels) -> None:
    pictures = draw_candidates(pixels, prompt.record.prompt, prompt.candidates)
    client.add_task(home.project_id, task_body(prompt, pictures))


def _known_requests(client: LabelStudioClient, home: Project) -> set[str]:
    keys = (read_key(task.meta) for task in client.annotated_tasks(home.project_id))
    return {key.request_id for key in keys if key is not None}


def _check_images(done: Created, images: _Images) -> None:
    if done.n_unreadable and not done.n_added:
        reason = next(iter(images.unreadable.values()))
        raise ImageError(
            f"None of the images of {done.n_unreadable} prompts to rank can be read, neither from "
            f"the album {images.album.folder} nor from where the tasks name them. The first: "
            f"{reason}"
        )
