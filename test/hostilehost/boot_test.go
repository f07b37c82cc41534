package hostilehost

import (
	"bytes"
	"crypto/aes"
	"crypto/cipher"
	"crypto/hkdf"
	"crypto/rand"
	"crypto/sha256"
	"database/sql"
	"encoding/binary"
	"encoding/json"
	"os"
	"os/exec"
	"path/filepath"
	"regexp"
	"strings"
	"testing"
	"time"

	"github.com/cape-functions/cape/test/platform"
)

// localKMS is the local KMS's directory: who runs it holds its master key and
// so does to its keys what AWS would do to a customer who asks for it.
type localKMS struct {
	t   *testing.T
	dir string
}

func (k localKMS) aead(salt []byte) cipher.AEAD {
	k.t.Helper()
	master, err := os.ReadFile(filepath.Join(k.dir, "master.key"))
	if err != nil {
		k.t.Fatal(err)
	}
	key, err := hkdf.Key(sha256.New, master, salt, "cape localkms record 1", 32)
	if err != nil {
		k.t.Fatal(err)
	}
	block, err := aes.NewCipher(key)
	if err != nil {
		k.t.Fatal(err)
	}
	aead, err := cipher.NewGCM(block)
	if err != nil {
		k.t.Fatal(err)
	}
	return aead
}

// change rewrites the platform's key, which is the only one.
func (k localKMS) change(with func(map[string]any)) {
	k.t.Helper()
	files, err := filepath.Glob(filepath.Join(k.dir, "records", "key-*"))
	if err != nil || len(files) != 1 {
		k.t.Fatalf("keys: %v, %v", files, err)
	}
	aad := binary.BigEndian.AppendUint32(nil, uint32(len("record 1")))
	aad = append(append(aad, "record 1"...), filepath.Base(files[0])...)
	sealed, err := os.ReadFile(files[0])
	if err != nil {
		k.t.Fatal(err)
	}
	plain, err := k.aead(sealed[:32]).Open(nil, make([]byte, 12), sealed[32:], aad)
	if err != nil {
		k.t.Fatal(err)
	}
	var key map[string]any
	if err := json.Unmarshal(plain, &key); err != nil {
		k.t.Fatal(err)
	}
	with(key)
	if plain, err = json.Marshal(key); err != nil {
		k.t.Fatal(err)
	}
	salt := make([]byte, 32)
	rand.Read(salt)
	if err := os.WriteFile(files[0], append(salt, k.aead(salt).Seal(nil, make([]byte, 12), plain, aad)...), 0o600); err != nil {
		k.t.Fatal(err)
	}
}

// meta reads or writes a row of what the platform remembers.
func meta(t *testing.T, dir, name string, value []byte) []byte {
	t.Helper()
	db, err := sql.Open("sqlite", filepath.Join(dir, "cape.db"))
	if err != nil {
		t.Fatal(err)
	}
	defer db.Close()
	if value != nil {
		if _, err := db.ExecContext(t.Context(), "UPDATE meta SET value = $1 WHERE name = $2", value, name); err != nil {
			t.Fatal(err)
		}
	}
	var got []byte
	if err := db.QueryRowContext(t.Context(), "SELECT value FROM meta WHERE name = $1", name).Scan(&got); err != nil {
		t.Fatal(err)
	}
	return got
}

// refusal boots a platform that must not come up, and returns the stage at
// which the runtime stopped: boot, measure, or inspect.
func refusal(t *testing.T, dir string) string {
	t.Helper()
	cmd := exec.CommandContext(t.Context(), platform.Binary("caped"), "dev", "--data-dir", dir, "--listen", "127.0.0.1:0", "--verbose")
	var out bytes.Buffer
	cmd.Stdout, cmd.Stderr = &out, &out
	if err := cmd.Start(); err != nil {
		t.Fatal(err)
	}
	timer := time.AfterFunc(time.Minute, func() { cmd.Process.Kill() })
	defer timer.Stop()
	err := cmd.Wait()
	if !timer.Stop() {
		t.Fatalf("it came up, or hangs:\n%s", out.String())
	}
	if err == nil || strings.Contains(out.String(), "enclave: serving") {
		t.Fatalf("it came up: %v\n%s", err, out.String())
	}
	stage := regexp.MustCompile(`runtime stopped\s+stage=([a-z-]+)`).FindStringSubmatch(out.String())
	if stage == nil {
		t.Fatalf("the runtime did not say that it stopped:\n%s", out.String())
	}
	return stage[1]
}

// TestBoot: the real runtime, booted by a host that lies, serves nothing.
func TestBoot(t *testing.T) {
	dir, other := t.TempDir(), t.TempDir()
	platform.Start(t, dir).Stop()
	platform.Start(t, other).Stop()
	kms := func(change func(map[string]any)) func(string) {
		return func(dir string) { localKMS{t, filepath.Join(dir, "kms")}.change(change) }
	}
	for _, tc := range []struct {
		name  string
		lie   func(dir string)
		stage string
	}{
		{"configuration with another issuer", func(dir string) {
			trust := meta(t, dir, "trust", nil)
			evil := bytes.Replace(trust, []byte("cape-dev-"), []byte("evil-dev-"), 1)
			meta(t, dir, "trust", evil)
			path := filepath.Join(dir, "identity", "issuer")
			name, err := os.ReadFile(path)
			if err != nil || bytes.Equal(trust, evil) {
				t.Fatal("nothing was changed", err)
			}
			if err := os.WriteFile(path, bytes.Replace(name, []byte("cape-dev-"), []byte("evil-dev-"), 1), 0o600); err != nil {
				t.Fatal(err)
			}
		}, "inspect"},
		{"a policy with one more statement", kms(func(key map[string]any) {
			key["policy"] = moreStatements(t, key["policy"].(string))
		}), "inspect"},
		{"a replica key", kms(func(key map[string]any) { key["multi_region"] = true }), "inspect"},
		{"a key of imported material", kms(func(key map[string]any) { key["origin"] = "EXTERNAL" }), "inspect"},
		{"a key with a grant", kms(func(key map[string]any) {
			key["grants"] = []any{map[string]any{"id": strings.Repeat("ab", 32), "created": time.Now(), "grantee": "arn:aws:iam::000000000000:root",
				"issuer": "arn:aws:iam::000000000000:root", "operations": []string{"Decrypt"}}}
		}), "inspect"},
		{"another platform's birth document", func(dir string) { meta(t, dir, "kek-birth", meta(t, other, "kek-birth", nil)) }, "inspect"},
		{"a KMS and key of its own", func(dir string) {
			if err := os.RemoveAll(filepath.Join(dir, "kms")); err != nil {
				t.Fatal(err)
			}
			if err := os.CopyFS(filepath.Join(dir, "kms"), os.DirFS(filepath.Join(other, "kms"))); err != nil {
				t.Fatal(err)
			}
			private(t, filepath.Join(dir, "kms"))
			meta(t, dir, "kek", meta(t, other, "kek", nil))
			meta(t, dir, "kek-policy", meta(t, other, "kek-policy", nil))
		}, "inspect"},
		{"no birth document", func(dir string) { meta(t, dir, "kek-birth", []byte{}) }, "boot"},
	} {
		t.Run(tc.name, func(t *testing.T) {
			lied := filepath.Join(t.TempDir(), "data")
			if err := os.CopyFS(lied, os.DirFS(dir)); err != nil {
				t.Fatal(err)
			}
			private(t, lied)
			tc.lie(lied)
			if stage := refusal(t, lied); stage != tc.stage {
				t.Errorf("stopped at %q, want %q", stage, tc.stage)
			}
		})
	}
	t.Run("and an honest copy serves", func(t *testing.T) {
		copied := filepath.Join(t.TempDir(), "data")
		if err := os.CopyFS(copied, os.DirFS(dir)); err != nil {
			t.Fatal(err)
		}
		private(t, copied)
		platform.Start(t, copied)
	})
}

// private gives copied files the modes that they had.
func private(t *testing.T, dir string) {
	t.Helper()
	err := filepath.WalkDir(dir, func(path string, d os.DirEntry, err error) error {
		if err != nil {
			return err
		}
		if d.IsDir() {
			return os.Chmod(path, 0o700)
		}
		return os.Chmod(path, 0o600)
	})
	if err != nil {
		t.Fatal(err)
	}
}

// moreStatements adds a statement to a policy.
func moreStatements(t *testing.T, text string) string {
	t.Helper()
	var p map[string]any
	if err := json.Unmarshal([]byte(text), &p); err != nil {
		t.Fatal(err)
	}
	p["Statement"] = append(p["Statement"].([]any), map[string]any{"Sid": "more", "Effect": "Allow",
		"Principal": map[string]any{"AWS": "arn:aws:iam::000000000000:root"}, "Action": "kms:Decrypt", "Resource": "*"})
	out, err := json.Marshal(p)
	if err != nil {
		t.Fatal(err)
	}
	return string(out)
}
