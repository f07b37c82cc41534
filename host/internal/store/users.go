package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"

	"github.com/cape-functions/cape/core/wire"
)

// PutUser records a user and its name, which may be empty: then a name that is
// known already stays. An issuer may give a name to another of its users; a
// name that another issuer's user has is refused with ErrInvalid.
func (s *Store) PutUser(ctx context.Context, u wire.Subject, username string) error {
	return s.inTx(ctx, func(tx *sql.Tx) error { return putUser(ctx, tx, u, username) })
}

func putUser(ctx context.Context, tx *sql.Tx, u wire.Subject, username string) error {
	if u.Iss == "" || u.Sub == "" || len(u.Iss) > 512 || len(u.Sub) > 512 {
		return fmt.Errorf("%w: user without issuer or subject", ErrInvalid)
	}
	if username == "" {
		_, err := tx.ExecContext(ctx, `INSERT INTO users (iss, sub) VALUES ($1, $2) ON CONFLICT (iss, sub) DO NOTHING`, u.Iss, u.Sub)
		return err
	}
	if !wire.ValidUsername(username) {
		return fmt.Errorf("%w: not a username", ErrInvalid)
	}
	has, err := subjectOf(ctx, tx, username)
	switch {
	case errors.Is(err, ErrNotFound):
	case err != nil:
		return err
	case has == u:
		return nil
	case has.Iss != u.Iss:
		return fmt.Errorf("%w: another issuer's user has the name %q", ErrInvalid, username)
	default:
		if _, err := tx.ExecContext(ctx, `UPDATE users SET username = NULL WHERE username = $1`, username); err != nil {
			return err
		}
	}
	_, err = tx.ExecContext(ctx, `INSERT INTO users (iss, sub, username) VALUES ($1, $2, $3)
		ON CONFLICT (iss, sub) DO UPDATE SET username = excluded.username`, u.Iss, u.Sub, username)
	return err
}

type queryer interface {
	QueryRowContext(ctx context.Context, query string, args ...any) *sql.Row
}

func subjectOf(ctx context.Context, q queryer, username string) (wire.Subject, error) {
	var u wire.Subject
	err := q.QueryRowContext(ctx, `SELECT iss, sub FROM users WHERE username = $1`, username).Scan(&u.Iss, &u.Sub)
	return u, classify(err)
}
