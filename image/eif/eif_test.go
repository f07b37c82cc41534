package eif_test

import (
	"bytes"
	"context"
	"crypto/ecdsa"
	"crypto/elliptic"
	"crypto/rand"
	"crypto/x509"
	"encoding/json"
	"errors"
	"io"
	"math/big"
	"os"
	"path/filepath"
	"testing"
	"time"

	"github.com/google/go-cmp/cmp"

	"github.com/cape-functions/cape/image/eif"
)

const cmdline = "reboot=k panic=30 pci=off console=ttyS0"

func fixture(t testing.TB, name string) []byte {
	t.Helper()
	b, err := os.ReadFile(filepath.Join("testdata", name))
	if err != nil {
		t.Fatal(err)
	}
	return b
}

// known are the images that AWS's library wrote, by the number of their ramdisks.
var known = []struct {
	name     string
	ramdisks int
	signed   bool
}{{"one-ramdisk", 1, false}, {"two-ramdisks", 2, false}, {"signed-three-ramdisks", 3, true}}

func measurements(t testing.TB, name string) map[string]string {
	t.Helper()
	var answer struct{ Measurements map[string]string }
	if err := json.Unmarshal(fixture(t, name+".json"), &answer); err != nil {
		t.Fatal(err)
	}
	answer.Measurements["HashAlgorithm"] = eif.HashAlgorithm // the crate prints its own type's name
	return answer.Measurements
}

func part(b []byte) eif.Part { return eif.Part{Content: bytes.NewReader(b), Size: int64(len(b))} }

func parts(t testing.TB, ramdisks int) eif.Parts {
	t.Helper()
	p := eif.Parts{Kernel: part(fixture(t, "kernel.bin")), Cmdline: cmdline, Name: "x", Version: "1"}
	for _, name := range []string{"ramdisk-1.bin", "ramdisk-2.bin", "ramdisk-3.bin"}[:ramdisks] {
		p.Ramdisks = append(p.Ramdisks, part(fixture(t, name)))
	}
	return p
}

// write writes an image to a file and returns its bytes.
func write(t testing.TB, p eif.Parts) ([]byte, eif.Measurements) {
	t.Helper()
	f := create(t)
	m, err := eif.Write(t.Context(), f, p)
	if err != nil {
		t.Fatal(err)
	}
	return content(t, f), m
}

func create(t testing.TB) *os.File {
	t.Helper()
	f, err := os.Create(filepath.Join(t.TempDir(), "image.eif"))
	if err != nil {
		t.Fatal(err)
	}
	t.Cleanup(func() { f.Close() })
	return f
}

func content(t testing.TB, f *os.File) []byte {
	t.Helper()
	b, err := os.ReadFile(f.Name())
	if err != nil {
		t.Fatal(err)
	}
	return b
}

func read(b []byte) (*eif.Image, error) {
	return eif.Read(context.Background(), bytes.NewReader(b), nil)
}

func TestKnownAnswers(t *testing.T) {
	for _, k := range known {
		t.Run(k.name, func(t *testing.T) {
			b := fixture(t, k.name+".eif")
			i, err := read(b)
			if err != nil {
				t.Fatal(err)
			}
			if diff := cmp.Diff(measurements(t, k.name), i.Measurements.Map()); diff != "" {
				t.Error(diff)
			}
			if i.Cmdline != cmdline || i.Size != int64(len(b)) || i.ARM64 || i.Memory != 1<<30 || i.CPUs != 2 || (i.Certificate != nil) != k.signed {
				t.Errorf("%+v", i)
			}
			if k.signed {
				return
			}
			again, m := write(t, parts(t, k.ramdisks))
			if !bytes.Equal(again, b) || m != i.Measurements {
				t.Error("the same parts give other bytes than AWS's library wrote")
			}
		})
	}
}

func TestSectionsAreHandedOut(t *testing.T) {
	got := map[eif.Kind][]byte{}
	b := fixture(t, "signed-three-ramdisks.eif")
	_, err := eif.Read(t.Context(), bytes.NewReader(b), func(s eif.Section) (io.Writer, error) {
		if s.Kind == eif.Metadata {
			return nil, nil
		}
		return writer(func(p []byte) (int, error) {
			got[s.Kind] = append(got[s.Kind], p...)
			return len(p), nil
		}), nil
	})
	if err != nil {
		t.Fatal(err)
	}
	want := map[eif.Kind][]byte{
		eif.Kernel: fixture(t, "kernel.bin"), eif.Cmdline: []byte(cmdline), eif.Signature: b[len(b)-1895:],
		eif.Ramdisk: bytes.Join([][]byte{fixture(t, "ramdisk-1.bin"), fixture(t, "ramdisk-2.bin"), fixture(t, "ramdisk-3.bin")}, nil),
	}
	if diff := cmp.Diff(want, got); diff != "" {
		t.Error(diff)
	}
}

type writer func([]byte) (int, error)

func (w writer) Write(b []byte) (int, error) { return w(b) }

// signer is one of a fresh key, with a certificate of long ago: that is for others to judge.
func signer(t testing.TB, curve elliptic.Curve) eif.Signer {
	return signerUntil(t, curve, time.Unix(2, 0))
}

// currentSigner has a certificate that is valid now.
func currentSigner(t testing.TB, curve elliptic.Curve) eif.Signer {
	return signerUntil(t, curve, time.Now().Add(time.Hour))
}

func signerUntil(t testing.TB, curve elliptic.Curve, end time.Time) eif.Signer {
	t.Helper()
	key, err := ecdsa.GenerateKey(curve, rand.Reader)
	if err != nil {
		t.Fatal(err)
	}
	template := &x509.Certificate{SerialNumber: big.NewInt(1), NotBefore: time.Unix(1, 0), NotAfter: end}
	der, err := x509.CreateCertificate(rand.Reader, template, template, key.Public(), key)
	if err != nil {
		t.Fatal(err)
	}
	cert, err := x509.ParseCertificate(der)
	if err != nil {
		t.Fatal(err)
	}
	return eif.Signer{Key: key, Certificate: cert}
}

func TestSign(t *testing.T) {
	s := signer(t, elliptic.P384())
	for _, k := range known {
		t.Run(k.name, func(t *testing.T) {
			b := fixture(t, k.name+".eif")
			f := create(t)
			said, err := eif.Sign(t.Context(), f, bytes.NewReader(b), int64(len(b)), s)
			if err != nil {
				t.Fatal(err)
			}
			i, err := read(content(t, f))
			if err != nil {
				t.Fatal(err)
			}
			before, err := read(b)
			if err != nil {
				t.Fatal(err)
			}
			want := before.Measurements
			want.PCR8 = i.Measurements.PCR8
			if i.Measurements != want || want.PCR8.IsZero() || want.PCR8 == before.Measurements.PCR8 || !i.Certificate.Equal(s.Certificate) {
				t.Errorf("%+v", i)
			}
			if said.Measurements != i.Measurements || said.Size != i.Size {
				t.Errorf("it said %+v of %+v", said, i)
			}
		})
	}
	other := signer(t, elliptic.P384())
	b := fixture(t, "one-ramdisk.eif")
	for name, s := range map[string]eif.Signer{"P-256": signer(t, elliptic.P256()), "another's certificate": {Key: s.Key, Certificate: other.Certificate}} {
		if _, err := eif.Sign(t.Context(), create(t), bytes.NewReader(b), int64(len(b)), s); !errors.Is(err, eif.ErrSigner) {
			t.Errorf("%s: %v", name, err)
		}
	}
}

func TestImageThatChangesWhileItIsSigned(t *testing.T) {
	b := fixture(t, "one-ramdisk.eif")
	c := &swapped{first: b, second: append([]byte{}, b...)}
	c.second[700] ^= 1
	if _, err := eif.Sign(t.Context(), create(t), c, int64(len(b)), signer(t, elliptic.P384())); !errors.Is(err, eif.ErrFormat) {
		t.Errorf("got %v", err)
	}
}

// swapped is another image once it was read to its end.
type swapped struct {
	first, second []byte
	ended         bool
}

func (s *swapped) ReadAt(p []byte, off int64) (int, error) {
	b := s.first
	if s.ended {
		b = s.second
	}
	n := copy(p, b[off:])
	s.ended = s.ended || off+int64(n) == int64(len(b))
	return n, nil
}

func TestPartsThatAreRefused(t *testing.T) {
	sound := func() eif.Parts { return parts(t, 2) }
	for _, tt := range []struct {
		name   string
		change func(*eif.Parts)
		want   error
	}{
		{"no ramdisk", func(p *eif.Parts) { p.Ramdisks = nil }, eif.ErrFormat},
		{"too many ramdisks", func(p *eif.Parts) {
			for len(p.Ramdisks) < 30 {
				p.Ramdisks = append(p.Ramdisks, part([]byte("x")))
			}
		}, eif.ErrTooLarge},
		{"empty ramdisk", func(p *eif.Parts) { p.Ramdisks[1] = part(nil) }, eif.ErrFormat},
		{"negative size", func(p *eif.Parts) { p.Kernel.Size = -1 }, eif.ErrFormat},
		{"empty command line", func(p *eif.Parts) { p.Cmdline = "" }, eif.ErrFormat},
		{"line feed in the command line", func(p *eif.Parts) { p.Cmdline = "quiet\ninit=/x" }, eif.ErrFormat},
		{"NUL in the command line", func(p *eif.Parts) { p.Cmdline = "quiet\x00" }, eif.ErrFormat},
		{"long command line", func(p *eif.Parts) { p.Cmdline = string(bytes.Repeat([]byte("x"), 2048)) }, eif.ErrTooLarge},
		{"part that is shorter than it says", func(p *eif.Parts) { p.Kernel.Size++ }, eif.ErrFormat},
		{"more than 4 GiB", func(p *eif.Parts) { p.Ramdisks[0].Size = 4 << 30 }, eif.ErrTooLarge},
		{"long name", func(p *eif.Parts) { p.Name = string(make([]byte, 64<<10)) }, eif.ErrTooLarge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			p := sound()
			tt.change(&p)
			if _, err := eif.Write(t.Context(), create(t), p); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

var errBroken = errors.New("broken")

func TestErrorsOfOthersPass(t *testing.T) {
	b := fixture(t, "one-ramdisk.eif")
	broken := io.MultiReader(bytes.NewReader(b[:700]), failing{})
	if _, err := eif.Read(t.Context(), broken, nil); !errors.Is(err, errBroken) {
		t.Errorf("reader: %v", err)
	}
	if _, err := eif.Read(t.Context(), io.MultiReader(bytes.NewReader(b), failing{}), nil); !errors.Is(err, errBroken) {
		t.Errorf("reader at the end: %v", err)
	}
	to := func(eif.Section) (io.Writer, error) { return nil, errBroken }
	if _, err := eif.Read(t.Context(), bytes.NewReader(b), to); !errors.Is(err, errBroken) {
		t.Errorf("to: %v", err)
	}
	to = func(eif.Section) (io.Writer, error) { return failing{}, nil }
	if _, err := eif.Read(t.Context(), bytes.NewReader(b), to); !errors.Is(err, errBroken) {
		t.Errorf("writer: %v", err)
	}
	ctx, cancel := context.WithCancel(t.Context())
	cancel()
	if _, err := eif.Read(ctx, bytes.NewReader(b), nil); !errors.Is(err, context.Canceled) {
		t.Errorf("context: %v", err)
	}
}

type failing struct{}

func (failing) Read([]byte) (int, error)  { return 0, errBroken }
func (failing) Write([]byte) (int, error) { return 0, errBroken }

// Large sections are hashed by several goroutines: in pieces of any size they must give what
// they give at once.
func TestLargeImage(t *testing.T) {
	big := make([]byte, 5<<20+17)
	for i := range big {
		big[i] = byte(i * 7 >> 3)
	}
	p := eif.Parts{Kernel: part(big[:3<<20]), Cmdline: cmdline, Ramdisks: []eif.Part{part(big), part(big[1:]), part(big[2:])}}
	b, m := write(t, p)
	i, err := eif.Read(t.Context(), struct{ io.Reader }{bytes.NewReader(b)}, nil)
	if err != nil {
		t.Fatal(err)
	}
	if i.Measurements != m || m != plainly(big[:3<<20], big, big[1:], big[2:]) {
		t.Errorf("%+v, written as %+v", i.Measurements, m)
	}
}
