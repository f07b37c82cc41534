package store

import (
	"context"
	"database/sql"
	"errors"
	"fmt"
	"log/slog"
	"sync"
	"syscall"
	"time"

	"gocloud.dev/blob"
	"modernc.org/sqlite"

	"github.com/cape-functions/cape/core/wire"
)

// The errors that callers test for.
var (
	// ErrNotFound: there is no such row, or it is somebody else's.
	ErrNotFound = errors.New("not found")
	// ErrExists: a function with this id is stored already, or was deleted.
	ErrExists = errors.New("a function with this id was stored before")
	// ErrInvalid: the record contradicts itself or other records.
	ErrInvalid = errors.New("record refused")
	// ErrTooLarge: a body is larger than any function may be.
	ErrTooLarge = errors.New("body larger than allowed")
	// ErrFull: the disk under the database or the bucket has no room.
	ErrFull = errors.New("no space left in the store")
	// ErrNewer: the database was written by a later version of this program.
	ErrNewer = errors.New("database of a newer version")
)

// MaxBody bounds the stored form of a function, in bytes: the largest zip and
// generous room for what sealing adds to each chunk.
const MaxBody = wire.MaxFunctionZip + (wire.MaxFunctionZip/wire.StoredChunk+1)*64

// Blobs is where bodies are kept.
type Blobs struct {
	Bucket *blob.Bucket
	// Flush makes a body that was written durable; nil when writing does that.
	Flush func(key string) error
}

// Config says what a Store is made of. Every field must be set.
type Config struct {
	DB    *sql.DB
	Blobs Blobs
	Now   func() time.Time
	Log   *slog.Logger
}

// Store keeps functions and keys. It is safe for concurrent use.
type Store struct {
	db    *sql.DB
	blobs Blobs
	now   func() time.Time
	log   *slog.Logger

	mu      sync.Mutex
	writing map[string]bool // keys of bodies whose rows are not there yet

	maxBody int64
}

// New brings the database up to this version's tables and returns a Store.
// The caller keeps nothing of c: Close closes database and bucket.
func New(ctx context.Context, c Config) (*Store, error) {
	if err := migrate(ctx, c.DB); err != nil {
		return nil, fmt.Errorf("preparing database: %w", err)
	}
	return &Store{db: c.DB, blobs: c.Blobs, now: c.Now, log: c.Log, writing: map[string]bool{}, maxBody: MaxBody}, nil
}

// Close closes the database and the bucket.
func (s *Store) Close() error {
	return errors.Join(s.db.Close(), s.blobs.Bucket.Close())
}

// Ping says whether the database answers.
func (s *Store) Ping(ctx context.Context) error { return s.db.PingContext(ctx) }

// inTx runs f in a transaction and commits when f returns nil.
func (s *Store) inTx(ctx context.Context, f func(tx *sql.Tx) error) error {
	tx, err := s.db.BeginTx(ctx, nil)
	if err != nil {
		return classify(err)
	}
	if err := f(tx); err != nil {
		return classify(errors.Join(err, rollback(tx)))
	}
	return classify(tx.Commit())
}

func rollback(tx *sql.Tx) error {
	if err := tx.Rollback(); err != nil && !errors.Is(err, sql.ErrTxDone) {
		return err
	}
	return nil
}

// sqliteFull is SQLITE_FULL of sqlite3.h.
const sqliteFull = 13

// classify puts the store's own errors in front of what a driver reports.
func classify(err error) error {
	var lite *sqlite.Error
	switch {
	case err == nil:
		return nil
	case errors.Is(err, sql.ErrNoRows):
		return ErrNotFound
	case errors.As(err, &lite) && lite.Code()&0xff == sqliteFull,
		errors.Is(err, syscall.ENOSPC), errors.Is(err, syscall.EDQUOT):
		return fmt.Errorf("%w: %w", ErrFull, err)
	}
	return err
}
