package secret_test

import (
	"bytes"
	"encoding/base64"
	"encoding/gob"
	"encoding/hex"
	"encoding/json"
	"encoding/xml"
	"errors"
	"fmt"
	"log/slog"
	"reflect"
	"strings"
	"testing"

	"github.com/fxamacker/cbor/v2"
	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/core/secret"
)

const canary = "correct horse battery staple"

// shows tells whether text holds the canary in any form a printer could give
// it.
func shows(text string) bool {
	var decimal []string
	for _, b := range []byte(canary) {
		decimal = append(decimal, fmt.Sprint(b))
	}
	lower := strings.ToLower(text)
	for _, form := range []string{
		canary,
		hex.EncodeToString([]byte(canary)),
		strings.ToLower(base64.StdEncoding.EncodeToString([]byte(canary))),
		strings.Join(decimal, " "),
		strings.Join(decimal, ","),
		strings.Join(decimal, ", "),
		fmt.Sprintf("% x", canary),
		strings.Trim(strings.TrimPrefix(fmt.Sprintf("%#v", []byte(canary)), "[]byte"), "{}"),
	} {
		if strings.Contains(lower, strings.ToLower(form)) {
			return true
		}
	}
	return false
}

type holder struct {
	Public  secret.Bytes
	private secret.Bytes
}

func TestNoVerbShows(t *testing.T) {
	b := secret.New([]byte(canary))
	whole := &holder{Public: b, private: b}
	verbs := "vTtbcdoOqxXUeEfFgGspwyz%"
	for _, verb := range verbs {
		for _, flags := range []string{"", "+", "#", " ", "-", "0", "10", ".3", "+#"} {
			format := "%" + flags + string(verb)
			got := fmt.Sprintf(format, b)
			if shows(got) {
				t.Errorf("%s shows the secret: %s", format, got)
			}
			// These three never ask a type how to print.
			if !strings.ContainsRune("Tpw", verb) && verb != '%' && got != secret.Redacted {
				t.Errorf("%s prints %q", format, got)
			}
			for _, arg := range []any{&b, whole, *whole, []secret.Bytes{b}, map[string]secret.Bytes{"k": b}, &whole, any(b)} {
				if got := fmt.Sprintf(format, arg); shows(got) {
					t.Errorf("%s of %T shows the secret: %s", format, arg, got)
				}
			}
		}
	}
	if got := b.String() + b.GoString(); got != secret.Redacted+secret.Redacted {
		t.Errorf("String and GoString: %q", got)
	}
	if shows(fmt.Errorf("key %v: %w", b, errors.New("x")).Error()) {
		t.Error("an error shows the secret")
	}
	if shows(cmp.Diff(fmt.Sprintf("%v", b), "")) {
		t.Error("a diff shows the secret")
	}
}

func TestNoLogShows(t *testing.T) {
	b := secret.New([]byte(canary))
	for name, make := range map[string]func(*bytes.Buffer) slog.Handler{
		"text": func(w *bytes.Buffer) slog.Handler { return slog.NewTextHandler(w, nil) },
		"json": func(w *bytes.Buffer) slog.Handler { return slog.NewJSONHandler(w, nil) },
	} {
		var out bytes.Buffer
		slog.New(make(&out)).Info("m", "b", b, "p", &b, "h", holder{b, b}, "hp", &holder{b, b}, slog.Group("g", "b", b), "s", []secret.Bytes{b})
		if shows(out.String()) {
			t.Errorf("%s handler shows the secret: %s", name, out.String())
		}
		if !strings.Contains(out.String(), secret.Redacted) {
			t.Errorf("%s handler does not say redacted: %s", name, out.String())
		}
	}
}

func TestNoEncoderShows(t *testing.T) {
	b := secret.New([]byte(canary))
	got, err := json.Marshal(map[string]any{"b": b, "p": &b, "h": holder{b, b}})
	if want := `{"b":"[redacted]","h":{"Public":"[redacted]"},"p":"[redacted]"}`; err != nil || string(got) != want {
		t.Errorf("JSON: %s, %v", got, err)
	}
	if got, err := xml.Marshal(holder{b, b}); err != nil || shows(string(got)) {
		t.Errorf("XML: %s, %v", got, err)
	}
	if _, err := cbor.Marshal(b); !errors.Is(err, secret.ErrEncode) {
		t.Errorf("CBOR: %v", err)
	}
	var out bytes.Buffer
	if err := gob.NewEncoder(&out).Encode(b); !errors.Is(err, secret.ErrEncode) || shows(out.String()) {
		t.Errorf("gob: %v", err)
	}
}

func TestNotComparable(t *testing.T) {
	// What reflection calls comparable is what the compiler lets == do.
	if reflect.TypeFor[secret.Bytes]().Comparable() {
		t.Error("secret.Bytes compiles in a comparison with ==")
	}
}

func TestBytes(t *testing.T) {
	raw := []byte(canary)
	b := secret.New(raw)
	same, other := secret.New([]byte(canary)), secret.New([]byte("short"))
	if !b.Equal(same) || b.Equal(other) || b.Equal(secret.Bytes{}) || !(secret.Bytes{}).Equal(secret.New(nil)) {
		t.Error("Equal")
	}
	if b.Len() != len(canary) || string(b.Reveal()) != canary {
		t.Error("Reveal and Len")
	}
	again := b
	b.Wipe()
	if !bytes.Equal(raw, make([]byte, len(canary))) {
		t.Error("Wipe left bytes")
	}
	if again.Len() != 0 || b.Len() != 0 {
		t.Error("a copy outlived Wipe")
	}
	b.Wipe()
	var zero secret.Bytes
	zero.Wipe()
	if zero.Len() != 0 || zero.Reveal() != nil || fmt.Sprint(zero) != secret.Redacted {
		t.Error("zero value")
	}
	room := append(make([]byte, 0, 64), canary...)
	secret.New(room[:3]).Wipe()
	if shows(string(room[:cap(room)])) {
		t.Error("Wipe left bytes beyond the length")
	}
}
