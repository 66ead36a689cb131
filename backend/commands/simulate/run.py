"""A simulation from the plan to the table: annotators side by side, stopped and gone on with."""

from __future__ import annotations

import threading
import time
from collections import deque
from collections.abc import Callable, Iterator, Mapping, Sequence
from concurrent.futures import FIRST_EXCEPTION, ThreadPoolExecutor, wait
from contextlib import contextmanager
from dataclasses import asdict, replace
from typing import Any

import click
from tqdm import tqdm

from adaptation.storage.datasets import FolderSet
from adaptation.storage.provenance import command_line, provenance
from backend.commands.simulate.client import Client, ServerLost, Stopped
from backend.commands.simulate.labeling import Habits, Labeler
from backend.commands.simulate.options import Options
from backend.commands.simulate.painting import Painter
from backend.commands.simulate.plan import (
    Picture,
    choose_pictures,
    digest_of_plan,
    open_data,
    served_folders,
)
from backend.commands.simulate.results import Notebook, PictureResult, all_objects
from backend.commands.simulate.server import own_settings, running_server
from backend.commands.simulate.summary import (
    ALL,
    Effort,
    digest_of_answers,
    errors_of,
    render,
    summarize,
    write_json,
)

Echo = Callable[[str], None]


def run(options: Options, echo: Echo = click.echo) -> int:
    """Label a data set, or go on with it, and report.

    Returns:
        The exit code: 0, or 1 where the server refused something.

    Raises:
        StropError: The options, the data or the server make it impossible to go on.
    """
    options.check()
    sets = open_data(options.data)
    pictures = choose_pictures(sets, options.objects, options.seed, options.project)
    lines = None if options.out is None else options.out.with_suffix(".jsonl")
    notebook = Notebook(lines, _identity(options, sets, pictures))
    try:
        effort = _label(options, sets, pictures, notebook, echo)
    finally:
        notebook.close()
    return _report(options, sets, notebook, effort, echo)


def _identity(
    options: Options, sets: Sequence[FolderSet], pictures: Sequence[Picture]
) -> dict[str, Any]:
    """Everything that the clicks and the masks depend on but the model, as plain values."""
    return {
        "sets": [dataset.name for dataset in sets],
        "objects": sum(len(picture.refs) for picture in pictures),
        "objects_digest": digest_of_plan(pictures),
        "clicker": options.clicker,
        "clicks": options.clicks,
        "target": options.target,
        "give_up": options.give_up,
        "sloppy": options.sloppy,
        "candidates": options.n_offered,
        "seed": options.seed,
        "first_project": options.project,
    }


def _label(
    options: Options,
    sets: Sequence[FolderSet],
    pictures: Sequence[Picture],
    notebook: Notebook,
    echo: Echo,
) -> Effort:
    """Label what is not labelled yet."""
    todo = [(i, p) for i, p in enumerate(pictures) if not notebook.is_done(p.key)]
    if not todo:
        echo("Everything is labelled already.")
        return Effort()
    with _server(options, sets, echo) as usable:
        crew = Crew(usable, notebook)
        try:
            return crew.work(todo)
        except ServerLost as error:
            raise ServerLost(f"{error} {_how_to_go_on(options, notebook, pictures)}") from None
        except KeyboardInterrupt:
            echo(f"Stopped. {_how_to_go_on(options, notebook, pictures)}")
            raise


def _how_to_go_on(options: Options, notebook: Notebook, pictures: Sequence[Picture]) -> str:
    n_done = sum(notebook.is_done(picture.key) for picture in pictures)
    state = f"{n_done} of {len(pictures)} images are submitted"
    if options.out is None:
        return f"{state}; with --out the same command would go on behind them."
    return f"{state}; the same command goes on behind them."


@contextmanager
def _server(options: Options, sets: Sequence[FolderSet], echo: Echo) -> Iterator[Options]:
    """The options with the address of a server that answers."""
    if options.serving is None:
        yield options
        return
    settings = own_settings(options.serving, served_folders(sets))
    echo(f"Starting a Strop of its own; its data and its log go to {settings.data_dir}.")
    with running_server(settings) as server:
        headers = {**server.headers, **options.headers}
        yield replace(options, url=server.url, headers=headers, local_files=True)


class Crew:
    """Annotators who work side by side.

    Args:
        options: With the address of the server.
        notebook: Where their results go.
    """

    def __init__(self, options: Options, notebook: Notebook) -> None:
        self._options, self._notebook = options, notebook
        self._stop, self._lock = threading.Event(), threading.Lock()
        self._todo: deque[tuple[int, Picture]] = deque()
        self._n_clicks, self._started = 0, 0.0
        self._habits = Habits(
            rules=options.rules,
            give_up=options.give_up,
            painter=Painter(sloppy=options.sloppy, seed=options.seed),
            think_s=options.think_s,
            local_files=options.local_files,
        )

    def work(self, todo: Sequence[tuple[int, Picture]]) -> Effort:
        """Label images, each with its index in the plan.

        Raises:
            StropError: The server cannot be used, or it is gone.
        """
        self._greet()
        self._todo.extend(todo)
        self._started = time.monotonic()
        done = sum(len(result.objects) for result in self._notebook.results)
        left = sum(len(picture.refs) for _, picture in todo)
        with tqdm(total=done + left, initial=done, unit="object", smoothing=0.05) as self._bar:
            self._all_at_work()
        return Effort(clicks=self._n_clicks, seconds=time.monotonic() - self._started)

    def _greet(self) -> None:
        client = self._client()
        try:
            self._notebook.check_model(client.greet())
        finally:
            client.close()

    def _client(self) -> Client:
        options = self._options
        return Client(options.url, options.headers, options.patience_s, self._stop)

    def _all_at_work(self) -> None:
        """Return when all images are done; stop all annotators when one of them cannot go on."""
        numbers = range(1, min(self._options.annotators, len(self._todo)) + 1)
        with ThreadPoolExecutor(len(numbers), thread_name_prefix="annotator") as pool:
            working = [pool.submit(self._annotate, number) for number in numbers]
            try:
                wait(working, return_when=FIRST_EXCEPTION)
            finally:
                self._stop.set()
        for one in working:
            one.result()

    def _annotate(self, number: int) -> None:
        """One annotator's day."""
        client = self._client()
        labeler = Labeler(client, self._habits, number, self._clicked)
        try:
            while True:
                with self._lock:
                    if not self._todo:
                        return
                    index, picture = self._todo.popleft()
                annotation_id = self._notebook.header.annotation_id(index)
                self._keep(labeler.label(picture, annotation_id))
        except Stopped:
            return
        finally:
            client.close()

    def _keep(self, result: PictureResult) -> None:
        with self._lock:
            self._notebook.add(result)
            self._bar.update(len(result.objects))

    def _clicked(self) -> None:
        with self._lock:
            self._n_clicks += 1
            rate = self._n_clicks / (time.monotonic() - self._started)
            self._bar.set_postfix_str(f"{self._n_clicks} clicks, {rate:.1f}/s", refresh=False)


# The end -----------------------------------------------------------------------------------------


def _report(
    options: Options,
    sets: Sequence[FolderSet],
    notebook: Notebook,
    effort: Effort,
    echo: Echo,
) -> int:
    objects = all_objects(notebook.results)
    rows = summarize(objects, options.rules)
    echo(render(rows))
    errors = errors_of(objects)
    for error in errors:
        echo(f"failed: {error}")
    if effort.clicks:
        echo(
            f"{effort.clicks} clicks in {effort.seconds:.0f} s: {effort.clicks_per_s:.1f} a second"
        )
    if options.serving is not None:
        echo(f"The server's data, with the journal: {options.serving.data_dir}")
    if options.out is not None:
        write_json(options.out, _content(options, sets, notebook, rows, effort, errors))
        echo(f"{options.out}, and every object in {options.out.with_suffix('.jsonl').name}")
    return 1 if errors else 0


def _content(
    options: Options,
    sets: Sequence[FolderSet],
    notebook: Notebook,
    rows: Mapping[str, Mapping[str, float]],
    effort: Effort,
    errors: Sequence[str],
) -> dict[str, Any]:
    """What the results' file holds."""
    results = notebook.results
    told = {"data": " ".join(dataset.name for dataset in sets), **options.told()}
    told |= {"serve": True} if options.serving is not None else {}
    return {
        **provenance(command_line("strop simulate", told)),
        "seed": options.seed,
        "identity": notebook.header.identity,
        "model_versions": sorted({r.model_version for r in results if r.model_version}),
        "digests": {
            "objects": notebook.header.identity["objects_digest"],
            "answers": digest_of_answers(all_objects(results)),
        },
        "annotators": options.annotators,
        "last_part": {**asdict(effort), "clicks_per_s": effort.clicks_per_s},
        "sets": {name: row for name, row in rows.items() if name != ALL},
        "all": rows.get(ALL, next(iter(rows.values()))),
        "errors": list(errors),
    }
