package store

import (
	"context"
	"time"
)

// PutWorker remembers what the worker of that name said of itself, now.
func (s *Store) PutWorker(ctx context.Context, name string, body []byte) error {
	_, err := s.db.ExecContext(ctx, `INSERT INTO workers (name, body, seen_at) VALUES ($1, $2, $3)
		ON CONFLICT (name) DO UPDATE SET body = excluded.body, seen_at = excluded.seen_at`, name, body, s.now().UnixMicro())
	return classify(err)
}

// DropWorker forgets a worker.
func (s *Store) DropWorker(ctx context.Context, name string) error {
	_, err := s.db.ExecContext(ctx, `DELETE FROM workers WHERE name = $1`, name)
	return classify(err)
}

// Workers returns what the workers said that were heard of within the last age,
// by name.
func (s *Store) Workers(ctx context.Context, age time.Duration) ([][]byte, error) {
	now := s.now()
	rows, err := s.db.QueryContext(ctx, `SELECT body FROM workers WHERE seen_at > $1 ORDER BY name`, now.Add(-age).UnixMicro())
	if err != nil {
		return nil, classify(err)
	}
	defer rows.Close()
	var out [][]byte
	for rows.Next() {
		var body []byte
		if err := rows.Scan(&body); err != nil {
			return nil, classify(err)
		}
		out = append(out, body)
	}
	return out, classify(rows.Err())
}

// SweepWorkers forgets the workers that were silent for longer than age.
func (s *Store) SweepWorkers(ctx context.Context, age time.Duration) error {
	_, err := s.db.ExecContext(ctx, `DELETE FROM workers WHERE seen_at <= $1`, s.now().Add(-age).UnixMicro())
	return classify(err)
}
