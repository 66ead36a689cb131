CREATE TABLE journal_deliveries (
	id INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	received_at TEXT NOT NULL,
	body BLOB NOT NULL
);
CREATE TABLE journal_entries (
	seq INTEGER NOT NULL PRIMARY KEY AUTOINCREMENT,
	kind TEXT NOT NULL,
	project_id TEXT,
	appended_at TEXT NOT NULL
);
CREATE INDEX ix_journal_entries_project ON journal_entries (project_id, seq);
CREATE TABLE journal_version (
	version INTEGER NOT NULL
);
CREATE TABLE journal_events (
	seq INTEGER NOT NULL,
	kind TEXT NOT NULL,
	project_id TEXT,
	payload JSON NOT NULL,
	created_at TEXT NOT NULL,
	PRIMARY KEY (seq),
	FOREIGN KEY(seq) REFERENCES journal_entries (seq)
);
CREATE INDEX ix_journal_events_kind ON journal_events (kind, seq);
CREATE TABLE journal_interactions (
	seq INTEGER NOT NULL,
	request_id TEXT NOT NULL,
	created_at TEXT NOT NULL,
	project_id TEXT NOT NULL,
	task_id TEXT NOT NULL,
	label TEXT NOT NULL,
	object_id TEXT NOT NULL,
	step INTEGER NOT NULL,
	prompt JSON NOT NULL,
	image_ref TEXT NOT NULL,
	image_id TEXT NOT NULL,
	image_height INTEGER NOT NULL,
	image_width INTEGER NOT NULL,
	model_id TEXT NOT NULL,
	encoder_id TEXT NOT NULL,
	decoder_id TEXT NOT NULL,
	adapter_version TEXT NOT NULL,
	"view" JSON,
	timings_ms JSON NOT NULL,
	context JSON NOT NULL,
	PRIMARY KEY (seq),
	FOREIGN KEY(seq) REFERENCES journal_entries (seq),
	UNIQUE (request_id)
);
CREATE INDEX ix_journal_interactions_project ON journal_interactions (project_id, seq);
CREATE INDEX ix_journal_interactions_task ON journal_interactions (project_id, task_id, seq);
CREATE TABLE journal_submissions (
	seq INTEGER NOT NULL,
	idempotency_key TEXT NOT NULL,
	project_id TEXT NOT NULL,
	annotation_id TEXT NOT NULL,
	task_id TEXT,
	event TEXT NOT NULL,
	annotator TEXT,
	received_at TEXT NOT NULL,
	created_at TEXT,
	updated_at TEXT,
	lead_time_s DOUBLE,
	was_cancelled BOOLEAN NOT NULL,
	standing TEXT NOT NULL,
	link_wanted INTEGER NOT NULL,
	link_done INTEGER NOT NULL,
	PRIMARY KEY (seq),
	UNIQUE (project_id, idempotency_key),
	FOREIGN KEY(seq) REFERENCES journal_entries (seq)
);
CREATE INDEX ix_journal_submissions_annotation ON journal_submissions (project_id, annotation_id);
CREATE INDEX ix_journal_submissions_task ON journal_submissions (project_id, task_id);
CREATE INDEX ix_journal_submissions_unlinked ON journal_submissions (seq) WHERE link_wanted > link_done;
CREATE TABLE journal_candidates (
	seq INTEGER NOT NULL,
	position INTEGER NOT NULL,
	region_id TEXT NOT NULL,
	counts BLOB NOT NULL,
	predicted_iou DOUBLE,
	was_shown BOOLEAN NOT NULL,
	token INTEGER NOT NULL,
	PRIMARY KEY (seq, position),
	FOREIGN KEY(seq) REFERENCES journal_interactions (seq)
);
CREATE INDEX ix_journal_candidates_region_id ON journal_candidates (region_id);
CREATE TABLE journal_regions (
	seq INTEGER NOT NULL,
	position INTEGER NOT NULL,
	region_id TEXT NOT NULL,
	label TEXT NOT NULL,
	kind TEXT NOT NULL,
	height INTEGER,
	width INTEGER,
	counts BLOB,
	PRIMARY KEY (seq, position),
	FOREIGN KEY(seq) REFERENCES journal_submissions (seq)
);
CREATE TABLE journal_links (
	seq INTEGER NOT NULL,
	position INTEGER NOT NULL,
	request_id TEXT,
	candidate_region_id TEXT,
	how TEXT NOT NULL,
	iou DOUBLE,
	PRIMARY KEY (seq, position),
	FOREIGN KEY(seq, position) REFERENCES journal_regions (seq, position)
);
CREATE INDEX ix_journal_links_request_id ON journal_links (request_id)
