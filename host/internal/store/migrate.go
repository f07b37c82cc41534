package store

import (
	"context"
	"database/sql"
	"embed"
	"errors"
	"fmt"
	"io/fs"
	"slices"
	"strings"
)

//go:embed migrations/*.sql
var migrationFiles embed.FS

// migrate applies, in one transaction, the files that the database has not seen.
func migrate(ctx context.Context, db *sql.DB) error {
	files, err := fs.Glob(migrationFiles, "migrations/*.sql")
	if err != nil {
		return err
	}
	slices.Sort(files)
	if _, err := db.ExecContext(ctx, `CREATE TABLE IF NOT EXISTS schema_version (version BIGINT PRIMARY KEY)`); err != nil {
		return err
	}
	tx, err := db.BeginTx(ctx, nil)
	if err != nil {
		return err
	}
	if err := applyMigrations(ctx, tx, files); err != nil {
		return errors.Join(err, rollback(tx))
	}
	return tx.Commit()
}

func applyMigrations(ctx context.Context, tx *sql.Tx, files []string) error {
	var have int
	err := tx.QueryRowContext(ctx, `SELECT COALESCE(MAX(version), 0) FROM schema_version`).Scan(&have)
	if err != nil {
		return err
	}
	if have > len(files) {
		return fmt.Errorf("%w: it has version %d, this program knows %d", ErrNewer, have, len(files))
	}
	for i, name := range files[have:] {
		text, err := migrationFiles.ReadFile(name)
		if err != nil {
			return err
		}
		for _, statement := range strings.Split(string(text), ";\n") {
			if strings.TrimSpace(statement) == "" {
				continue
			}
			if _, err := tx.ExecContext(ctx, statement); err != nil {
				return fmt.Errorf("%s: %w", name, err)
			}
		}
		if _, err := tx.ExecContext(ctx, `INSERT INTO schema_version (version) VALUES ($1)`, have+i+1); err != nil {
			return err
		}
	}
	return nil
}
