package login_test

import (
	"errors"
	"os"
	"path/filepath"
	"strings"
	"testing"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/client/internal/login"
	"github.com/cape-functions/cape/client/testkit"
)

func TestRead(t *testing.T) {
	path := filepath.Join(t.TempDir(), "auth")
	if _, err := login.Read(path); !errors.Is(err, login.ErrNone) {
		t.Errorf("absent: %v, want ErrNone", err)
	}
	for name, text := range map[string]string{"broken": "{", "empty": "", "no token": `{"id_token":"x"}`, "too large": strings.Repeat(" ", 1<<20)} {
		if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
			t.Fatal(err)
		}
		if _, err := login.Read(path); !errors.Is(err, login.ErrFile) {
			t.Errorf("%s: %v, want ErrFile", name, err)
		}
	}
	// The original writes the zero time where the server named no expiry.
	text := `{"access_token":"` + testkit.AccessToken("ann") + `","expiry":"0001-01-01T00:00:00Z","id_token":"` + testkit.IDToken("ann") + `"}`
	if err := os.WriteFile(path, []byte(text), 0o600); err != nil {
		t.Fatal(err)
	}
	a, err := login.Read(path)
	if err != nil || a.Username() != "ann" {
		t.Errorf("%v", err)
	}
}

func TestClaims(t *testing.T) {
	want := login.TokenClaims{Issuer: "fake", Subject: "ann|1", Username: "ann"}
	if diff := cmp.Diff(want, login.Claims(testkit.Token("ann"))); diff != "" {
		t.Error(diff)
	}
	for _, bad := range []string{"", "x", "a.b", "a.b.c", "a.!.c", "a.bnVsbA.c", "a.W10.c", "a.eyJzdWIiOjF9.c", strings.Repeat("a", 10000)} {
		if got := login.Claims(bad); got != (login.TokenClaims{}) {
			t.Errorf("%.20q: %+v", bad, got)
		}
	}
}
