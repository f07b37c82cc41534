package account_test

import (
	"bytes"
	"os"
	"path/filepath"
	"testing"

	"github.com/cape-functions/cape/core/account"
	dev "github.com/cape-functions/cape/host/internal/devserver/account"
)

func TestEnsure(t *testing.T) {
	path := filepath.Join(t.TempDir(), "account-key")
	if err := dev.Ensure(path); err != nil {
		t.Fatal(err)
	}
	first, err := os.ReadFile(path)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := account.Parse(first); err != nil {
		t.Errorf("clients cannot read it: %v", err)
	}
	if info, err := os.Stat(path); err != nil || info.Mode().Perm() != 0o600 {
		t.Errorf("%v, %v", info.Mode(), err)
	}
	if err := dev.Ensure(path); err != nil {
		t.Fatal(err)
	}
	if again, err := os.ReadFile(path); err != nil || !bytes.Equal(first, again) {
		t.Error("a key that was there is another now")
	}
	if rest, err := os.ReadDir(filepath.Dir(path)); err != nil || len(rest) != 1 {
		t.Errorf("something was left: %v, %v", rest, err)
	}
}
