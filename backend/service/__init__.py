"""What happens at a click and at a submission, without HTTP; and who runs when, told here alone.

Processes
    With one worker everything below is one process.  With several (`server.workers`, or
    `learning.process`) each worker has for itself what answers clicks, and one learner has what
    stands behind the replies: ``learning``, ``submissions_0``, ``missed``, ``insights``.  They
    share the journal, the embedding store, the album and the registry through the database's and
    the file system's own locks; objects in work through files under a lock for each object
    (`shared_objects`); adapters as files that the learner alone writes, under its lease
    (`server.learner_process`, `learning.fence`) and that workers look at for each click
    (`learning.apart`).  Each process spools into a folder of its own.  The parent of them all
    computes nothing, opens no database, and has no threads (`server.gunicorn_app`,
    `server.supervisor`).

Threads
    The server's own threads (gunicorn's, `server.threads` of them) run requests from their arrival
    to their reply.  Beside them, by name:

    * ``learning`` trains sessions (`learning.worker`), one for each base decoder that is served.
    * ``submissions_0`` reads kept webhooks, links them with clicks and hands them to learning
      (`service.submissions`).
    * ``album_0`` keeps the images that were clicked on (`images.album_writer`).
    * ``plan_0`` asks Label Studio for the tasks after the opened one (`embeddings.prefetch`).
    * ``prefetch-0`` encodes images before they are clicked on (`embeddings.prefetch_queue`).
    * ``bases`` looks whether another base decoder was promoted (`service.base_watcher`).
    * ``insights`` counts for the pages what came to the journal, and fits the scores that clicks
      are told to it (`insights.keeper`).
    * ``states_0`` writes the newest state of each object to the disk (`service.state_files`).
    * ``masks_0`` draws and keeps the masks of a click that are not shown (`service.unshown`).

    Each starts with its first work, or with the service, and ends in `SegmentationService.close`;
    `BaseWatcher` and `OnlineLearning` are told by an event that they shall end, the executors by
    their shutdown.  Others run now and then, or only where a setting says so:

    - ``missed`` fetches annotations that were submitted while Strop did not run, at the start and
      after an outage (`MissedAnnotations`).
    - ``proposals_0`` makes proposals for opened tasks and learns from what becomes of them, where
      `proposals.is_on` says so (`OnlineProposals`).
    - ``spool`` waits for a journal that failed, and moves to it what was kept meanwhile
      (`SpoolingJournal`).
    - OpenTelemetry's own thread sends spans, where `traces.endpoint` names an address (`traces`).
    - A timer ends each exchange with a slow host (`images.cutoff.Cutoff`), and ``lookup`` asks for
      its address, so that a silent name server holds up nobody;
      `threads.limit_torch_threads` starts a thread and waits for its end at once.
    - ``trim`` belongs to the server (`server.allocator`): it gives free memory back.

Queues
    * `service.request_queue.NewestWinsQueue`: the requests of one object, one at work, the newest
      that waits first of all; a request that another one supersedes is never computed.
    * `SubmissionHandler`'s executor: in the order of arrival; the journal holds the same, durably.
    * `OnlineLearning`'s queue: submissions to be trained on, in the journal's order.
    * `UnshownMasks`' executor: bounded; a click that finds it full draws its masks itself.
    * `StateFiles`' executor: bounded; an object's newest state replaces one that waits.
    * `PrefetchQueue`: bounded; what was opened last comes first.
    * `AlbumWriter`'s executor: bounded; what finds it full is kept at the image's next click.
    * `OnlineProposals`' executor: opened and submitted tasks, in the order of arrival.
    * `Prefetcher`'s executor: opened tasks whose successors are to be found.

Locks, in the order in which one thread may take them; a lock is never awaited by who holds one
that stands below it
    1. `SegmentationService`: the places for clicks, never awaited: without one, HTTP 503.
    2. `NewestWinsQueue`: an object's turn, held while its click is computed and kept; with several
       workers `SharedTurns` takes the same in the process first, then over all workers
       (`FolderStore.exclusive`).  `SharedBoxes` holds a place's lock before that, and frees it.
    3. `request_queue.Slots`: `inference.decodes` decodes at once, lent away while an embedding is
       awaited, so that a slot is never held while waiting for 4 to 8.
    4. `EmbeddingCache`: an embedding that another thread makes is awaited, not made again.
    5. `DiskStore` and `RedisStore`: an entry's lock between processes; it is given up after a
       while, and the embedding then made twice.
    6. `EncodeGate`: `inference.encodes` encodes at once, clicks before images encoded ahead.
    7. `ImageLoader`: one reader of an image at a time, then two decoders of image files at
       once, and of huge ones (`storage.images`) one.
    8. `label_studio.auth.PersonalAuth`: one exchange of tokens at a time.
    9. `insights.store.FactStore`: one thread at a time brings the figures up to the journal.
    10. `SpoolingJournal` and `Spool`: one thread at a time writes to the spool, or moves it to the
        journal.
    11. `journal.database.Database`: one writer at a time, in the process and between processes.
    12. `learning.fence.FolderFence`: one writer of a folder of adapters at a time, in the learner.

    Below all of these are locks that are held for a few lines that never wait: around the maps of
    `NewestWinsQueue`, `EmbeddingCache`, `EncodeGate`, `ImageLoader`, `ObjectStates`, `DrawnBoxes`,
    `AdapterStore`, `KnownImages`, `PrefetchQueue`, `AlbumWriter`, `StateFiles`,
    `MissedAnnotations`, `OnlineProposals`, `Cutoff`, `SlowHosts`, the server's `GuessLimiter`, the
    stores' counters, the recently used filters of `GuidedFilter` and the records' `SteadyClock`.

Learning stands behind clicks without holding any of these: `OnlineLearning.click` counts the clicks
at work, and the thread that learns waits between two computations until there are none.  It reads
what it needs through the same cache and journal as everybody.

What needs no lock: sessions (only ``learning`` changes them; the adapters that it publishes are
immutable), `SegmentationService.served` (replaced as a whole, a click keeps what it began with),
the model's weights (never written; `WeightedDecoder` gives each thread a module of its own).
"""
