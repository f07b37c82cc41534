package eif

import (
	"encoding/binary"
	"errors"
	"fmt"
	"hash/crc32"

	"github.com/cape-functions/cape/core/wire"
)

// Sizes of the fixed parts, in bytes.
const (
	headerSize  = 548
	sectionSize = 12 // of a section's own header
	maxSections = 32
	version     = 4
	flagARM64   = 1
)

var magic = [4]byte{'.', 'e', 'i', 'f'}

var (
	// ErrFormat: the file is not an enclave image as AWS's library writes them.
	ErrFormat = errors.New("not a sound enclave image")
	// ErrTooLarge: an image, or a part of one, is over its limit.
	ErrTooLarge = errors.New("enclave image is too large")
	// ErrChecksum: the image is damaged; its CRC32 is another.
	ErrChecksum = errors.New("enclave image is damaged")
	// ErrSignature: the signature is malformed or does not verify.
	ErrSignature = errors.New("enclave image's signature does not verify")
	// ErrSigner: key and certificate do not fit each other, or are not for P-384.
	ErrSigner = errors.New("not a signing key and its certificate")
)

// Kind is the type of a section, by its number in the file.
type Kind uint16

// The kinds, in the order in which they stand in an image but for Signature, which
// is last. Kernel, Cmdline and Ramdisk are measured.
const (
	Kernel    Kind = 1
	Cmdline   Kind = 2
	Metadata  Kind = 5
	Ramdisk   Kind = 3
	Signature Kind = 4
)

// String implements fmt.Stringer.
func (k Kind) String() string {
	switch k {
	case Kernel:
		return "kernel"
	case Cmdline:
		return "command line"
	case Metadata:
		return "metadata"
	case Ramdisk:
		return "ramdisk"
	case Signature:
		return "signature"
	}
	return fmt.Sprintf("section of type %d", uint16(k))
}

// follows tells whether a section of kind k may stand behind one of kind before (0:
// at the beginning).
func (k Kind) follows(before Kind) bool {
	switch k {
	case Kernel:
		return before == 0
	case Cmdline:
		return before == Kernel
	case Metadata:
		return before == Cmdline
	case Ramdisk:
		return before == Metadata || before == Ramdisk
	case Signature:
		return before == Ramdisk
	}
	return false
}

func (k Kind) limit() int64 {
	switch k {
	case Kernel:
		return wire.MaxEIFKernel
	case Cmdline:
		return wire.MaxEIFCmdline
	case Metadata:
		return wire.MaxEIFMetadata
	case Signature:
		return wire.MaxEIFSignature
	}
	return wire.MaxEIF
}

func (k Kind) checkSize(n int64) error {
	switch {
	case n <= 0:
		return fmt.Errorf("%w: %s of %d bytes", ErrFormat, k, n)
	case n > k.limit():
		return fmt.Errorf("%w: %s of %d bytes, %d are allowed", ErrTooLarge, k, n, k.limit())
	}
	return nil
}

// Section is where one part lies in an image.
type Section struct {
	Kind Kind
	// Offset of the content in the file, and its size, in bytes.
	Offset, Size int64
}

// header is the head of a file without what follows from the sections.
type header struct {
	flags        uint16
	memory, cpus uint64
	sections     []Section
}

// encode writes the head with the given checksum.
func (h *header) encode(crc uint32) []byte {
	b := make([]byte, 0, headerSize)
	b = append(b, magic[:]...)
	b = binary.BigEndian.AppendUint16(b, version)
	b = binary.BigEndian.AppendUint16(b, h.flags)
	b = binary.BigEndian.AppendUint64(b, h.memory)
	b = binary.BigEndian.AppendUint64(b, h.cpus)
	b = binary.BigEndian.AppendUint16(b, 0)
	b = binary.BigEndian.AppendUint16(b, uint16(len(h.sections)))
	var offsets, sizes [maxSections]uint64
	for i, s := range h.sections {
		offsets[i], sizes[i] = uint64(s.Offset-sectionSize), uint64(s.Size)
	}
	for _, list := range [][maxSections]uint64{offsets, sizes} {
		for _, v := range list {
			b = binary.BigEndian.AppendUint64(b, v)
		}
	}
	b = binary.BigEndian.AppendUint32(b, 0)
	return binary.BigEndian.AppendUint32(b, crc)
}

// sum is the CRC32 so far: of the head without the field for it.
func (h *header) sum() uint32 { return crc32.ChecksumIEEE(h.encode(0)[:headerSize-4]) }

// place computes the sections' offsets from their sizes, and checks the whole.
func (h *header) place() error {
	if n := len(h.sections); n > maxSections {
		return fmt.Errorf("%w: %d sections, %d are allowed", ErrTooLarge, n, maxSections)
	}
	at := int64(headerSize)
	for i, s := range h.sections {
		at += sectionSize
		h.sections[i].Offset = at
		if s.Size < 0 || s.Size > wire.MaxEIF-at {
			return fmt.Errorf("%w: %d bytes are allowed", ErrTooLarge, int64(wire.MaxEIF))
		}
		at += s.Size
	}
	return nil
}

// parseHeader reads the head. The kinds of its sections are not known yet.
func parseHeader(b []byte) (h *header, crc uint32, err error) {
	if [4]byte(b) != magic {
		return nil, 0, fmt.Errorf("%w: it does not begin with %q", ErrFormat, magic)
	}
	if v := binary.BigEndian.Uint16(b[4:]); v != version {
		return nil, 0, fmt.Errorf("%w: format version %d, only %d is known", ErrFormat, v, version)
	}
	n := int(binary.BigEndian.Uint16(b[26:]))
	if n > maxSections {
		return nil, 0, fmt.Errorf("%w: %d sections, at most %d can be", ErrFormat, n, maxSections)
	}
	h = &header{flags: binary.BigEndian.Uint16(b[6:]), memory: binary.BigEndian.Uint64(b[8:]), cpus: binary.BigEndian.Uint64(b[16:])}
	if h.flags&^flagARM64 != 0 {
		return nil, 0, fmt.Errorf("%w: unknown flags %#x", ErrFormat, h.flags)
	}
	for i := range n {
		size := binary.BigEndian.Uint64(b[28+8*maxSections+8*i:])
		if size > wire.MaxEIF {
			return nil, 0, fmt.Errorf("%w: a section of %d bytes", ErrTooLarge, size)
		}
		h.sections = append(h.sections, Section{Size: int64(size)})
	}
	if err := h.place(); err != nil {
		return nil, 0, err
	}
	crc = binary.BigEndian.Uint32(b[headerSize-4:])
	if string(h.encode(crc)) != string(b) {
		return nil, 0, fmt.Errorf("%w: offsets are not where sections are, or unused fields are not zero", ErrFormat)
	}
	return h, crc, nil
}

func (s Section) encode() []byte {
	b := binary.BigEndian.AppendUint16(make([]byte, 0, sectionSize), uint16(s.Kind))
	b = binary.BigEndian.AppendUint16(b, 0)
	return binary.BigEndian.AppendUint64(b, uint64(s.Size))
}

// checkCmdline: what a kernel takes, and nothing that a terminal or a C string minds.
func checkCmdline(s string) error {
	for _, r := range []byte(s) {
		if r < ' ' || r > '~' {
			return fmt.Errorf("%w: the command line holds byte %#x; printable ASCII is allowed", ErrFormat, r)
		}
	}
	return nil
}
