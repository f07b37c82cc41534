package store

import (
	"database/sql"
	"errors"
	"fmt"
	"net/url"
	"path/filepath"
)

// ErrURL: a URL of a database or of a blob store cannot be used.
var ErrURL = errors.New("unusable URL")

// CheckURLs tells whether OpenURLs knows what the URLs name, without opening it.
func CheckURLs(database, blobs string) error {
	_, err1 := pathOf("--database", database, "sqlite", "postgres", "postgresql")
	_, err2 := pathOf("--blobs", blobs, "file", "s3", "gs", "azblob")
	return errors.Join(err1, err2)
}

// OpenURLs opens sqlite:///ABSOLUTE/PATH and file:///ABSOLUTE/PATH; whoever
// gives them to a Store closes them with it.
func OpenURLs(database, blobs string) (*sql.DB, Blobs, error) {
	if err := CheckURLs(database, blobs); err != nil {
		return nil, Blobs{}, err
	}
	path, err := pathOf("--database", database, "sqlite")
	if err != nil {
		return nil, Blobs{}, err
	}
	folder, err := pathOf("--blobs", blobs, "file")
	if err != nil {
		return nil, Blobs{}, err
	}
	db, err := OpenSQLite(path)
	if err != nil {
		return nil, Blobs{}, err
	}
	files, err := OpenFiles(folder)
	if err != nil {
		return nil, Blobs{}, errors.Join(err, db.Close())
	}
	return db, files, nil
}

// pathOf returns the path of a URL of the given scheme; the schemes that may
// come later are refused by their names. What a URL holds besides may be a
// password and is not told.
func pathOf(flag, text, scheme string, later ...string) (string, error) {
	u, err := url.Parse(text)
	if err != nil {
		return "", fmt.Errorf("%w: %s is not a URL; it needs the form %s:///ABSOLUTE/PATH", ErrURL, flag, scheme)
	}
	for _, l := range later {
		if u.Scheme == l {
			return "", fmt.Errorf("%w: %s: this version has no %s: yet; use %s:///ABSOLUTE/PATH", ErrURL, flag, l, scheme)
		}
	}
	if u.Scheme != scheme || u.Host != "" || u.Opaque != "" || u.RawQuery != "" || u.Fragment != "" || !filepath.IsAbs(u.Path) {
		return "", fmt.Errorf("%w: %s needs the form %s:///ABSOLUTE/PATH", ErrURL, flag, scheme)
	}
	return filepath.Clean(u.Path), nil
}
