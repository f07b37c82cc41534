// Package account makes the account key of the development platform's user, whose machine
// this is: a file in the form of spec/account.md, which only clients use.
package account

import (
	"crypto/ed25519"
	"crypto/rand"
	"crypto/x509"
	"encoding/pem"
	"errors"
	"fmt"
	"io/fs"
	"os"
	"path/filepath"
)

// Ensure makes a key in the file at path, for its owner's eyes alone, unless there is one:
// whoever lost it could never deploy under the same names again.
func Ensure(path string) error {
	if _, err := os.Lstat(path); err == nil || !errors.Is(err, fs.ErrNotExist) {
		return err
	}
	_, key, err := ed25519.GenerateKey(rand.Reader)
	if err != nil {
		return fmt.Errorf("making an account key: %w", err)
	}
	der, err := x509.MarshalPKCS8PrivateKey(key)
	if err != nil {
		return fmt.Errorf("making an account key: %w", err)
	}
	return write(path, pem.EncodeToMemory(&pem.Block{Type: "PRIVATE KEY", Bytes: der}))
}

// write makes the file whole or not at all, and never in place of one that a client made
// meanwhile.
func write(path string, data []byte) error {
	draft, err := os.CreateTemp(filepath.Dir(path), ".account-key-*") // mode 0600
	if err != nil {
		return fmt.Errorf("writing the account key: %w", err)
	}
	defer os.Remove(draft.Name()) // a second name of the key, or of nothing
	_, err = draft.Write(data)
	if err = errors.Join(err, draft.Sync(), draft.Close()); err == nil {
		err = os.Link(draft.Name(), path)
	}
	if err != nil && !errors.Is(err, fs.ErrExist) {
		return fmt.Errorf("writing the account key: %w", err)
	}
	return nil
}
