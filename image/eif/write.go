package eif

import (
	"context"
	"encoding/json"
	"fmt"
	"io"
	"strings"
)

// Part is a part of an image to be written: exactly Size bytes are read from Content.
type Part struct {
	Content io.Reader
	Size    int64
}

// Parts are what an image is made of.
type Parts struct {
	Kernel Part
	// Cmdline is the kernel's command line, without a NUL.
	Cmdline string
	// Ramdisks: the first is in PCR1, the others are in PCR2.
	Ramdisks []Part
	// Name and Version stand in the metadata, which nothing measures.
	Name, Version string
	// Memory in bytes and CPUs of an enclave that nobody gave others; zero: 1 GiB and 2.
	Memory, CPUs uint64
	// ARM64: the kernel is for aarch64.
	ARM64 bool
}

// What AWS's builder asks for.
const (
	defaultMemory = 1 << 30
	defaultCPUs   = 2
)

// Write writes an unsigned image to w, which stands at the beginning of an empty file, and
// returns its measurements. The same parts give the same bytes. Errors match ErrFormat,
// ErrTooLarge, or come from the parts, w or ctx.
func Write(ctx context.Context, w io.WriteSeeker, p Parts) (Measurements, error) {
	if err := checkCmdline(p.Cmdline); err != nil {
		return Measurements{}, err
	}
	meta, err := metadata(p.Name, p.Version)
	if err != nil {
		return Measurements{}, err
	}
	h := header{memory: p.Memory, cpus: p.CPUs}
	if p.ARM64 {
		h.flags |= flagARM64
	}
	if h.memory == 0 {
		h.memory = defaultMemory
	}
	if h.cpus == 0 {
		h.cpus = defaultCPUs
	}
	f := file{header: &h}
	f.add(Kernel, p.Kernel)
	f.add(Cmdline, text(p.Cmdline))
	f.add(Metadata, text(meta))
	for _, r := range p.Ramdisks {
		f.add(Ramdisk, r)
	}
	if len(p.Ramdisks) == 0 {
		return Measurements{}, fmt.Errorf("%w: it needs a ramdisk", ErrFormat)
	}
	return f.write(ctx, w)
}

func text(s string) Part { return Part{strings.NewReader(s), int64(len(s))} }

// metadata is the least that AWS's library reads: nothing in it changes from build to
// build but what the caller gave.
func metadata(name, version string) (string, error) {
	type build struct {
		BuildTime, BuildTool, BuildToolVersion, OperatingSystem, KernelVersion string
	}
	b, err := json.Marshal(struct {
		ImageName, ImageVersion    string
		BuildMetadata              build
		DockerInfo, CustomMetadata struct{}
	}{ImageName: name, ImageVersion: version})
	return string(b), err
}

// file is an image to be written.
type file struct {
	*header
	content []io.Reader
}

func (f *file) add(k Kind, p Part) {
	f.sections = append(f.sections, Section{Kind: k, Size: p.Size})
	f.content = append(f.content, p.Content)
}

// write writes the sections in one pass, then the checksum into the head.
func (f *file) write(ctx context.Context, w io.WriteSeeker) (Measurements, error) {
	for _, s := range f.sections {
		if err := s.Kind.checkSize(s.Size); err != nil {
			return Measurements{}, err
		}
	}
	if err := f.place(); err != nil {
		return Measurements{}, err
	}
	if _, err := w.Write(f.encode(0)); err != nil {
		return Measurements{}, fmt.Errorf("writing header: %w", err)
	}
	m := newMeter(f.sum())
	for i, s := range f.sections {
		head := s.encode()
		m.head(head)
		if _, err := w.Write(head); err != nil {
			return Measurements{}, fmt.Errorf("writing %s: %w", s.Kind, err)
		}
		if err := m.section(ctx, s, f.content[i], w); err != nil {
			return Measurements{}, err
		}
	}
	if _, err := w.Seek(0, io.SeekStart); err != nil {
		return Measurements{}, fmt.Errorf("writing header: %w", err)
	}
	if _, err := w.Write(f.encode(m.crc)); err != nil {
		return Measurements{}, fmt.Errorf("writing header: %w", err)
	}
	return m.measurements(), nil
}
