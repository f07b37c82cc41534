-- body is the JSON of what a worker last said of itself.
CREATE TABLE workers (
	name    TEXT PRIMARY KEY,
	body    BYTEA NOT NULL,
	seen_at BIGINT NOT NULL
);
