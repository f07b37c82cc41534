package envelope_test

import (
	"crypto/rand"
	"crypto/rsa"
	"io"
	"testing"

	"github.com/cape-functions/cape/core/envelope"
)

type zeros struct{ left int64 }

func (z *zeros) Read(p []byte) (int, error) {
	if z.left == 0 {
		return 0, io.EOF
	}
	n := min(int64(len(p)), z.left)
	z.left -= n
	return int(n), nil
}

func benchKey(b *testing.B) *rsa.PrivateKey {
	key, err := rsa.GenerateKey(rand.Reader, 4096)
	if err != nil {
		b.Fatal(err)
	}
	return key
}

func BenchmarkSeal(b *testing.B) {
	key := benchKey(b)
	for _, c := range []struct {
		name string
		text bool
	}{{"binary", false}, {"text", true}} {
		b.Run(c.name, func(b *testing.B) {
			const size = 1 << 28
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				w, err := envelope.NewWriter(io.Discard, &key.PublicKey, envelope.ForOwner(), c.text)
				if err != nil {
					b.Fatal(err)
				}
				if _, err := io.Copy(w, &zeros{size}); err != nil {
					b.Fatal(err)
				}
				if err := w.Close(); err != nil {
					b.Fatal(err)
				}
			}
		})
	}
}

func BenchmarkOpen(b *testing.B) {
	key := benchKey(b)
	for _, c := range []struct {
		name string
		text bool
	}{{"binary", false}, {"text", true}} {
		b.Run(c.name, func(b *testing.B) {
			const size = 1 << 28
			b.SetBytes(size)
			b.ReportAllocs()
			for b.Loop() {
				pr, pw := io.Pipe()
				go func() {
					w, err := envelope.NewWriter(pw, &key.PublicKey, envelope.ForOwner(), c.text)
					if err == nil {
						_, err = io.Copy(w, &zeros{size})
					}
					if err == nil {
						err = w.Close()
					}
					pw.CloseWithError(err)
				}()
				find := func([32]byte) (*rsa.PrivateKey, error) { return key, nil }
				r, _, err := envelope.NewReader(pr, find, func(envelope.To) error { return nil })
				if err != nil {
					b.Fatal(err)
				}
				if n, err := io.Copy(io.Discard, r); err != nil || n != size {
					b.Fatal(n, err)
				}
			}
		})
	}
}
