package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
)

// Meta returns the values stored under the given names; a name that was never
// set is missing from the map, an empty value is nil.
func (s *Store) Meta(ctx context.Context, names ...string) (map[string][]byte, error) {
	out := map[string][]byte{}
	for _, name := range names {
		var v []byte
		err := s.db.QueryRowContext(ctx, `SELECT value FROM meta WHERE name = $1`, name).Scan(&v)
		if err == sql.ErrNoRows {
			continue
		}
		if err != nil {
			return nil, fmt.Errorf("reading %s: %w", name, err)
		}
		out[name] = v
	}
	return out, nil
}

// SetMeta stores all the given values at once, or none of them.
func (s *Store) SetMeta(ctx context.Context, values map[string][]byte) error {
	return s.inTx(ctx, func(tx *sql.Tx) error {
		for name, v := range values {
			_, err := tx.ExecContext(ctx, `INSERT INTO meta (name, value) VALUES ($1, $2)
				ON CONFLICT (name) DO UPDATE SET value = excluded.value`, name, notNil(v))
			if err != nil {
				return fmt.Errorf("writing %s: %w", name, err)
			}
		}
		return nil
	})
}

// AddMeta stores all the given values at once, or none of them, and false, when
// one of the names has a value already.
func (s *Store) AddMeta(ctx context.Context, values map[string][]byte) (bool, error) {
	err := s.inTx(ctx, func(tx *sql.Tx) error {
		for name, v := range values {
			r, err := tx.ExecContext(ctx, `INSERT INTO meta (name, value) VALUES ($1, $2) ON CONFLICT (name) DO NOTHING`, name, notNil(v))
			if err != nil {
				return fmt.Errorf("writing %s: %w", name, err)
			}
			if n, err := r.RowsAffected(); err != nil || n != 1 {
				return errors.Join(err, errTaken)
			}
		}
		return nil
	})
	if errors.Is(err, errTaken) {
		return false, nil
	}
	return err == nil, err
}

var errTaken = errors.New("a value is there already")
