package envelope_test

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"strings"
	"testing"
	"testing/iotest"

	"github.com/cape-functions/cape/core/envelope"
)

const (
	chunk  = envelope.ChunkSize
	sealed = chunk + 16
)

var forFn = envelope.ForFunction(sha256.Sum256([]byte("zip")))

func seal(t testing.TB, plaintext []byte, to envelope.To, text bool) []byte {
	t.Helper()
	var out bytes.Buffer
	w, err := envelope.NewWriter(&out, &key(t, 0).PublicKey, to, text)
	if err != nil {
		t.Fatal(err)
	}
	if _, err := w.Write(plaintext); err != nil {
		t.Fatal(err)
	}
	if err := w.Close(); err != nil {
		t.Fatal(err)
	}
	return out.Bytes()
}

func find(t testing.TB) func([32]byte) (*rsa.PrivateKey, error) {
	return func(hash [32]byte) (*rsa.PrivateKey, error) {
		for i := range 2 {
			if h, err := envelope.KeyHash(&key(t, i).PublicKey); err == nil && h == hash {
				return key(t, i), nil
			}
		}
		return nil, envelope.ErrKey
	}
}

func allowAll(envelope.To) error { return nil }

func open(t testing.TB, r io.Reader) ([]byte, envelope.To, error) {
	t.Helper()
	plain, to, err := envelope.NewReader(r, find(t), allowAll)
	if err != nil {
		return nil, to, err
	}
	got, err := io.ReadAll(plain)
	return got, to, err
}

// payloadAt is where the chunks of a binary envelope begin.
func payloadAt(data []byte) int { return 8 + 2 + int(binary.BigEndian.Uint16(data[8:])) }

// asText gives a binary envelope the text form.
func asText(data []byte) []byte {
	return append([]byte("cape:v2,"), base64.StdEncoding.EncodeToString(data[8:])...)
}

func TestStream(t *testing.T) {
	sizes := []int{0, 1, 100, chunk - 1, chunk, chunk + 1, 2 * chunk, 16*chunk - 1, 16 * chunk, 16*chunk + 1, 17 * chunk, 32 * chunk, 40*chunk + 12345}
	for _, size := range sizes {
		plaintext := pattern(size)
		for _, text := range []bool{false, true} {
			data := seal(t, plaintext, forFn, text)
			got, to, err := open(t, bytes.NewReader(data))
			if err != nil || to != forFn || !bytes.Equal(got, plaintext) {
				t.Errorf("%d bytes, text %v: %v", size, text, err)
			}
			if int64(len(data)) > envelope.MaxSealedSize(int64(size)) {
				t.Errorf("%d bytes become %d, more than MaxSealedSize", size, len(data))
			}
			if !text {
				chunks := max(1, (size+chunk-1)/chunk)
				if got := len(data) - payloadAt(data); got != size+16*chunks {
					t.Errorf("%d bytes have a payload of %d", size, got)
				}
				continue
			}
			if got, _, err := open(t, bytes.NewReader(append(data, '\n'))); err != nil || !bytes.Equal(got, plaintext) {
				t.Errorf("%d bytes with a newline: %v", size, err)
			}
		}
	}
}

// How reads and writes are cut must not matter.
func TestStreamInPieces(t *testing.T) {
	plaintext := pattern(17*chunk + 5)
	for _, text := range []bool{false, true} {
		var out bytes.Buffer
		w, err := envelope.NewWriter(&out, &key(t, 0).PublicKey, forFn, text)
		if err != nil {
			t.Fatal(err)
		}
		for rest, n := plaintext, 1; len(rest) > 0; n = n*3 + 1 {
			n = min(n, len(rest))
			if _, err := w.Write(rest[:n]); err != nil {
				t.Fatal(err)
			}
			rest = rest[n:]
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		for name, r := range map[string]io.Reader{
			"half":          iotest.HalfReader(bytes.NewReader(out.Bytes())),
			"one":           iotest.OneByteReader(bytes.NewReader(out.Bytes())),
			"data with EOF": iotest.DataErrReader(bytes.NewReader(out.Bytes())),
		} {
			plain, _, err := envelope.NewReader(r, find(t), allowAll)
			if err != nil {
				t.Fatal(err)
			}
			if err := iotest.TestReader(plain, plaintext); err != nil {
				t.Errorf("%s, text %v: %v", name, text, err)
			}
		}
		var copied bytes.Buffer
		plain, _, err := envelope.NewReader(bytes.NewReader(out.Bytes()), find(t), allowAll)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(&copied, plain); err != nil || !bytes.Equal(copied.Bytes(), plaintext) {
			t.Errorf("copy, text %v: %v", text, err)
		}
	}
}

func TestCopyInto(t *testing.T) {
	for _, size := range []int{0, 1, chunk, 16 * chunk, 16*chunk + 1, 33 * chunk} {
		plaintext := pattern(size)
		var out bytes.Buffer
		w, err := envelope.NewWriter(&out, &key(t, 0).PublicKey, forFn, false)
		if err != nil {
			t.Fatal(err)
		}
		n, err := io.Copy(w, struct{ io.Reader }{iotest.HalfReader(bytes.NewReader(plaintext))})
		if err != nil || n != int64(size) {
			t.Fatalf("copied %d of %d: %v", n, size, err)
		}
		if err := w.Close(); err != nil {
			t.Fatal(err)
		}
		if got, _, err := open(t, &out); err != nil || !bytes.Equal(got, plaintext) {
			t.Errorf("%d bytes: %v", size, err)
		}
	}
}

func TestRecipients(t *testing.T) {
	account := sha256.Sum256([]byte("account"))
	for _, to := range []envelope.To{
		envelope.ForOwner(), forFn, envelope.ForName(account, "f"),
		envelope.ForName(account, strings.Repeat("n", 128)),
	} {
		_, got, err := open(t, bytes.NewReader(seal(t, nil, to, false)))
		if err != nil || got != to {
			t.Errorf("%+v became %+v: %v", to, got, err)
		}
	}
	for _, to := range []envelope.To{
		{Name: "f"}, {Digest: account}, {Kind: 7}, {Kind: envelope.ToFunction, Digest: account, Name: "f"},
		envelope.ForName(account, ""), envelope.ForName(account, "a/b"), envelope.ForName(account, strings.Repeat("n", 129)),
	} {
		if _, err := envelope.NewWriter(io.Discard, &key(t, 0).PublicKey, to, false); !errors.Is(err, envelope.ErrTo) {
			t.Errorf("%+v: %v", to, err)
		}
	}
}

func TestAllowAndFind(t *testing.T) {
	data := seal(t, []byte("secret"), forFn, false)
	refused, lost := errors.New("refused"), errors.New("lost")
	asked := 0
	counting := func(hash [32]byte) (*rsa.PrivateKey, error) {
		asked++
		return find(t)(hash)
	}
	r, _, err := envelope.NewReader(bytes.NewReader(data), counting, func(to envelope.To) error {
		if to != forFn {
			t.Errorf("allow was asked about %+v", to)
		}
		return refused
	})
	if !errors.Is(err, refused) || r != nil || asked != 0 {
		t.Errorf("refused: %v; the key was asked for %d times", err, asked)
	}
	for name, c := range map[string]struct {
		find func([32]byte) (*rsa.PrivateKey, error)
		want error
	}{
		"no such key":   {func([32]byte) (*rsa.PrivateKey, error) { return nil, lost }, lost},
		"nil key":       {func([32]byte) (*rsa.PrivateKey, error) { return nil, nil }, envelope.ErrKey},
		"another key":   {func([32]byte) (*rsa.PrivateKey, error) { return key(t, 1), nil }, envelope.ErrKey},
		"the right one": {find(t), nil},
	} {
		if _, _, err := envelope.NewReader(bytes.NewReader(data), c.find, allowAll); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", name, err)
		}
	}
}
