package eif_test

import (
	"bytes"
	"crypto/elliptic"
	"crypto/sha512"
	"encoding/binary"
	"encoding/pem"
	"errors"
	"hash/crc32"
	"testing"

	"github.com/cape-functions/cape/core/attest/nitro"
	"github.com/cape-functions/cape/image/eif"
)

const (
	headerSize = 548
	crcAt      = 544
)

// mend makes the checksum right again.
func mend(b []byte) []byte {
	crc := crc32.Update(crc32.ChecksumIEEE(b[:crcAt]), crc32.IEEETable, b[headerSize:])
	binary.BigEndian.PutUint32(b[crcAt:], crc)
	return b
}

// plainly measures as the specification says, without streaming.
func plainly(kernel []byte, ramdisks ...[]byte) eif.Measurements {
	pcr := func(content ...[]byte) nitro.PCR {
		sum := sha512.Sum384(bytes.Join(content, nil))
		return nitro.Extend(nitro.PCR{}, sum[:])
	}
	base := append(append([]byte{}, kernel...), cmdline...)
	return eif.Measurements{PCR0: pcr(append([][]byte{base}, ramdisks...)...), PCR1: pcr(base, ramdisks[0]), PCR2: pcr(ramdisks[1:]...)}
}

func TestEveryFlippedByteIsSeen(t *testing.T) {
	b := fixture(t, "signed-three-ramdisks.eif")
	for i := range b {
		b[i] ^= 0x20
		if _, err := read(b); err == nil {
			t.Errorf("byte %d", i)
		}
		b[i] ^= 0x20
	}
}

// With a checksum that somebody mended, the signature still covers all but what no
// register covers: memory, CPUs and metadata. A certificate can be another one of the same key;
// then PCR8 is another.
func TestEveryFlippedByteBreaksTheSignature(t *testing.T) {
	b := fixture(t, "signed-three-ramdisks.eif")
	want, err := read(b)
	if err != nil {
		t.Fatal(err)
	}
	for i := range b {
		free := i >= 8 && i < 24 || i >= 3612+12 && i < 3806 || i >= crcAt && i < headerSize
		c := append([]byte{}, b...)
		c[i] ^= 0x20
		got, err := read(mend(c))
		same := err == nil && got.Measurements == want.Measurements
		if same != free {
			t.Errorf("byte %d: %v", i, err)
		}
	}
}

func TestEveryCutIsSeen(t *testing.T) {
	b := fixture(t, "signed-three-ramdisks.eif")
	for i := range b {
		if _, err := read(b[:i]); !errors.Is(err, eif.ErrFormat) {
			t.Fatalf("cut at %d: %v", i, err)
		}
	}
}

// raw builds an image by hand.
type raw struct {
	kinds   []uint16
	content [][]byte
	head    func(b []byte)
	tail    []byte
}

func (r raw) bytes() []byte {
	b := make([]byte, headerSize)
	copy(b, ".eif\x00\x04")
	binary.BigEndian.PutUint16(b[26:], uint16(len(r.kinds)))
	for i, k := range r.kinds {
		binary.BigEndian.PutUint64(b[28+8*(i%32):], uint64(len(b)))
		binary.BigEndian.PutUint64(b[28+256+8*(i%32):], uint64(len(r.content[i])))
		b = binary.BigEndian.AppendUint16(b, k)
		b = binary.BigEndian.AppendUint16(b, 0)
		b = binary.BigEndian.AppendUint64(b, uint64(len(r.content[i])))
		b = append(b, r.content[i]...)
	}
	b = append(b, r.tail...)
	if r.head != nil {
		r.head(b)
	}
	return mend(b)
}

func image(kinds ...uint16) raw {
	r := raw{kinds: kinds}
	for range kinds {
		r.content = append(r.content, []byte("x"))
	}
	return r
}

func TestMalformed(t *testing.T) {
	sound := func(change func(b []byte)) raw {
		r := image(1, 2, 5, 3, 3)
		r.head = change
		return r
	}
	many := make([]uint16, 33)
	for i := range many {
		many[i] = 3
	}
	copy(many, []uint16{1, 2, 5})
	with := func(i int, content []byte) raw {
		r := image(1, 2, 5, 3, 3)
		r.content[i] = content
		return r
	}
	for _, tt := range []struct {
		name string
		r    raw
		want error
	}{
		{"sound", image(1, 2, 5, 3), nil},
		{"sound, for ARM", sound(func(b []byte) { b[7] = 1 }), nil},
		{"sound, with 32 sections", image(many[:32]...), nil},
		{"metadata is not looked at", with(2, []byte("{]")), nil},
		{"33 sections", image(many...), eif.ErrFormat},
		{"no sections", image(), eif.ErrFormat},
		{"no ramdisk", image(1, 2, 5), eif.ErrFormat},
		{"no metadata", image(1, 2, 3), eif.ErrFormat},
		{"no command line", image(1, 5, 3), eif.ErrFormat},
		{"no kernel", image(2, 5, 3), eif.ErrFormat},
		{"two kernels", image(1, 1, 2, 5, 3), eif.ErrFormat},
		{"two command lines", image(1, 2, 2, 5, 3), eif.ErrFormat},
		{"kernel at the end", image(1, 2, 5, 3, 1), eif.ErrFormat},
		{"metadata twice", image(1, 2, 5, 3, 5), eif.ErrFormat},
		{"ramdisk before metadata", image(1, 2, 3, 5), eif.ErrFormat},
		{"signature without ramdisks", image(1, 2, 5, 4), eif.ErrFormat},
		{"ramdisk behind the signature", image(1, 2, 5, 3, 4, 3), eif.ErrFormat},
		{"type 0", image(1, 2, 5, 3, 0), eif.ErrFormat},
		{"type 6", image(1, 2, 5, 3, 6), eif.ErrFormat},
		{"empty section", with(4, nil), eif.ErrFormat},
		{"bytes behind the end", raw{kinds: []uint16{1, 2, 5, 3}, content: image(1, 2, 5, 3).content, tail: []byte{0}}, eif.ErrFormat},
		{"another magic", sound(func(b []byte) { b[3] = 'F' }), eif.ErrFormat},
		{"version 3", sound(func(b []byte) { b[5] = 3 }), eif.ErrFormat},
		{"unknown flag", sound(func(b []byte) { b[7] = 2 }), eif.ErrFormat},
		{"reserved field", sound(func(b []byte) { b[25] = 1 }), eif.ErrFormat},
		{"unused field", sound(func(b []byte) { b[543] = 1 }), eif.ErrFormat},
		{"unused offset", sound(func(b []byte) { b[28+8*31] = 1 }), eif.ErrFormat},
		{"unused size", sound(func(b []byte) { b[28+256+8*31+7] = 1 }), eif.ErrFormat},
		{"offset elsewhere", sound(func(b []byte) { b[28+8*4+7]++ }), eif.ErrFormat},
		{"overlapping sections", sound(func(b []byte) { copy(b[28+8*4:], b[28+8*3:28+8*4]) }), eif.ErrFormat},
		{"flags of a section", sound(func(b []byte) { b[headerSize+3] = 1 }), eif.ErrFormat},
		{"size of a section that the header contradicts", sound(func(b []byte) { b[headerSize+11] = 2 }), eif.ErrFormat},
		{"section of 2^63 bytes", sound(func(b []byte) { b[28+256] = 0x80 }), eif.ErrTooLarge},
		{"sections of 2^64 bytes together", sound(func(b []byte) { copy(b[28+256:], "\xff\xff\xff\xff\xff\xff\xff\xff") }), eif.ErrTooLarge},
		{"more than 4 GiB together", sound(func(b []byte) { b[28+256+3], b[28+256+8+3] = 2, 2 }), eif.ErrTooLarge},
		{"long command line", with(1, bytes.Repeat([]byte("x"), 2048)), eif.ErrTooLarge},
		{"line feed in the command line", with(1, []byte("a\nb")), eif.ErrFormat},
		{"NUL behind the command line", with(1, []byte("a\x00")), eif.ErrFormat},
		{"much metadata", with(2, make([]byte, 64<<10+1)), eif.ErrTooLarge},
	} {
		t.Run(tt.name, func(t *testing.T) {
			if _, err := read(tt.r.bytes()); !errors.Is(err, tt.want) {
				t.Errorf("got %v, want %v", err, tt.want)
			}
		})
	}
}

// A signature section is only what AWS's library would have written.
func TestMalformedSignatures(t *testing.T) {
	b := fixture(t, "signed-three-ramdisks.eif")
	section := b[6131+12:]
	resigned := create(t)
	if _, err := eif.Sign(t.Context(), resigned, bytes.NewReader(b), int64(len(b)), signer(t, elliptic.P384())); err != nil {
		t.Fatal(err)
	}
	foreign := content(t, resigned)[6131+12:]
	replace := func(old, new string) []byte {
		if n := bytes.Count(section, []byte(old)); n != 1 {
			t.Fatalf("%q is there %d times", old, n)
		}
		return bytes.Replace(section, []byte(old), []byte(new), 1)
	}
	at := bytes.Index(section, []byte("isignature"))
	if at < 0 {
		t.Fatal("no signature")
	}
	for _, tt := range []struct {
		name    string
		section []byte
		ok      bool
	}{
		{"the same", section, true},
		{"another signer's", foreign, true},
		{"certificate of one, signature of another", append(append([]byte{}, foreign[:bytes.Index(foreign, []byte("isignature"))]...), section[at:]...), false},
		{"nothing", []byte{0x80}, false},
		{"two entries", append(append([]byte{0x82}, section[1:]...), section[1:]...), false},
		{"an array of another length of head", append([]byte{0x98, 1}, section[1:]...), false},
		{"indefinite array", append(append([]byte{0x9f}, section[1:]...), 0xff), false},
		{"trailing byte", append(append([]byte{}, section...), 0), false},
		{"unknown field", replace("\x81\xa2", "\x81\xa3ax\x00"), false},
		{"field in capitals", replace("isignature", "iSignature"), false},
		{"number over 255", replace("isignature\x98\xe9\x18\x84", "isignature\x98\xe9\x19\x01\x84"), false},
		{"byte string", []byte("\x81\xa2ssigning_certificate\x41xisignature\x41x"), false},
		{"algorithm ES256", replace("\x18\xa1\x01\x18\x38\x18\x22", "\x18\xa1\x01\x18\x26"), false},
		{"null", []byte{0xf6}, false},
	} {
		t.Run(tt.name, func(t *testing.T) {
			r := raw{kinds: []uint16{1, 2, 5, 3, 3, 3, 4}}
			for _, s := range [][2]int{{560, 3001}, {3573, 39}, {3624, 182}, {3818, 777}, {4607, 1500}, {6119, 12}} {
				r.content = append(r.content, b[s[0]:s[0]+s[1]])
			}
			r.content = append(r.content, tt.section)
			_, err := read(r.bytes())
			if tt.ok && err != nil || !tt.ok && !errors.Is(err, eif.ErrSignature) {
				t.Errorf("got %v", err)
			}
		})
	}
	if block, _ := pem.Decode(fixture(t, "sign-cert.pem")); block == nil {
		t.Error("no certificate beside the fixture")
	} else if i, err := read(b); err != nil || !bytes.Equal(i.Certificate.Raw, block.Bytes) {
		t.Errorf("another certificate: %v", err)
	}
}
