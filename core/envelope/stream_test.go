package envelope_test

import (
	"bytes"
	"crypto/rsa"
	"crypto/sha256"
	"encoding/base64"
	"encoding/binary"
	"errors"
	"io"
	"runtime"
	"slices"
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

func TestDamage(t *testing.T) {
	data := seal(t, pattern(2*chunk+100), forFn, false)
	at := payloadAt(data)
	one := seal(t, []byte("x"), forFn, false)
	swap := slices.Concat(data[:at], data[at+sealed:at+2*sealed], data[at:at+sealed], data[at+2*sealed:])
	for _, c := range []struct {
		name string
		data []byte
		want error
	}{
		{"nothing", nil, envelope.ErrFormat},
		{"prefix cut", data[:7], envelope.ErrFormat},
		{"another version", append([]byte("cape:v3:"), data[8:]...), envelope.ErrFormat},
		{"old prefix", append([]byte("cape:"), data[8:]...), envelope.ErrFormat},
		{"length cut", data[:9], envelope.ErrTruncated},
		{"header cut", data[:at-1], envelope.ErrTruncated},
		{"header too long", slices.Concat(data[:8], []byte{0xff, 0xff}, data[10:]), envelope.ErrFormat},
		{"header longer than it is", slices.Concat(data[:8], binary.BigEndian.AppendUint16(nil, uint16(at-9)), data[10:]), envelope.ErrFormat},
		{"no chunk", data[:at], envelope.ErrTruncated},
		{"cut in the first tag", data[:at+15], envelope.ErrTruncated},
		{"first chunk's tag alone", data[:at+16], envelope.ErrDamaged},
		{"after the first chunk", data[:at+sealed], envelope.ErrTruncated},
		{"after the second chunk", data[:at+2*sealed], envelope.ErrTruncated},
		{"a byte after the second chunk", data[:at+2*sealed+1], envelope.ErrTruncated},
		{"a tag after the second chunk", data[:at+2*sealed+16], envelope.ErrTruncated},
		{"in the last chunk", data[:len(data)-1], envelope.ErrDamaged},
		{"in the second chunk", data[:at+sealed+1000], envelope.ErrDamaged},
		{"longer", append(slices.Clip(data), 0), envelope.ErrDamaged},
		{"last chunk twice", slices.Concat(data, data[at+2*sealed:]), envelope.ErrDamaged},
		{"chunks swapped", swap, envelope.ErrDamaged},
		{"chunk left out", slices.Concat(data[:at], data[at+sealed:]), envelope.ErrDamaged},
		{"chunk twice", slices.Concat(data[:at+sealed], data[at:]), envelope.ErrDamaged},
		{"chunks of another", slices.Concat(one[:payloadAt(one)], data[at:]), envelope.ErrDamaged},
		{"first byte changed", flipped(data, at), envelope.ErrDamaged},
		{"last byte changed", flipped(data, len(data)-1), envelope.ErrDamaged},
		{"wrapped key changed", flipped(data, at-1), envelope.ErrDamaged},
	} {
		if _, _, err := open(t, bytes.NewReader(c.data)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
		if len(c.data) < 8 || !bytes.HasPrefix(c.data, []byte("cape:v2:")) {
			continue
		}
		if _, _, err := open(t, bytes.NewReader(asText(c.data))); !errors.Is(err, c.want) {
			t.Errorf("%s as text: %v", c.name, err)
		}
	}
}

// Every byte of the header matters: that of "to" most of all.
func TestHeaderIsBound(t *testing.T) {
	data := seal(t, []byte("secret"), forFn, false)
	for i := 8; i < payloadAt(data); i++ {
		if got, _, err := open(t, bytes.NewReader(flipped(data, i))); err == nil || len(got) > 0 {
			t.Fatalf("byte %d changed: %q, %v", i, got, err)
		}
	}
}

func TestTextDamage(t *testing.T) {
	text := seal(t, pattern(100000), forFn, true)
	for _, c := range []struct {
		name string
		text []byte
		want error
	}{
		{"cut within a group", text[:len(text)-1], envelope.ErrFormat},
		{"cut after a group", text[:len(text)/2/4*4], envelope.ErrDamaged},
		{"two newlines", append(slices.Clip(text), "\n\n"...), envelope.ErrFormat},
		{"newline in front", slices.Insert(bytes.Clone(text), 8, '\n'), envelope.ErrFormat},
		{"newlines inside", slices.Insert(bytes.Clone(text), 1000, '\n', '\n', '\n', '\n'), envelope.ErrFormat},
		{"carriage return alone", append(slices.Clip(text), '\r'), envelope.ErrFormat},
		{"after the padding", append(slices.Clip(text), "AAAA"...), envelope.ErrFormat},
		{"padding in the middle", slices.Insert(bytes.Clone(text), 1004, []byte("AA==")...), envelope.ErrFormat},
		{"other alphabet", slices.Insert(bytes.Clone(text), 1004, []byte("AA-_")...), envelope.ErrFormat},
		{"binary after the text prefix", append([]byte("cape:v2,"), seal(t, nil, forFn, false)[8:]...), envelope.ErrFormat},
	} {
		if _, _, err := open(t, bytes.NewReader(c.text)); !errors.Is(err, c.want) {
			t.Errorf("%s: %v", c.name, err)
		}
	}
}

// A padding where one bufferful of text ends must not let more text follow.
func TestTextPaddingAtBufferEnd(t *testing.T) {
	const buffer = 16 * 64 << 10
	data := seal(t, pattern(3*buffer), forFn, false)
	for size := buffer - 16; size < buffer+16; size += 4 {
		first := size/4*3 - 1 // bytes that fill size characters with one of padding
		text := slices.Concat([]byte("cape:v2,"),
			[]byte(base64.StdEncoding.EncodeToString(data[8:8+first])),
			[]byte(base64.StdEncoding.EncodeToString(data[8+first:])))
		if _, _, err := open(t, bytes.NewReader(text)); !errors.Is(err, envelope.ErrFormat) {
			t.Errorf("padding before character %d: %v", size, err)
		}
	}
}

// What comes out before an error is a part of the plaintext, never of
// anything else, and never from the damaged chunk on.
func TestNothingBeforeItsChunk(t *testing.T) {
	plaintext := pattern(40 * chunk)
	data := seal(t, plaintext, forFn, false)
	at := payloadAt(data)
	for _, i := range []int{0, 1, 15, 16, 17, 31, 32, 39} {
		got, _, err := open(t, bytes.NewReader(flipped(data, at+i*sealed+sealed/2)))
		if !errors.Is(err, envelope.ErrDamaged) || len(got) > i*chunk || !bytes.Equal(got, plaintext[:len(got)]) {
			t.Errorf("chunk %d changed: %d bytes came out, %v", i, len(got), err)
		}
		if i >= 16 && len(got) == 0 {
			t.Errorf("chunk %d changed: the batch before it was held back", i)
		}
	}
}

// errLost is a source's own error. io.ErrUnexpectedEOF is what a connection
// that broke gives: it must not pass for an end.
var errLost = errors.New("connection lost")

func TestSourceErrors(t *testing.T) {
	data := seal(t, pattern(20*chunk), forFn, false)
	text := asText(data)
	for _, lost := range []error{errLost, io.ErrUnexpectedEOF} {
		for _, n := range []int{0, 3, 9, 200, 5 * chunk, len(data)} {
			for _, form := range [][]byte{data, text} {
				r := io.MultiReader(bytes.NewReader(form[:n]), iotest.ErrReader(lost))
				if _, _, err := open(t, r); !errors.Is(err, lost) {
					t.Errorf("%v after %d bytes: %v", lost, n, err)
				}
				r = io.MultiReader(bytes.NewReader(form[:n]), iotest.ErrReader(lost))
				plain, _, err := envelope.NewReader(r, find(t), allowAll)
				if err == nil {
					_, err = io.Copy(io.Discard, plain)
				}
				if !errors.Is(err, lost) {
					t.Errorf("copy, %v after %d bytes: %v", lost, n, err)
				}
			}
		}
		var out bytes.Buffer
		w, err := envelope.NewWriter(&out, &key(t, 0).PublicKey, forFn, false)
		if err != nil {
			t.Fatal(err)
		}
		if _, err := io.Copy(w, io.MultiReader(bytes.NewReader(pattern(100)), iotest.ErrReader(lost))); !errors.Is(err, lost) {
			t.Errorf("sealing a source that fails: %v", err)
		}
		if err := w.Close(); !errors.Is(err, lost) {
			t.Errorf("Close after the source failed: %v", err)
		}
		if _, _, err := open(t, &out); !errors.Is(err, envelope.ErrTruncated) {
			t.Errorf("a part passes for the whole: %v", err)
		}
	}
}

type failing struct{ left int }

func (f *failing) Write(p []byte) (int, error) {
	if f.left -= len(p); f.left < 0 {
		return 0, errLost
	}
	return len(p), nil
}

func TestSinkErrors(t *testing.T) {
	for _, text := range []bool{false, true} {
		for _, left := range []int{0, 8, 2000, 3 << 20} {
			w, err := envelope.NewWriter(&failing{left}, &key(t, 0).PublicKey, forFn, text)
			if err == nil {
				_, err = w.Write(pattern(4 << 20))
			}
			if err == nil {
				err = w.Close()
			}
			if !errors.Is(err, errLost) {
				t.Errorf("text %v, %d bytes: %v", text, left, err)
			}
		}
	}
	w, err := envelope.NewWriter(io.Discard, &key(t, 0).PublicKey, forFn, false)
	if err != nil {
		t.Fatal(err)
	}
	if w.Close() != nil || w.Close() != nil {
		t.Error("Close twice")
	}
	if _, err := w.Write([]byte("late")); err == nil {
		t.Error("Write after Close")
	}
}

func TestConstantMemory(t *testing.T) {
	const size = 256 << 20
	for _, text := range []bool{false, true} {
		var before, after runtime.MemStats
		runtime.ReadMemStats(&before)
		pr, pw := io.Pipe()
		go func() {
			w, err := envelope.NewWriter(pw, &key(t, 0).PublicKey, forFn, text)
			if err == nil {
				_, err = io.Copy(w, &zeros{size})
			}
			if err == nil {
				err = w.Close()
			}
			pw.CloseWithError(err)
		}()
		plain, _, err := envelope.NewReader(pr, find(t), allowAll)
		if err != nil {
			t.Fatal(err)
		}
		if n, err := io.Copy(io.Discard, plain); err != nil || n != size {
			t.Fatal(n, err)
		}
		runtime.ReadMemStats(&after)
		if got := after.TotalAlloc - before.TotalAlloc; got > 32<<20 {
			t.Errorf("text %v: %d MiB allocated for %d", text, got>>20, size>>20)
		}
	}
}

func FuzzV2Binary(f *testing.F) {
	f.Add([]byte("cape:v2:"))
	f.Add(seal(f, nil, envelope.ForOwner(), false))
	f.Add(seal(f, pattern(100), forFn, false))
	f.Add(seal(f, pattern(100), envelope.ForName([32]byte{1}, "name"), false))
	f.Fuzz(func(t *testing.T, data []byte) { fuzzV2(t, data, envelope.V2Binary) })
}

func FuzzV2Text(f *testing.F) {
	f.Add([]byte("cape:v2,AAAA\n"))
	f.Add(seal(f, nil, envelope.ForOwner(), true))
	f.Add(seal(f, pattern(100), forFn, true))
	f.Fuzz(func(t *testing.T, data []byte) { fuzzV2(t, data, envelope.V2Text) })
}

// fuzzV2 holds the form against its other one: both must open alike.
func fuzzV2(t *testing.T, data []byte, form envelope.Form) {
	got, to, err := open(t, bytes.NewReader(data))
	if err != nil || envelope.Detect(data) != form {
		return
	}
	other := asText(data)
	if form == envelope.V2Text {
		body, err := base64.StdEncoding.DecodeString(strings.TrimSpace(string(data[8:])))
		if err != nil {
			t.Fatal(err)
		}
		other = append([]byte("cape:v2:"), body...)
	}
	again, toAgain, err := open(t, bytes.NewReader(other))
	if err != nil || to != toAgain || !bytes.Equal(got, again) {
		t.Errorf("the other form opens otherwise: %v", err)
	}
}
