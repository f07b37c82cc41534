package eif_test

import (
	"bytes"
	"io"
	"testing"

	"github.com/cape-functions/cape/image/eif"
)

// FuzzRead: what is read can be written again, byte for byte, from the sections that were
// handed out, the metadata's included.
func FuzzRead(f *testing.F) {
	for _, k := range known {
		f.Add(fixture(f, k.name+".eif"))
	}
	f.Add(image(1, 2, 5, 3, 3).bytes())
	f.Add(image(1, 2, 5, 3, 4).bytes())
	f.Fuzz(func(t *testing.T, input []byte) {
		b := bytes.Clone(input)
		if len(b) >= headerSize {
			mend(b)
		}
		var sections [][]byte
		i, err := eif.Read(t.Context(), bytes.NewReader(b), func(s eif.Section) (io.Writer, error) {
			sections = append(sections, nil)
			at := len(sections) - 1
			return writer(func(p []byte) (int, error) {
				sections[at] = append(sections[at], p...)
				return len(p), nil
			}), nil
		})
		if err != nil {
			return
		}
		r := raw{content: sections, head: func(c []byte) { copy(c[6:26], b[6:26]) }}
		for _, s := range i.Sections {
			r.kinds = append(r.kinds, uint16(s.Kind))
		}
		if again := r.bytes(); !bytes.Equal(again, b) || i.Size != int64(len(b)) {
			t.Errorf("read %d bytes, written again %d other ones", len(b), len(again))
		}
	})
}

// FuzzSignature: a section that is taken encodes to itself, and only over the PCR0 of the image.
func FuzzSignature(f *testing.F) {
	b := fixture(f, "signed-three-ramdisks.eif")
	f.Add(b[6131+12:])
	f.Add([]byte{0x80})
	f.Fuzz(func(t *testing.T, section []byte) {
		if len(section) == 0 || len(section) > 64<<10 {
			return
		}
		r := image(1, 2, 5, 3, 4)
		r.content[4] = section
		if i, err := read(r.bytes()); err == nil {
			t.Errorf("a signature over %s was forged", i.Measurements.PCR0)
		}
	})
}
