package eif

import (
	"bytes"
	"context"
	"crypto/sha512"
	"crypto/x509"
	"encoding/binary"
	"errors"
	"fmt"
	"io"
	"slices"
	"strings"

	"github.com/cape-functions/cape/core/attest/nitro"
)

// Image is what an image says of itself, as far as it was verified.
type Image struct {
	// ARM64: for aarch64; otherwise for x86_64.
	ARM64 bool
	// Memory in bytes and CPUs that the image asks for; what it gets is decided elsewhere.
	Memory, CPUs uint64
	Cmdline      string
	Sections     []Section
	Size         int64
	Measurements Measurements
	// Certificate of the signer, nil if the image is unsigned. Who that is, and
	// whether the certificate is valid now, is for the caller to judge.
	Certificate *x509.Certificate

	flags uint16
}

// DevelopmentMark is the word on the command line by which a development image is known.
// PCR0 and PCR1 cover it.
const DevelopmentMark = "cape.development"

// Development tells whether the command line marks the image as one for development.
func (i *Image) Development() bool {
	return slices.Contains(strings.Fields(i.Cmdline), DevelopmentMark)
}

// Ramdisks is their number.
func (i *Image) Ramdisks() int {
	n := 0
	for _, s := range i.Sections {
		if s.Kind == Ramdisk {
			n++
		}
	}
	return n
}

// Read reads a whole image from r, and verifies its form, checksum and signature.
// to, unless nil, is asked for each section where its content is to be written; a nil
// writer skips it. What was written is worth nothing if Read fails. Errors match
// ErrFormat, ErrTooLarge, ErrChecksum, ErrSignature, or come from r, to or ctx.
func Read(ctx context.Context, r io.Reader, to func(Section) (io.Writer, error)) (*Image, error) {
	head := make([]byte, headerSize)
	if _, err := io.ReadFull(r, head); err != nil {
		return nil, fmt.Errorf("reading header: %w", cutShort(err))
	}
	h, crc, err := parseHeader(head)
	if err != nil {
		return nil, err
	}
	p := reading{header: h, r: r, to: to, meter: newMeter(h.sum()), image: &Image{
		ARM64: h.flags&flagARM64 != 0, Memory: h.memory, CPUs: h.cpus, flags: h.flags, Size: headerSize}}
	for i := range h.sections {
		if err := p.section(ctx, i); err != nil {
			return nil, err
		}
	}
	return p.finish(crc)
}

// Measure returns the measurements of the image that r holds; it verifies all that Read does.
func Measure(ctx context.Context, r io.Reader) (Measurements, error) {
	i, err := Read(ctx, r, nil)
	if err != nil {
		return Measurements{}, err
	}
	return i.Measurements, nil
}

// reading is the state of Read between sections.
type reading struct {
	*header
	r         io.Reader
	to        func(Section) (io.Writer, error)
	meter     *meter
	image     *Image
	before    Kind
	cmdline   bytes.Buffer
	signature bytes.Buffer
}

func (p *reading) section(ctx context.Context, i int) error {
	head := make([]byte, sectionSize)
	if _, err := io.ReadFull(p.r, head); err != nil {
		return fmt.Errorf("reading section %d: %w", i, cutShort(err))
	}
	s := p.sections[i]
	s.Kind = Kind(binary.BigEndian.Uint16(head))
	if string(s.encode()) != string(head) {
		return fmt.Errorf("%w: section %d has another size than the header says, or flags", ErrFormat, i)
	}
	if !s.Kind.follows(p.before) {
		return fmt.Errorf("%w: a %s cannot be section %d here", ErrFormat, s.Kind, i)
	}
	if err := s.Kind.checkSize(s.Size); err != nil {
		return err
	}
	w, err := p.writer(s)
	if err != nil {
		return err
	}
	p.before = s.Kind
	p.meter.head(head)
	p.image.Sections = append(p.image.Sections, s)
	p.image.Size = s.Offset + s.Size
	return p.meter.section(ctx, s, p.r, w)
}

// writer is where a section's content goes: what is parsed is kept.
func (p *reading) writer(s Section) (io.Writer, error) {
	var w io.Writer
	if p.to != nil {
		var err error
		if w, err = p.to(s); err != nil {
			return nil, err
		}
	}
	kept := map[Kind]*bytes.Buffer{Cmdline: &p.cmdline, Signature: &p.signature}[s.Kind]
	switch {
	case kept == nil:
		return w, nil
	case w == nil:
		return kept, nil
	}
	return io.MultiWriter(kept, w), nil
}

func (p *reading) finish(crc uint32) (*Image, error) {
	if p.before != Ramdisk && p.before != Signature {
		return nil, fmt.Errorf("%w: it ends behind the %s: kernel, command line, metadata and a ramdisk must be there", ErrFormat, p.before)
	}
	if _, err := io.ReadFull(p.r, make([]byte, 1)); !errors.Is(err, io.EOF) {
		return nil, errors.Join(fmt.Errorf("%w: bytes behind the last section", ErrFormat), err)
	}
	if crc != p.meter.crc {
		return nil, fmt.Errorf("%w: its CRC32 is %08x, the header says %08x", ErrChecksum, p.meter.crc, crc)
	}
	p.image.Cmdline = p.cmdline.String()
	if err := checkCmdline(p.image.Cmdline); err != nil {
		return nil, err
	}
	p.image.Measurements = p.meter.measurements()
	if p.before == Signature {
		cert, err := verify(p.signature.Bytes(), p.image.Measurements.PCR0)
		if err != nil {
			return nil, err
		}
		p.image.Certificate, p.image.Measurements.PCR8 = cert, certificatePCR(cert)
	}
	return p.image, nil
}

// certificatePCR is PCR8 of an image that the owner of cert signed.
func certificatePCR(cert *x509.Certificate) nitro.PCR {
	sum := sha512.Sum384(cert.Raw)
	return nitro.Extend(nitro.PCR{}, sum[:])
}

// cutShort makes the end of a file where more should be an error of its own.
func cutShort(err error) error {
	if errors.Is(err, io.EOF) || errors.Is(err, io.ErrUnexpectedEOF) {
		return fmt.Errorf("%w: it is cut short", ErrFormat)
	}
	return err
}
