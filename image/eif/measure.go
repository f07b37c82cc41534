package eif

import (
	"context"
	"crypto/sha512"
	"fmt"
	"hash"
	"hash/crc32"
	"io"
	"sync"

	"github.com/cape-functions/cape/core/attest/nitro"
)

// Measurements are the registers that an image decides.
type Measurements struct {
	PCR0 nitro.PCR // kernel, command line and all ramdisks
	PCR1 nitro.PCR // kernel, command line and the first ramdisk
	PCR2 nitro.PCR // the other ramdisks
	PCR8 nitro.PCR // certificate of the signer; zero: the image is unsigned
}

// HashAlgorithm is what nitro-cli calls SHA-384.
const HashAlgorithm = "Sha384 { ... }"

// Map returns the measurements as nitro-cli writes them: "HashAlgorithm", "PCR0",
// "PCR1", "PCR2" and, if the image is signed, "PCR8".
func (m Measurements) Map() map[string]string {
	out := map[string]string{"HashAlgorithm": HashAlgorithm}
	for i, v := range m.PCRs() {
		out[fmt.Sprintf("PCR%d", i)] = v.String()
	}
	return out
}

// PCRs returns the measurements by index; 8 is there only if the image is signed.
func (m Measurements) PCRs() map[int]nitro.PCR {
	out := map[int]nitro.PCR{0: m.PCR0, 1: m.PCR1, 2: m.PCR2}
	if !m.PCR8.IsZero() {
		out[8] = m.PCR8
	}
	return out
}

// chunk is how much is read at once. Below alone, a chunk is not worth a goroutine.
const (
	chunk = 1 << 20
	alone = 64 << 10
)

// meter takes the sections of one image in their order. What PCR1 covers is where
// PCR0 begins, so those bytes are hashed once.
type meter struct {
	all, others hash.Hash
	first       nitro.PCR
	ramdisks    int
	crc         uint32
	bufs        [2][]byte
}

func newMeter(crc uint32) *meter {
	return &meter{all: sha512.New384(), others: sha512.New384(), crc: crc}
}

// head adds bytes that only the checksum covers.
func (m *meter) head(b []byte) { m.crc = crc32.Update(m.crc, crc32.IEEETable, b) }

// section reads a section's content, adds it, and writes it to w unless w is nil.
func (m *meter) section(ctx context.Context, s Section, r io.Reader, w io.Writer) error {
	if s.Kind == Ramdisk {
		m.ramdisks++
	}
	left := s.Size
	read := func(i int) ([]byte, error) {
		n := min(left, chunk)
		if int64(len(m.bufs[i])) < n {
			m.bufs[i] = make([]byte, n)
		}
		b := m.bufs[i][:n]
		left -= n
		if _, err := io.ReadFull(r, b); err != nil {
			return nil, fmt.Errorf("reading %s: %w", s.Kind, cutShort(err))
		}
		return b, ctx.Err()
	}
	b, err := read(0)
	for i := 1; err == nil && len(b) > 0; i ^= 1 {
		var next []byte
		if failed := m.add(s.Kind, b, w, func() { next, err = read(i) }); failed != nil {
			return fmt.Errorf("writing %s: %w", s.Kind, failed)
		}
		b = next
	}
	if err != nil {
		return err
	}
	if s.Kind == Ramdisk && m.ramdisks == 1 {
		m.first = finish(m.all)
	}
	return nil
}

// add hashes and writes one chunk while the next is read, all side by side.
func (m *meter) add(k Kind, b []byte, w io.Writer, next func()) (err error) {
	write := func() {
		if w != nil {
			_, err = w.Write(b)
		}
	}
	second := func() {
		m.head(b)
		if k == Ramdisk && m.ramdisks > 1 {
			m.others.Write(b)
		}
	}
	measured := func() {
		if k == Kernel || k == Cmdline || k == Ramdisk {
			m.all.Write(b)
		}
	}
	if len(b) < alone {
		write()
		second()
		measured()
		next()
		return err
	}
	var g sync.WaitGroup
	g.Go(next)
	g.Go(write)
	g.Go(second)
	measured()
	g.Wait()
	return err
}

func (m *meter) measurements() Measurements {
	return Measurements{PCR0: finish(m.all), PCR1: m.first, PCR2: finish(m.others)}
}

// finish is a register's value after the content that h took: the hash of 48 zero
// bytes and of the content's own hash. More can be added to h afterwards.
func finish(h hash.Hash) nitro.PCR { return nitro.Extend(nitro.PCR{}, h.Sum(nil)) }
